#!/bin/sh
# Sessions that write one key at once, statement by statement, so that each is captured directly: in every order of
# statements, commits and rollbacks, metadata says what the table says, and whoever wrote later has the greater stamp. A
# case is two scripts; the second one's last statement waits for the first one's end.
# usage: direct.sh <bindir> <connection>
set -u

bindir=$1
connection=$2
database=pg_sync_direct
work=$(mktemp -d)
failed=0
step=0

sql() {
    "$bindir/psql" -X -q -A -t -v ON_ERROR_STOP=1 "$connection dbname=$database" "$@"
}

# Waits until $2 has said $1.
until_said() {
    tries=0
    until grep -qs "^$1\$" "$work/$2.out"; do
        tries=$((tries + 1))
        [ "$tries" -lt 50000 ] || { echo "session $2 never said $1:"; cat "$work/$2.out"; exit 1; }
    done
}

until_waiting() {
    tries=0
    while [ "$(sql -c "select count(*) from pg_stat_activity where datname = '$database' and wait_event_type = 'Lock'")" -lt 1 ]; do
        tries=$((tries + 1))
        [ "$tries" -lt 2000 ] || { echo "nobody waits for a lock"; exit 1; }
    done
}

expect() {
    if [ "$2" != "$3" ]; then
        echo "$1: found '$2', wanted '$3'"
        failed=1
    fi
}

open_session() {
    mkfifo "$work/$1"
    "$bindir/psql" -X -q -A -t "$connection dbname=$database options='-c client_min_messages=error'" \
        < "$work/$1" > "$work/$1.out" 2>&1 &
}

# state TABLE: each row as the table has it, and as metadata does: whether it is alive, whether column a has a stamp of its
# own that is greater than that of the row.
state() {
    sql -c "select string_agg(concat_ws(' ', key_1, coalesce(d.a, '-'), case when m.alive then 'alive' else 'dead' end,
                case when m.cols[3] > m.hlc then 'changed' end), ', ' order by key_1)
            from $2 as m left join $1 as d on d.id = m.key_1"
}

# conflict NAME FIRST SECOND END WANTED: the first session runs FIRST in a transaction, the second SECOND, which waits;
# then the first one ENDs. For a plain table, and for one whose rows have readers.
conflict() {
    for table in t scoped; do
        meta=cloudsync.meta_1
        [ "$table" = scoped ] && meta=cloudsync.meta_2
        step=$((step + 1))
        sql -c "truncate $table; delete from $meta; insert into $table values (1, 'old'), (2, 'old'); delete from $table where id = 2"
        highest=$(sql -c "select max(greatest(hlc, cols[3])) from $meta")
        echo "begin; $(echo "$2" | sed "s/TABLE/$table/g"); select 'first $step';" >&3
        until_said "first $step" one
        echo "$(echo "$3" | sed "s/TABLE/$table/g"); select 'second $step';" >&4
        until_waiting
        echo "create table if not exists stamps (hlc bigint); delete from stamps;
              insert into stamps select max(greatest(hlc, cols[3])) from $meta;
              $4; select 'ended $step';" >&3
        until_said "ended $step" one
        until_said "second $step" two
        expect "$1 ($table)" "$(state "$table" "$meta")" "$5"
        expect "$1 ($table): stamps rise" "$(sql -c "select max(greatest(hlc, cols[3])) >= $highest from $meta")" t
    done
}

"$bindir/psql" -X -q "$connection dbname=postgres" -c "drop database if exists $database" 2> /dev/null
"$bindir/psql" -X -q "$connection dbname=postgres" -c "create database $database template template0 encoding 'UTF8' locale 'C'" || exit 1
sql > /dev/null <<'SQL'
create extension pg_sync;
create table t (id integer primary key, a text);
create table scoped (id integer primary key, a text);
select cloudsync_init('t'), cloudsync_init('scoped');
select cloudsync_set_scope('scoped', 'a');
SQL
open_session one
open_session two
exec 3> "$work/one" 4> "$work/two"

conflict "two updates" \
    "update TABLE set a = 'one' where id = 1" "update TABLE set a = 'two' where id = 1" commit \
    "1 two alive changed, 2 - dead"
conflict "an update after one that is rolled back" \
    "update TABLE set a = 'one' where id = 1" "update TABLE set a = 'two' where id = 1" rollback \
    "1 two alive changed, 2 - dead"
conflict "an update of a row that goes" \
    "delete from TABLE where id = 1" "update TABLE set a = 'two' where id = 1" commit \
    "1 - dead, 2 - dead"
conflict "an update of a row that stays after all" \
    "delete from TABLE where id = 1" "update TABLE set a = 'two' where id = 1" rollback \
    "1 two alive changed, 2 - dead"
conflict "a deletion of a row that was changed" \
    "update TABLE set a = 'one' where id = 1" "delete from TABLE where id = 1" commit \
    "1 - dead, 2 - dead"
conflict "an insert of a key that goes" \
    "delete from TABLE where id = 1" "insert into TABLE values (1, 'two')" commit \
    "1 two alive, 2 - dead"
conflict "an insert of a key that was there and is made anew" \
    "insert into TABLE values (2, 'one')" "insert into TABLE values (2, 'two')" rollback \
    "1 old alive, 2 two alive"
conflict "an insert of a key that somebody made" \
    "insert into TABLE values (2, 'one')" "insert into TABLE values (2, 'two')" commit \
    "1 old alive, 2 one alive"
conflict "an insert of a key that is new, after a rollback" \
    "insert into TABLE values (3, 'one')" "insert into TABLE values (3, 'two')" rollback \
    "1 old alive, 2 - dead, 3 two alive"
conflict "an upsert of a key that somebody makes" \
    "insert into TABLE values (3, 'one')" "insert into TABLE values (3, 'two') on conflict (id) do update set a = excluded.a" commit \
    "1 old alive, 2 - dead, 3 two alive changed"
conflict "a key that comes from another row" \
    "update TABLE set id = 2 where id = 1" "insert into TABLE values (2, 'two')" rollback \
    "1 old alive, 2 two alive"
conflict "a row whose savepoint is rolled back" \
    "savepoint s; update TABLE set a = 'one' where id = 1; rollback to s; update TABLE set a = 'one again' where id = 1" \
    "update TABLE set a = 'two' where id = 1" commit \
    "1 two alive changed, 2 - dead"
conflict "many rows, one of which is held" \
    "update TABLE set a = 'one' where id = 1" \
    "insert into TABLE select n, 'two' from generate_series(4, 6) as n; update TABLE set a = a || '!'" commit \
    "1 one! alive changed, 2 - dead, 4 two! alive changed, 5 two! alive changed, 6 two! alive changed"
conflict "two transactions of several statements" \
    "update TABLE set a = 'one' where id = 1; update TABLE set a = 'one more' where id = 1" \
    "begin; insert into TABLE values (7, 'two'); update TABLE set a = 'two' where id = 1; update TABLE set a = 'two more' where id = 1; delete from TABLE where id = 7; commit" commit \
    "1 two more alive changed, 2 - dead, 7 - dead"

# Of the last case: what the second one stamped is greater than all that the first one had.
expect "the later one is greater" "$(sql -c "select m.cols[3] > s.hlc from cloudsync.meta_2 as m, stamps as s where key_1 = 1")" t

exec 3>&- 4>&-
wait
"$bindir/psql" -X -q "$connection dbname=postgres" -c "drop database $database"
rm -rf "$work"
[ "$failed" -eq 0 ]
