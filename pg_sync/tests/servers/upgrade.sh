#!/usr/bin/env bash
# From each released version: a database with tracked tables is upgraded, has then what a new installation has, also for
# its hub, and goes on capturing.
# usage: pg_sync/tests/servers/upgrade.sh <bindir> <connection>
set -euo pipefail

bindir=$1
connection=$2
here=$(cd "$(dirname "$0")" && pwd)

query() {
    "$bindir/psql" -X -q -A -t -v ON_ERROR_STOP=1 "$connection dbname=$1 options='-c client_min_messages=error'" "${@:2}"
}

made() {
    query postgres -c "create database $1 template template0 encoding 'UTF8' locale 'C'"
}

# All that the extension has in the catalog, with owners, rights and what a dump takes along.
catalog() {
    query "$1" <<'SQL'
set search_path = pg_catalog;
select concat_ws(' ', 'routine', pg_get_userbyid(p.proowner), p.proacl,
  case p.prokind when 'a' then concat_ws(' ', p.oid::regprocedure, a.aggtransfn, a.aggfinalfn, a.aggfinalmodify, a.aggtransspace)
    else pg_get_functiondef(p.oid) end)
from pg_proc as p left join pg_aggregate as a on a.aggfnoid = p.oid
where p.pronamespace = 'cloudsync'::regnamespace and p.proname !~ '^capture_.*_[0-9]+$' or p.proname like 'cloudsync_%'
order by 1;
select concat_ws(' ', 'relation', c.oid::regclass, c.relkind, pg_get_userbyid(c.relowner), c.relacl, c.reloptions,
  case c.relkind when 'v' then pg_get_viewdef(c.oid) end,
  (select string_agg(concat_ws(' ', a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, pg_get_expr(d.adbin, d.adrelid)), ', ' order by a.attnum)
   from pg_attribute as a left join pg_attrdef as d on (d.adrelid, d.adnum) = (a.attrelid, a.attnum)
   where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped))
from pg_class as c
where c.relname !~ '^meta_[0-9]+' and (c.relnamespace = 'cloudsync'::regnamespace or c.relname like 'cloudsync_%')
order by 1;
select concat_ws(' ', 'constraint', conrelid::regclass, conname, pg_get_constraintdef(oid))
from pg_constraint where connamespace = 'cloudsync'::regnamespace and conrelid::regclass::text !~ '^cloudsync.meta_[0-9]+' order by 1;
select concat_ws(' ', 'trigger', pg_get_triggerdef(oid)) from pg_trigger
where tgrelid::regclass::text ~ '^cloudsync\.' and not tgisinternal order by 1;
select concat_ws(' ', 'event trigger', evtname, evtevent, evtenabled, evtfoid::regproc, evttags) from pg_event_trigger order by 1;
select concat_ws(' ', 'member', pg_describe_object(classid, objid, objsubid)) from pg_depend
where refclassid = 'pg_extension'::regclass and refobjid = (select oid from pg_extension where extname = 'pg_sync') and deptype = 'e' order by 1;
select concat_ws(' ', 'dumped', c::regclass, w)
from pg_extension, unnest(extconfig, extcondition) as u (c, w) where extname = 'pg_sync' order by 1;
SQL
}

made sync_fresh
query sync_fresh -c "create extension pg_sync" -c "create role upgraded_hub" \
    -c "select cloudsync_grant_hub('upgraded_hub')" > /dev/null
wanted=$(catalog sync_fresh)

