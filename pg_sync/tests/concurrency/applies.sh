#!/bin/sh
# An apply beside users: every interleaving of an apply and a user's write on one row ends in the value with the
# greater stamp; deadlocks, isolation levels and definitions that change are errors that pass, never refusals.
# usage: applies.sh <bindir> <connection>
set -u

bindir=$1
connection=$2
database=pg_sync_applies
work=$(mktemp -d)
failed=0

sql() {
    "$bindir/psql" -X -q -A -t "$connection dbname=$database options='-c client_min_messages=error'" "$@" 2>&1
}

# Waits for a condition in SQL to be true.
until_true() {
    tries=0
    until [ "$(sql -c "select $1")" = t ]; do
        tries=$((tries + 1))
        [ "$tries" -lt 3000 ] || { echo "never true: $1"; exit 1; }
    done
}

until_waiting() {
    until_true "(select count(*) = $1 from pg_stat_activity where datname = '$database' and wait_event_type = 'Lock')"
}

# Sends a line to a session, and waits until it was done: ask SESSION LINE.
ask() {
    tell "$1" "$2"
    until_done "$1"
}

# Sends a line to a session and goes on: tell SESSION LINE.
tell() {
    eval "sent_$1=\$((sent_$1 + 1)); number=\$sent_$1"
    printf '%s\n\\echo done %s\n' "$2" "$number" >> "$work/$1.sent"
    case $1 in
        one) printf '%s\n\\echo done %s\n' "$2" "$number" >&3 ;;
        two) printf '%s\n\\echo done %s\n' "$2" "$number" >&4 ;;
    esac
}

until_done() {
    eval "number=\$sent_$1"
    tries=0
    until grep -qsx "done $number" "$work/$1.out"; do
        tries=$((tries + 1))
        [ "$tries" -lt 60000 ] || { echo "session $1 never finished: $(tail -n 4 "$work/$1.sent")"; exit 1; }
    done
}

# The last thing a session said, beside that it was done.
said() {
    grep -v '^done ' "$work/$1.out" | tail -n 1
}

expect() {
    if [ "$2" != "$3" ]; then
        echo "$1: found '$2', wanted '$3'"
        failed=1
    fi
}

open_session() {
    mkfifo "$work/$1"
    "$bindir/psql" -X -q -A -t -v VERBOSITY=sqlstate "$connection dbname=$database options='-c client_min_messages=error -c deadlock_timeout=50ms'" \
        < "$work/$1" > "$work/$1.out" 2>&1 &
    eval "sent_$1=0"
}

"$bindir/psql" -X -q "$connection dbname=postgres" -c "drop database if exists $database" 2> /dev/null
"$bindir/psql" -X -q "$connection dbname=postgres" -c "create database $database template template0 encoding 'UTF8' locale 'C'" || exit 1
here=$(cd "$(dirname "$0")/.." && pwd)
{
    cat "$here/include/metadata.psql" "$here/include/author.psql"
    cat << 'SQL'
create table author.t (id integer primary key, a text, b text);
create table t (id integer primary key, a text, b text);
create table payloads (name text, payload bytea);
select cloudsync_init('author.t');
insert into author.t values (1, 'sent', 'sent');
select author.stamp(1, 1000, 'aa');
insert into payloads select 'insert', author.payload();
update author.t set a = 'sent later';
select author.stamp(1, 1000, 'aa', '{"a": 2000}');
insert into payloads select 'update', author.payload();
-- A stamp of now, beyond what a user wrote before and below what one writes later.
select author.stamp(1, 1000, 'aa', jsonb_build_object('a', (extract(epoch from clock_timestamp()) * 1000)::bigint + 50000));
insert into payloads select 'newest', author.payload();
delete from author.t;
select author.stamp(1, (extract(epoch from clock_timestamp()) * 1000)::bigint + 50000, 'aa');
insert into payloads select 'delete', author.payload(true);
delete from cloudsync.meta_1;
insert into author.t select i, 'many', 'many' from generate_series(1, 2) as i;
select author.stamp(i, 1000, 'bb') from generate_series(1, 2) as i;
insert into payloads select 'two rows', author.payload();
select cloudsync_cleanup('author.t');
select cloudsync_init('t');
create function applied(wanted text) returns text language sql as $$ select 'applied ' || cloudsync_payload_apply(payload) from payloads where name = wanted $$;
create function row_one() returns text language sql as $$ select coalesce((select a || ', ' || b from t where id = 1), 'none') $$;
create procedure start(present boolean) language plpgsql as $$
begin
  delete from t;
  delete from cloudsync.meta_2;
  delete from cloudsync.rejected;
  if present then
    perform applied('insert');
  end if;
end
$$;
SQL
} | sql > "$work/setup" 2>&1
expect setup "$(grep -c ERROR "$work/setup")" 0
open_session one
open_session two
exec 3> "$work/one" 4> "$work/two"

