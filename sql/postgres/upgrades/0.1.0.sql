-- From 0.1.0: what has changed of tables that were there, and public functions that went. New tables, and all other
-- functions, are made from their own files. pg_sync/tests/servers/upgrade.sh shows what is missing here.
alter table cloudsync.self drop constraint self_ordinal_fkey;
alter table cloudsync.columns drop constraint columns_table_id_fkey, add column delimiter text;
alter table cloudsync.parked drop constraint parked_table_id_fkey;

alter table cloudsync.tables
  drop constraint tables_table_name_key,
  add column enabled boolean not null default true,
  add column tracked_from bigint not null default pg_catalog.pg_current_xact_id()::pg_catalog.text::bigint,
  add column suspended text,
  add column suspended_since xid8,
  add column attributes smallint not null default 0,
  add column client_name text unique deferrable initially immediate,
  add column scope_expression text,
  add column scope_tree text,
  add column filter_expression text,
  add column filter_tree text,
  add column row_security boolean not null default false;

update cloudsync.tables as t set client_name = t.table_name;
set constraints all immediate;
alter table cloudsync.tables alter column client_name set not null;

drop function @extschema@.cloudsync_init(text, text);
drop function @extschema@.cloudsync_init(regclass, text);

alter table cloudsync.sites add column generation integer not null default 0;

grant pg_read_all_stats to cloudsync_owner;

-- The beginning of the upgrade notes them, before all other tables are made.
create table cloudsync.hubs (
  role oid primary key
);
