#!/bin/sh
# Foreign clients of a slot: pg_recvlogical reads frames, is cut off in the middle of a large transaction by every
# way there is, and the slot stays usable; while nothing happens for it, the slot moves on. One process that reads
# a transaction far beyond its memory holds no more than the server itself gathers.
# usage: with_server.sh readers.sh (<bindir> <connection> come from there)
set -u

bindir=$1
connection="$2 dbname=readers"
here=$(cd "$(dirname "$0")/.." && pwd)
work=$PG_SYNC_DATA/work
failed=0

sql() {
    "$bindir/psql" -X -q -A -t -v ON_ERROR_STOP=1 "$connection" "$@"
}

expect() {
    if [ "$2" != "$3" ]; then
        echo "$1: found '$2', wanted '$3'"
        failed=1
    fi
}

# Waits until a condition holds: until_true WHAT CONDITION
until_true() {
    tries=0
    until [ "$(sql -c "select $2")" = t ]; do
        tries=$((tries + 1))
        if [ "$tries" -ge 3000 ]; then
            echo "never: $1"
            cat "$work"/*.log
            exit 1
        fi
    done
}

receive() { # receive SLOT FILE [OPTION ...]
    slot=$1
    file=$2
    shift 2
    "$bindir/pg_recvlogical" -d "$connection" --slot="$slot" --start --no-loop --status-interval=1 --file="$file" "$@" \
        2> "$work/$slot.log" &
    receiver=$!
}

active() {
    echo "(select active from pg_replication_slots where slot_name = '$1')"
}

# Frames, messages and distinct rows' words in a file.
contents() {
    chmod a+r "$1"
    sql -c "select count(*), sum(h.messages) from frames_of_file('$1') as f, frame_head(f) as h"
}

mkdir "$work"
chmod a+rx "$work"
"$bindir/psql" -X -q "$2 dbname=postgres" -c "create database readers" || exit 1
sql -f "$here/include/frames.psql" || exit 1
sql > /dev/null <<'SQL' || exit 1
create extension pg_sync;
create table t (id integer primary key, a text);
select cloudsync_init('t');
create table untracked (id integer);
SQL

# A slot made, read and dropped by the client alone.
"$bindir/pg_recvlogical" -d "$connection" --slot=foreign --create-slot --plugin=pg_sync || failed=1
sql -c "insert into t values (1, 'one')" -c "insert into t values (2, 'two'), (3, 'three')"
end=$(sql -c "select pg_current_wal_lsn()")
receive foreign "$work/foreign" --option=format=1
until_true "the slot moves over what was read" "confirmed_flush_lsn >= '$end' from pg_replication_slots where slot_name = 'foreign'"
# Transactions that have nothing for us move it too.
for i in 1 2 3; do
    sql -c "insert into untracked select generate_series(1, 1000)"
done
end=$(sql -c "select pg_current_wal_lsn()")
until_true "the slot moves over empty transactions" "confirmed_flush_lsn >= '$end' from pg_replication_slots where slot_name = 'foreign'"
kill -INT "$receiver"
wait "$receiver"
expect "frames and messages" "$(contents "$work/foreign")" "2|2"
until_true "the slot is free" "not $(active foreign)"
for option in format=2 format other=1; do
    receive foreign "$work/refused" --option="$option"
    wait "$receiver" && expect "option $option" taken refused
    grep -o 'ERROR:  .*' "$work/foreign.log"
done > "$work/refusals"
expect "refused options" "$(cat "$work/refusals")" 'ERROR:  option format of output plugin pg_sync is "2", wanted 1
ERROR:  option format of output plugin pg_sync is without a value, wanted 1
ERROR:  output plugin pg_sync has no option "other", wanted format'
"$bindir/pg_recvlogical" -d "$connection" --slot=foreign --drop-slot || failed=1

# 20,000 messages of 4 KiB in one transaction, of which the server keeps 1 MiB in memory. The plugin looks at no more
# than the outside of a message, so they need no rows.
sql -c "select pg_create_logical_replication_slot(name, 'pg_sync') from unnest('{large,reference}'::text[]) as name" > /dev/null
sql -c "alter system set logical_decoding_work_mem = '1MB'" -c "select pg_reload_conf()" > /dev/null
sql > /dev/null <<'SQL'
select count(pg_logical_emit_message(true, 'cloudsync', '\x01'::bytea || convert_to(lpad(n::text, 4096, 'x'), 'UTF8')))
from generate_series(1, 20000) as n;
insert into t values (4, 'four');
SQL
end=$(sql -c "select pg_current_wal_lsn()")
sql -c "create table wanted as
  select h.is_last, m.lsn, md5(m.body) as body
  from pg_logical_slot_get_binary_changes('reference', null, null) as f, frame_head(f.data) as h, frame_messages(f.data) as m"

# The client stops reading, so that the process that sends stands still in the middle of the transaction.
stalled() {
    mkfifo "$work/$1"
    exec 3<> "$work/$1"
    receive large "$work/$1"
    until_true "the sender waits for its client" "exists (select from pg_stat_activity as a
      join pg_replication_slots as s on s.active_pid = a.pid
      where s.slot_name = 'large' and a.wait_event in ('WalSenderWriteData', 'ClientWrite'))"
}

stalled cancelled
sql -c "select pg_cancel_backend(active_pid) from pg_replication_slots where slot_name = 'large'" > /dev/null
cat <&3 > /dev/null &
drain=$!
wait "$receiver"
kill "$drain"
exec 3>&-
expect "why it ended" "$(grep -c 'canceling statement due to user request' "$work/large.log")" 1
until_true "the cancelled slot is free" "not $(active large)"
stalled terminated
sql -c "select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = 'large'" > /dev/null
# It tells its client, which has to be gone for that not to wait.
kill -KILL "$receiver"
wait "$receiver" 2> /dev/null
exec 3>&-
until_true "the slot of the ended process is free" "not $(active large)"

# A session that decodes by itself, cancelled.
tries=0
until grep -qs 'canceling statement due to user request' "$work/peek.log"; do
    tries=$((tries + 1))
    [ "$tries" -lt 50 ] || { echo "decoding was never cancelled"; exit 1; }
    sql -c "select count(*) from pg_logical_slot_peek_binary_changes('large', null, null)" > /dev/null 2> "$work/peek.log" &
    peek=$!
    until_true "the session decodes" "$(active large) or not exists (select from pg_stat_activity where query like '%peek\_binary%' and state = 'active' and pid <> pg_backend_pid())"
    sql -c "select pg_cancel_backend(active_pid) from pg_replication_slots where slot_name = 'large' and active" > /dev/null
    wait "$peek"
done

# After all that the slot gives everything, and the process that sends it stays small.
receive large "$work/received"
until_true "the slot is read" "$(active large)"
sender=$(sql -c "select active_pid from pg_replication_slots where slot_name = 'large'")
until_true "all is confirmed" "confirmed_flush_lsn >= '$end' from pg_replication_slots where slot_name = 'large'"
peak=$(sed -n 's/^VmHWM:[^0-9]*\([0-9]*\) kB/\1/p' "/proc/$sender/status")
kill -INT "$receiver"
wait "$receiver"
chmod a+r "$work/received"
expect "missed and invented" "$(sql -c "
  create table seen as
  select h.is_last, m.lsn, md5(m.body) as body from frames_of_file('$work/received') as f, frame_head(f) as h, frame_messages(f) as m;
  select (select count(*) from wanted), (select count(*) from (select * from wanted except select * from seen) as missed),
    (select count(*) from (select * from seen except select * from wanted) as invented)")" "20001|0|0"
# 80 MiB went through; the server reads 4,096 messages at once from where it spilled them, which is 16 MiB.
[ "$peak" -lt 65536 ] || expect "memory of the sender in kB" "$peak" "less than 65536"
exit "$failed"