for released in "$here"/../../../sql/postgres/released/*.sql; do
    version=$(basename "$released" .sql)
    made sync_upgraded
    query sync_upgraded > /dev/null <<SQL
create extension pg_sync version '$version';
select cloudsync_grant_hub('upgraded_hub');
create schema app;
create table app.t (id integer primary key, a text, b text);
create table "Other" (x text, y integer, z numeric, primary key (y, x));
insert into app.t values (0, 'before init', 'b');
-- Tracked as that release did it, without its library: by its functions in SQL.
insert into cloudsync.site_dictionary values (nextval('cloudsync.site_ordinal'), decode(repeat('ab', 16), 'hex'));
do \$\$
declare
  t record;
  c text;
begin
  for t in select * from (values ('app', 't'), ('public', 'Other')) as v (s, n) loop
    execute format('grant select on %I.%I to cloudsync_owner; grant usage on schema %I to cloudsync_owner', t.s, t.n, t.s);
    set local role cloudsync_owner;
    insert into cloudsync.tables (relation, schema_name, table_name, incarnation, version)
    values (format('%I.%I', t.s, t.n)::regclass, t.s, t.n, 7, 1);
    perform cloudsync.refresh_columns(m) from (select max(table_id) from cloudsync.tables) as x (m);
    perform cloudsync.create_metadata(m) from (select max(table_id) from cloudsync.tables) as x (m);
    perform cloudsync.create_capture_function(m, o) from (select max(table_id) from cloudsync.tables) as x (m), unnest(array['insert', 'update', 'delete']) as o;
    perform cloudsync.create_truncate_function(m) from (select max(table_id) from cloudsync.tables) as x (m);
    reset role;
  end loop;
  insert into app.t values (1, 'one', 'b');
  insert into cloudsync.meta_1 values (1, true, 5000000, 1, array[null, null, 6000000, 1]), (2, false, 7000000, 1, null);
  insert into "Other" values ('x', 1, 1.5);
  insert into cloudsync.meta_2 values (1, 'x', true, 5000000, 1, null);
  for c in select cloudsync.attach_commands(table_id) from cloudsync.tables loop execute c; end loop;
end
\$\$;
-- What that release wrote when it noticed which database this is.
insert into cloudsync.self (ordinal, system_identifier, timeline, database_oid)
select max(d.ordinal), (select s.system_identifier::text from pg_control_system() as s),
  (select c.timeline_id from pg_control_checkpoint() as c), (select b.oid from pg_database as b where b.datname = current_database())
from cloudsync.site_dictionary as d;
create table kept as select * from cloudsync.meta_1;
SQL
    # The library is here already, its tables are not: users write all the same, and what they write is stamped.
    query sync_upgraded > /dev/null <<'SQL'
insert into app.t values (8, 'between', 'b'), (9, 'between', 'b');
update app.t set a = 'still between' where id = 8;
delete from app.t where id = 9;
update app.t set id = 10 where id = 8;
copy "Other" from stdin;
between	2	1
\.
do $$ begin
  assert (select array_agg(key_1 || case when alive then ' alive' else '' end order by key_1) from cloudsync.meta_1 where key_1 >= 8)
    = array['8', '9', '10 alive'], 'captured by the library of the next release';
  assert (select count(*) from cloudsync.meta_2) = 2, 'copied by the library of the next release';
end $$;
delete from app.t where id = 10;
delete from cloudsync.meta_1 where key_1 >= 8;
delete from "Other" where x = 'between';
delete from cloudsync.meta_2 where key_2 = 'between';
SQL
    query sync_upgraded -c "alter extension pg_sync update" > /dev/null
    found=$(catalog sync_upgraded)
    if [[ "$found" != "$wanted" ]]; then
        echo "upgraded from $version (<), installed (>)"
        diff <(echo "$found") <(echo "$wanted")
        exit 1
    fi
    query sync_upgraded > /dev/null <<'SQL'
do $$ begin
  assert (select count(*) from pg_init_privs as i, aclexplode(i.initprivs) as a where a.grantee = 'upgraded_hub'::regrole) = 0,
    'a dump takes the rights of the hub along';
  assert (select count(*) from cloudsync.hubs) = 0, 'hubs are noted for the time of an upgrade';
  assert (select count(*) from (select * from kept except select * from cloudsync.meta_1) as k) = 0, 'stamps';
end $$;
insert into app.t values (3, 'three', 'b');
update app.t set b = 'later' where id in (0, 1);
alter table app.t rename column a to aa;
alter table app.t drop column b;
update app.t set aa = 'last' where id = 3;
update "Other" set z = 2 where y = 1;
do $$ begin
  assert (select count(*) from cloudsync.meta_1 where alive) = 3, 'captured';
  assert (select count(*) from cloudsync.meta_2 where cols is not null) = 1, 'captured';
  assert (select cols[3] > hlc from cloudsync.meta_1 where key_1 = 3), 'stamped';
  assert length(cloudsync.definitions()) > 100, 'definitions';
end $$;
select cloudsync_cleanup('app.t');
drop extension pg_sync cascade;
SQL
    query postgres -c "drop database sync_upgraded"
done
