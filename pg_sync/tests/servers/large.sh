#!/bin/sh
# One transaction of many captured rows (ROWS, 300,000 where nothing is said): the process that sends it holds no more
# than the server itself gathers, which is 256 MiB of messages at most, however many rows there are. It is cancelled in
# the middle, and the server dies in the middle; whoever reads then gets the transaction whole, as a reader does that
# nothing happened to.
# usage: with_server.sh large.sh (<bindir> <connection> come from there)
set -u

bindir=$1
connection="$2 dbname=large"
work=$PG_SYNC_DATA/work
rows=${ROWS:-300000}
# Recovery may read a long log.
export PGCTLTIMEOUT=600

sql() {
    "$bindir/psql" -X -q -A -t -v ON_ERROR_STOP=1 "$connection" "$@"
}

fail() {
    echo "$1"
    cat "$work"/*.log
    exit 1
}

# Waits until a condition holds: until_true WHAT CONDITION
until_true() {
    tries=0
    until [ "$(sql -c "select $2" 2> /dev/null)" = t ]; do
        tries=$((tries + 1))
        [ "$tries" -lt 100000 ] || fail "never: $1"
    done
}

receive() { # receive SLOT FILE
    "$bindir/pg_recvlogical" -d "$connection" --slot="$1" --start --no-loop --status-interval=1 --file="$2" \
        2>> "$work/$1.log" &
    receiver=$!
}

# The client stops reading, so that the process that sends stands still in the middle of the transaction.
stalled() {
    mkfifo "$work/$1"
    exec 3<> "$work/$1"
    receive broken "$work/$1"
    until_true "the sender waits for its client" "exists (select from pg_stat_activity as a
      join pg_replication_slots as s on s.active_pid = a.pid
      where s.slot_name = 'broken' and a.wait_event in ('WalSenderWriteData', 'ClientWrite'))"
}

# Reads a slot to the end of what is written, and says how much memory the process that sent it has had, in kB.
read_whole() { # read_whole SLOT FILE
    receive "$1" "$2"
    until_true "the slot is read" "active from pg_replication_slots where slot_name = '$1'"
    sender=$(sql -c "select active_pid from pg_replication_slots where slot_name = '$1'")
    until_true "all is confirmed" "confirmed_flush_lsn >= '$end' from pg_replication_slots where slot_name = '$1'"
    peak=$(sed -n 's/^VmHWM:[^0-9]*\([0-9]*\) kB/\1/p' "/proc/$sender/status")
    kill -INT "$receiver"
    wait "$receiver"
    # The server reads 4,096 messages at once from where it has spilled them, of 64 KiB at most; the rest is what each of
    # its processes has. With 10,000,000 rows its memory context ReorderBuffer held 163 of 183 MB at the peak
    # (pg_log_backend_memory_contexts), and all of the plugin's 1.1 MB.
    sent=$(($(stat -c %s "$2") / 1024))
    [ "$sent" -lt 262144 ] || sent=262144
    most=$((65536 + sent))
    [ "$peak" -lt "$most" ] || fail "memory of the sender of $1: found $peak kB, wanted less than $most"
    echo "sender of $1: at most $peak kB for $rows rows"
}

mkdir "$work"
chmod a+rwx "$work"
"$bindir/psql" -X -q "$2 dbname=postgres" -c "create database large" || exit 1
sql > /dev/null <<SQL || exit 1
create extension pg_sync;
alter system set logical_decoding_work_mem = '1MB';
alter system set max_wal_size = '8GB';
select pg_reload_conf();
create table t (id bigint primary key, a text);
select cloudsync_init('t');
select pg_create_logical_replication_slot(name, 'pg_sync') from unnest('{broken,reference}'::text[]) as name;
insert into t select n, 'row ' || n from generate_series(1, $rows) as n;
SQL
end=$(sql -c "select pg_current_wal_lsn()")

stalled cancelled
sql -c "select pg_cancel_backend(active_pid) from pg_replication_slots where slot_name = 'broken'" > /dev/null
cat <&3 > /dev/null &
drain=$!
wait "$receiver"
kill "$drain"
exec 3>&-
grep -q 'canceling statement due to user request' "$work/broken.log" || fail "decoding was not cancelled"
until_true "the cancelled slot is free" "not active from pg_replication_slots where slot_name = 'broken'"

stalled crashed
"$PG_SYNC_SERVER" stop -m immediate
kill -KILL "$receiver" 2> /dev/null
wait "$receiver" 2> /dev/null
exec 3>&-
"$PG_SYNC_SERVER" start || fail "the server does not start again"

read_whole broken "$work/broken"
read_whole reference "$work/reference"
cmp "$work/broken" "$work/reference" || fail "the broken-off reader has got something else"
size=$(stat -c %s "$work/reference")
[ "$size" -gt $((rows * 16)) ] || fail "$rows rows in $size bytes"
[ "$(sql -c "select count(*) from t")" = "$rows" ] || fail "rows of the table are missing"
