#!/bin/sh
# What a logical subscription writes is captured and sent like any other write, though it has an origin: the first
# copy of a table as well as what follows.
# usage: with_server.sh subscription.sh (<bindir> <connection> come from there)
set -u

bindir=$1
here=$(cd "$(dirname "$0")/.." && pwd)
server=$2

sql() { # sql DATABASE [argument ...]
    database=$1
    shift
    "$bindir/psql" -X -q -A -t -v ON_ERROR_STOP=1 "$server dbname=$database" "$@"
}

sql postgres -c "create database publisher" -c "create database subscriber" || exit 1
sql publisher > /dev/null <<'SQL' || exit 1
create table t (id integer primary key, a text);
insert into t values (1, 'copied-first');
create publication p for table t;
SQL
# A server that subscribes to itself makes the slot by hand.
sql publisher -c "select pg_create_logical_replication_slot('s', 'pgoutput')" > /dev/null
sql subscriber -f "$here/include/frames.psql" || exit 1
sql subscriber > /dev/null <<SQL || exit 1
create extension pg_sync;
create table t (id integer primary key, a text);
select cloudsync_init('t');
select pg_create_logical_replication_slot('reader', 'pg_sync');
create table seen (lsn bigint, xid bigint, body bytea);
create subscription s connection '$server dbname=publisher' publication p with (create_slot = false, slot_name = 's');
SQL

# Waits until words stand in the messages that the slot gave so far.
until_seen() {
    tries=0
    until [ "$(sql subscriber -c "
        insert into seen select m.lsn, h.xid, m.body
        from pg_logical_slot_get_binary_changes('reader', null, null) as f, frame_head(f.data) as h, frame_messages(f.data) as m" \
        -c "select count(*) from unnest('{$1}'::text[]) as w
            where not exists (select from seen where position(convert_to(w, 'UTF8') in body) > 0)")" = 0 ]; do
        tries=$((tries + 1))
        if [ "$tries" -ge 1000 ]; then
            echo "never sent: $1"
            sql subscriber -c "select count(*) from seen" -c "select * from t"
            exit 1
        fi
    done
}

until_seen copied-first
sql publisher <<'SQL' || exit 1
insert into t values (2, 'inserted-there');
begin;
update t set a = 'updated-there' where id = 1;
savepoint s;
update t set a = 'lost-there' where id = 2;
rollback to s;
commit;
delete from t where id = 2;
insert into t values (3, 'last-there');
SQL
until_seen inserted-there,updated-there,last-there
found=$(sql subscriber -c "select string_agg(id || ' ' || a, ', ' order by id) from t" \
    -c "select count(*) from seen where position('lost-there'::bytea in body) > 0" \
    -c "select count(*) from seen where frame_number(body, 1, 8) % 4294967296 <> xid" \
    -c "select string_agg(key_1 || case when alive then ' alive' else ' dead' end, ', ' order by key_1) from cloudsync.meta_1")
wanted='1 updated-there, 3 last-there
0
0
1 alive, 2 dead, 3 alive'
sql subscriber -c "alter subscription s disable" -c "alter subscription s set (slot_name = none)" -c "drop subscription s"
if [ "$found" != "$wanted" ]; then
    echo "found '$found', wanted '$wanted'"
    exit 1
fi
