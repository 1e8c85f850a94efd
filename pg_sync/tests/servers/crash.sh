#!/bin/sh
# The server dies while a slot is read, twice: by the kill of its first process, and of the process that sends.
# Whoever reads goes on from the place that was confirmed, and misses nothing that was committed.
# usage: with_server.sh crash.sh (<bindir> <connection> come from there)
set -u

bindir=$1
connection="$2 dbname=crash"
here=$(cd "$(dirname "$0")/.." && pwd)
received=$PG_SYNC_DATA/received

sql() {
    "$bindir/psql" -X -q -A -t -v ON_ERROR_STOP=1 "$connection" "$@"
}

fail() {
    echo "$1"
    cat "$PG_SYNC_DATA/reader.log" 2> /dev/null
    exit 1
}

# Waits until a condition holds: until_true WHAT COMMAND...
until_true() {
    what=$1
    shift
    tries=0
    until "$@" > /dev/null 2>&1; do
        tries=$((tries + 1))
        [ "$tries" -lt 5000 ] || fail "never: $what"
    done
}

holds() {
    [ "$(sql -c "select $1")" = t ]
}

# Writes small transactions until the server is gone.
write() {
    while sql -c "insert into t (n, a) select n, repeat('x', 100) from generate_series(1, 20) as n" \
        -c "begin" -c "insert into t (n, a) values (0, 'kept')" -c "savepoint s" -c "insert into t (n, a) values (0, 'lost')" \
        -c "rollback to s" -c "update t set a = 'kept again' where n = 0 and id % 50 = 0" -c "commit" 2> /dev/null; do :; done
}

read_slot() {
    "$bindir/pg_recvlogical" -d "$connection" --slot=reader --start --no-loop --status-interval=1 --file="$received" \
        2>> "$PG_SYNC_DATA/reader.log" &
    reader=$!
}

size() {
    stat -c %s "$received" 2> /dev/null || echo 0
}

grown_beyond() {
    [ "$(size)" -gt "$1" ]
}

"$bindir/psql" -X -q "$2 dbname=postgres" -c "create database crash" || exit 1
sql -f "$here/include/frames.psql" || exit 1
sql > /dev/null <<'SQL' || exit 1
create extension pg_sync;
create table t (id bigint generated always as identity primary key, n integer, a text);
select cloudsync_init('t');
select pg_create_logical_replication_slot(name, 'pg_sync') from unnest('{reader,reference}'::text[]) as name;
SQL

for victim in postmaster walsender; do
    begun=$(size)
    read_slot
    write &
    writer=$!
    until_true "frames arrive" grown_beyond "$((begun + 100000))"
    case $victim in
        postmaster) kill -9 "$(head -n 1 "$PG_SYNC_DATA/postmaster.pid")" ;;
        # The first process ends all others and recovers, as after any crash of a backend.
        walsender) kill -9 "$(sql -c "select active_pid from pg_replication_slots where slot_name = 'reader'")" ;;
    esac
    wait "$writer"
    wait "$reader"
    [ "$victim" = walsender ] || until_true "the server starts" "$PG_SYNC_SERVER" start
    until_true "the server answers" sql -c "select 1"
done

# What follows the crashes arrives as well, then the reader is let go.
read_slot
sql -c "insert into t (n, a) values (1, 'after')"
end=$(sql -c "select pg_current_wal_lsn()")
until_true "all is confirmed" holds "confirmed_flush_lsn >= '$end' from pg_replication_slots where slot_name = 'reader'"
kill -INT "$reader"
wait "$reader"
chmod a+r "$received"

found=$(sql -c "
  create table seen as
  select h.end_lsn, m.lsn, m.body from frames_of_file('$received') as f, frame_head(f) as h, frame_messages(f) as m;
  create table wanted as
  select h.end_lsn, m.lsn, m.body
  from pg_logical_slot_get_binary_changes('reference', null, null) as f, frame_head(f.data) as h, frame_messages(f.data) as m;
  select (select count(*) > 20 from wanted),
    (select count(*) from (select * from wanted except select * from seen) as missed),
    (select count(*) from (select * from seen except select * from wanted) as invented)")
[ "$found" = "t|0|0" ] || fail "many, missed, invented: found '$found', wanted 't|0|0'"