# check NAME PRESENT FIRST SECOND WANTED: FIRST is done in an open transaction, SECOND waits for it; then the first
# commits.
check() {
    sql -c "call start($2)" > /dev/null
    ask one "begin; $3"
    tell two "$4"
    until_waiting 1
    ask one "commit;"
    until_done two
    expect "$1" "$(sql -c "select row_one()"), $(sql -c "select count(*) from cloudsync.rejected") refused" "$5, 0 refused"
}

user_insert="insert into t values (1, 'typed', 'typed');"
user_update="update t set a = 'typed' where id = 1;"
user_delete="delete from t where id = 1;"
user_rekey="update t set id = 7 where id = 1;"
apply() {
    echo "select applied('$1');"
}
check "a deletion of a key without a row, then user insert" false "$(apply delete)" "$user_insert" "typed, typed"
check "user insert, then apply of an insert" false "$user_insert" "$(apply insert)" "typed, typed"
check "apply of an insert, then user update" true "$(apply newest)" "$user_update" "typed, sent"
check "user update, then an older update" true "$user_update" "$(apply update)" "typed, sent"
check "user update, then a newer update" true "$user_update" "$(apply newest)" "sent later, sent"
check "user deletion, then an older update" true "$user_delete" "$(apply update)" "none"
check "user update, then a deletion" true "$user_update" "$(apply delete)" "none"
check "a deletion, then user update" true "$(apply delete)" "$user_update" "none"
check "user changes the key, then an older update" true "$user_rekey" "$(apply update)" "none"
check "apply of an update, then user changes the key" true "$(apply update)" "$user_rekey" "none"
check "apply of an update, then user deletion" true "$(apply update)" "$user_delete" "none"

# An insert of the user beside an uncommitted apply fails as beside any other insert; the applied row stays.
sql -c "call start(false)" > /dev/null
ask one "begin; $(apply insert)"
tell two "$user_insert"
until_waiting 1
ask one "commit;"
until_done two
expect "user insert after an apply" "$(said two)" "ERROR:  23505"
expect "the applied row" "$(sql -c 'select row_one()')" "sent, sent"

# A parked cell shows when the creation that it waited for was rolled back or not.
sql -c "call start(false)" > /dev/null
ask one "begin; $user_insert"
tell two "$(apply insert)"
until_waiting 1
ask one "rollback;"
until_done two
expect "after a rollback the apply inserts" "$(sql -c 'select row_one()')" "sent, sent"

# Two that lock rows in opposite orders: one of them ends with a deadlock, and can be done again.
sql -c "call start(true); select applied('two rows')" > /dev/null
sql -c "delete from cloudsync.rejected;" > /dev/null
ask one "begin; update t set b = 'held' where id = 2;"
tell two "begin; update t set b = 'by two' where id = 1; $(apply 'two rows')"
until_waiting 1
tell one "update t set b = 'held' where id = 1;"
until_done one
until_done two
ended=$(grep -c 'ERROR:  40P01' "$work/one.out" "$work/two.out" | sed 's/.*://' | tr '\n' ' ')
case $ended in
    "1 0 " | "0 1 ") ;;
    *) expect "one deadlock" "$ended" "1 0 or 0 1" ;;
