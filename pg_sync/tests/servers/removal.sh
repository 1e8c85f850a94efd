#!/usr/bin/env bash
# cloudsync_cleanup and DROP EXTENSION leave the user's tables as they were: a dump of the schema is the same before and
# after, grants and triggers too.
# usage: pg_sync/tests/servers/removal.sh <bindir> <connection>
set -euo pipefail

bindir=$1
connection=$2
database=sync_removed

query() {
    "$bindir/psql" -X -q -A -t -v ON_ERROR_STOP=1 "$connection dbname=$database options='-c client_min_messages=error'" "$@"
}

# Its own random words aside.
schema() {
    "$bindir/pg_dump" --schema-only -d "$connection dbname=$database" | sed '/^.\(un\)\?restrict/d'
}

same() { # same WHAT FOUND WANTED
    if [[ "$2" != "$3" ]]; then
        echo "$1: found (<), wanted (>)"
        diff <(echo "$2") <(echo "$3")
        exit 1
    fi
}

"$bindir/psql" -X -q "$connection dbname=postgres" -c "create database $database template template0 encoding 'UTF8' locale 'C'"
query <<'SQL'
create role sync_reader;
create role sync_remover;
create schema "App" authorization sync_remover;
create schema shared;
grant usage on schema shared to sync_reader;
set role sync_remover;
create table "App"."My todo" (id integer primary key, a text, gone text);
alter table "App"."My todo" drop column gone;
reset role;
create table shared.plain (id integer primary key, v text);
grant select (v), update (v) on shared.plain to sync_reader;
grant insert on shared.plain to public;
create function shout() returns trigger language plpgsql as $$ begin new.v := upper(new.v); return new; end $$;
create trigger shout before insert on shared.plain for each row execute function shout();
create table parts (id integer primary key, v text) partition by range (id);
create table part_1 partition of parts for values from (0) to (10);
alter table "App"."My todo" enable row level security;
SQL
before=$(schema)
functions="select p.proacl::text from pg_proc as p where p.proname = 'pg_logical_emit_message' order by p.oid"
rights=$(query -c "select has_function_privilege('public', p.oid, 'execute') from pg_proc as p where p.proname = 'pg_logical_emit_message'")

query -c "create extension pg_sync"
installed=$(schema)
query > /dev/null <<'SQL'
set role sync_remover;
select cloudsync_init('"App"."My todo"');
reset role;
select cloudsync_init('shared.plain');
insert into "App"."My todo" values (1, 'x');
insert into shared.plain values (1, 'x');
set role sync_remover;
select cloudsync_cleanup('"App"."My todo"');
reset role;
select cloudsync_cleanup('shared.plain');
SQL
same "after cloudsync_cleanup" "$(schema)" "$installed"
query -c "drop extension pg_sync"
same "after DROP EXTENSION" "$(schema)" "$before"
same "rights" "$(query -c "select has_function_privilege('public', p.oid, 'execute') from pg_proc as p where p.proname = 'pg_logical_emit_message'")" "$rights"
same "event triggers" "$(query -c "select count(*) from pg_event_trigger")" 0

query > /dev/null <<'SQL'
create extension pg_sync;
select cloudsync_init('"App"."My todo"');
select cloudsync_init('shared.plain');
insert into shared.plain values (2, 'x');
SQL
refused=$(query -c "drop extension pg_sync" 2>&1 || true)
same "without CASCADE" "$refused" 'ERROR:  extension pg_sync cannot be dropped: it tracks "App"."My todo", shared.plain
HINT:  Call cloudsync_cleanup for each table before, or use DROP EXTENSION ... CASCADE.'
query -c "begin; drop extension pg_sync cascade; rollback; insert into shared.plain values (3, 'x')"
same "after a rollback" "$(query -c "select count(*) from cloudsync.meta_2")" 2
query -c "drop extension pg_sync cascade"
same "after DROP EXTENSION CASCADE" "$(schema)" "$before"
query -c "insert into shared.plain values (4, 'x')"
query -c "create extension pg_sync"
same "installed again" "$(schema)" "$installed"
