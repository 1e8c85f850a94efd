#!/bin/sh
# Sessions that wait for each other: whoever writes last has the greatest stamp, and an apply that waited for a
# row merges with what it finds then.
# usage: writers.sh <bindir> <connection>
set -u

bindir=$1
connection=$2
database=pg_sync_writers
work=$(mktemp -d)

sql() {
    "$bindir/psql" -X -q -A -t -v ON_ERROR_STOP=1 "$connection dbname=$database" "$@"
}

# Waits until $1 sessions of this database wait for a lock, or until "idle in transaction" for $2.
until_waiting() {
    tries=0
    while [ "$(sql -c "select count(*) from pg_stat_activity where datname = '$database' and wait_event_type = 'Lock'")" -lt "$1" ]; do
        tries=$((tries + 1))
        [ "$tries" -lt 2000 ] || { echo "nobody waits for a lock"; exit 1; }
    done
}

# Waits until the first session has printed $1.
until_said() {
    tries=0
    until grep -qs "$1" "$work/one.out"; do
        tries=$((tries + 1))
        [ "$tries" -lt 20000 ] || { echo "the first session never said $1"; exit 1; }
    done
}

expect() {
    if [ "$2" != "$3" ]; then
        echo "$1: found '$2', wanted '$3'"
        failed=1
    fi
}

# A session that runs what is written to its pipe.
open_session() {
    mkfifo "$work/$1"
    "$bindir/psql" -X -q -A -t "$connection dbname=$database options='-c client_min_messages=error'" \
        < "$work/$1" > "$work/$1.out" 2>&1 &
    eval "pid_$1=\$!"
}

failed=0
"$bindir/psql" -X -q "$connection dbname=postgres" -c "drop database if exists $database" 2> /dev/null
"$bindir/psql" -X -q "$connection dbname=postgres" -c "create database $database template template0 encoding 'UTF8' locale 'C'" || exit 1
sql > /dev/null <<'SQL'
create extension pg_sync;
create schema author;
create table author.t (id integer primary key, a text, b text);
select cloudsync_init('author.t');
insert into author.t values (1, 'applied', 'applied'), (2, 'applied', 'applied');
create table payloads as select payload from cloudsync.snapshot_part(1, false, null, 10);
select cloudsync_cleanup('author.t');
create table t (id integer primary key, a text, b text);
select cloudsync_init('t');
insert into t values (3, 'old', 'old');
SQL

# A writer that waited has the greater stamp, though its statement began first.
open_session one
open_session two
exec 3> "$work/one" 4> "$work/two"
echo "begin; update t set a = 'one' where id = 3; select 'ready';" >&3
until_said ready
before=$(sql -c "select cloudsync.self_ordinal() is not null")
expect "session" "$before" t
echo "begin; select 'begun'; update t set a = 'two' where id = 3; commit; select 'done';" >&4
until_waiting 1
echo "update t set b = 'one later' where id = 3; create table first_stamp as select cols from cloudsync.meta_2 where key_1 = 3; commit;" >&3
until grep -q done "$work/two.out"; do :; done
expect "last writer" "$(sql -c "select a || ', ' || b from t where id = 3")" "two, one later"
expect "greater stamp" "$(sql -c "select m.cols[3] > f.cols[3] and m.cols[5] = f.cols[5] from cloudsync.meta_2 as m, first_stamp as f where key_1 = 3")" t

# An apply finds the row locked, waits, and merges with what was committed: the local write is later.
sql -c "insert into t values (1, 'local', 'local')"
echo "begin; update t set a = 'local, later' where id = 1; select 'locked';" >&3
until_said locked
echo "select 'applied ' || cloudsync_payload_apply(payload) from payloads;" >&4
until_waiting 1
echo "commit;" >&3
until grep -q applied "$work/two.out"; do :; done
expect "apply after a local write" "$(sql -c "select string_agg(id || ' ' || a || ' ' || b, ', ' order by id) from t where id < 3")" \
    "1 local, later local, 2 applied applied"

# A row appears while the apply wants to insert it: the merge is done again, nothing is refused.
sql -c "delete from t where id = 2; delete from cloudsync.meta_2 where key_1 = 2"
echo "begin; insert into t values (2, 'appeared', 'appeared'); select 'inserted';" >&3
until_said inserted
echo "select 'again ' || cloudsync_payload_apply(payload) from payloads;" >&4
until_waiting 1
echo "commit;" >&3
until grep -q again "$work/two.out"; do :; done
expect "apply against an insert" "$(sql -c "select a from t where id = 2")" "appeared"
expect "refused" "$(sql -c "select count(*) from cloudsync.rejected")" 0

# Two applies of the same payload at once.
sql -c "truncate t; delete from cloudsync.meta_2"
echo "begin; select 'held ' || cloudsync_payload_apply(payload) from payloads;" >&3
until_said held
echo "select 'second ' || cloudsync_payload_apply(payload) from payloads;" >&4
until_waiting 1
echo "commit;" >&3
until grep -q second "$work/two.out"; do :; done
expect "first of two" "$(grep held "$work/one.out")" "held 2"
expect "second of two" "$(grep second "$work/two.out")" "second 0"

exec 3>&- 4>&-
wait
"$bindir/psql" -X -q "$connection dbname=postgres" -c "drop database $database"
rm -rf "$work"
exit "$failed"