esac
ask one "rollback;"
ask two "rollback;"
expect "a deadlock is no refusal" "$(sql -c 'select count(*) from cloudsync.rejected')" 0
expect "done again" "$(sql -c "select applied('two rows')" | cut -d' ' -f1)" applied

# A lock that is not given in time fails the whole apply.
sql -c "call start(true)" > /dev/null
ask one "begin; $user_update"
ask two "set lock_timeout = '20ms'; $(apply newest) reset lock_timeout;"
expect "lock timeout" "$(said two)" "ERROR:  55P03"
ask two "set statement_timeout = '50ms'; $(apply newest) reset statement_timeout;"
expect "statement timeout" "$(said two)" "ERROR:  57014"
ask one "rollback;"
expect "neither is a refusal" "$(sql -c 'select count(*) from cloudsync.rejected')" 0

# The table is changed meanwhile: the apply waits, and then fails or knows the new definition.
ask one "begin; alter table t rename column b to c;"
tell two "$(apply newest)"
until_waiting 1
ask one "commit;"
until_done two
expect "a definition that changed" "$(said two)" "ERROR:  40001"
sql -c "alter table t rename column c to b" > /dev/null
ask two "begin; $(apply newest)"
tell one "alter table t add column d integer;"
until_waiting 1
ask two "commit;"
until_done one
expect "DDL waits for an apply" "$(sql -c 'select row_one()')" "sent later, sent"
sql -c "alter table t drop column d" > /dev/null

# TRUNCATE on either side.
check "truncate, then an older update" true "truncate t;" "$(apply update)" "none"
check "an update, then truncate" true "$(apply update)" "truncate t;" "none"

# Other isolation levels: what was read is what there is, or the transaction is told to begin again.
for level in 'repeatable read' serializable; do
    sql -c "call start(true)" > /dev/null
    ask two "begin isolation level $level; select count(*) from t;"
    ask one "$user_update"
    ask two "$(apply newest)"
    expect "apply under $level after a concurrent write" "$(said two)" "ERROR:  40001"
    ask two "rollback;"
    ask two "begin isolation level $level; $(apply newest) commit;"
    expect "apply under $level alone" "$(sql -c 'select row_one()')" "sent later, sent"
    # A user's own write under that level.
    ask two "begin isolation level $level; select count(*) from t;"
    ask one "update t set b = 'first' where id = 1;"
    ask two "update t set b = 'second' where id = 1;"
    expect "capture under $level" "$(said two)" "ERROR:  40001"
    ask two "rollback; begin isolation level $level; update t set b = 'second' where id = 1; update t set b = 'third' where id = 1; commit;"
    expect "a write under $level" "$(sql -c 'select row_one()')" "sent later, third"
    expect "no refusals under $level" "$(sql -c 'select count(*) from cloudsync.rejected')" 0
    # A key that has no row: its deletion is written while a user inserts it, who begins again.
    sql -c "call start(false)" > /dev/null
    ask two "begin isolation level $level; select count(*) from t;"
    ask one "begin; $(apply delete)"
    tell two "$user_insert"
    until_waiting 1
    ask one "commit;"
    until_done two
    expect "an insert beside a deletion under $level" "$(said two)" "ERROR:  40001"
    ask two "rollback; begin isolation level $level; $user_insert commit;"
    expect "an insert after a deletion under $level" "$(sql -c 'select row_one()')" "typed, typed"
done

exec 3>&- 4>&-
wait
"$bindir/psql" -X -q "$connection dbname=postgres" -c "drop database $database"
rm -rf "$work"
exit "$failed"
