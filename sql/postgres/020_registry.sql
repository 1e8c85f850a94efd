-- The registry: which tables and columns are tracked, under which numbers, and who this
-- database is. Ids are never used again, so that old messages stay readable.

create table cloudsync.site_dictionary (
  ordinal integer primary key,
  site bytea not null unique check (octet_length(site) = 16)
);

create sequence cloudsync.site_ordinal as integer;

-- Ordinal 0 is nobody: the stamp of a column that the creation of its row did not carry.
insert into cloudsync.site_dictionary (ordinal, site)
values (0, decode('00000000000000000000000000000000', 'hex'));

-- One row, made at the first use. The last three columns say which database the site id was made for: when one of
-- them changes, this is a copy, and it takes a new site id.
create table cloudsync.self (
  only_row boolean primary key default true check (only_row),
  ordinal integer not null,
  system_identifier text not null,
  timeline integer not null,
  database_oid oid not null
);

-- No foreign keys here: a parallel restore fills the tables in any order.

create sequence cloudsync.table_number as integer;

create table cloudsync.tables (
  table_id integer primary key default nextval('cloudsync.table_number'),
  relation regclass not null unique,
  schema_name text not null,
  table_name text not null,
  incarnation bigint not null,
  version integer not null,
  algorithm smallint not null default 0,
  enabled boolean not null default true,
  -- The transaction that tracked it: rows without metadata count as changed by it.
  tracked_from bigint not null default pg_catalog.pg_current_xact_id()::pg_catalog.text::bigint,
  -- Why its writes are not captured for now, and which transactions may have written since.
  suspended text,
  suspended_since xid8,
  -- How many columns the table has had: a column that is not tracked yet, and numbered below, was there before.
  attributes smallint not null default 0,
  -- What clients call it; checked when a statement ends, so that two tables can change names.
  client_name text not null unique deferrable initially immediate,
  -- Who reads a row, and which rows take part: as SQL over its columns, and as the server writes that down for itself,
  -- with columns by their numbers.
  scope_expression text,
  scope_tree text,
  filter_expression text,
  filter_tree text,
  -- Whether policies hold for the table.
  row_security boolean not null default false
);

-- Every definition that was ever announced: messages written under it may be read much later.
create table cloudsync.announced_definitions (
  table_id integer not null,
  incarnation bigint not null,
  version integer not null,
  definition bytea not null,
  primary key (table_id, incarnation, version)
);

-- Tables that the running command rewrites, and why: see `pg_event_trigger_table_rewrite_reason()`.
create table cloudsync.rewritten (
  table_id integer not null,
  reason integer not null
);

-- A column's id is its attribute number: Postgres never uses one again within a table.
create table cloudsync.columns (
  table_id integer not null,
  column_id smallint not null,
  name text not null,
  type_name text not null,
  type_oid regtype not null,
  key_position smallint,
  equality text,
  algorithm smallint not null default 0,
  column_group text,
  delimiter text,
  primary key (table_id, column_id)
);

-- Partitions of tracked tables, of every level, whose triggers stand: those that come or go are told by comparison.
create table cloudsync.partitions (
  relation regclass primary key,
  table_id integer not null
);

-- Cells that were written and are too large to travel: others do not have these values.
create table cloudsync.too_large (
  table_id integer not null,
  row_key jsonb not null,
  column_id smallint not null,
  bytes bigint not null,
  seen_at timestamptz not null default clock_timestamp(),
  primary key (table_id, row_key, column_id)
);

-- Roles of hubs while the extension is upgraded: they are granted what they need when that has ended.
create table cloudsync.hubs (
  role oid primary key
);

-- Transactions whose writes were not captured: the table had changed, and the registry not yet.
create table cloudsync.uncaptured (
  table_id integer not null,
  written_by xid8 not null default pg_catalog.pg_current_xact_id()
);

-- What is served: clients keep what they have of a table that is not in a snapshot.
create view cloudsync.tracked_tables as
select t.table_id, t.schema_name as schema, t.table_name as name
from cloudsync.tables as t
where t.enabled and exists (select from pg_catalog.pg_class as c where c.oid = t.relation);

-- What users set for the database, for a table, and for a column.
create table cloudsync.settings (
  key text primary key,
  value text not null
);

-- In which schema the table is that clients call by a name without one.
create table cloudsync.table_schemas (
  table_name text primary key,
  schema_name text not null
);

create table cloudsync.table_settings (
  table_id integer not null,
  column_name text not null default '',
  key text not null,
  value text not null,
  primary key (table_id, column_name, key)
);

-- Values of cells that are newer than the deletion of their row, one entry a row.
create table cloudsync.parked (
  table_id integer not null,
  row_key bytea not null,
  payload bytea not null,
  primary key (table_id, row_key)
);

-- Columns that uploads named and no tracked table has.
create table cloudsync.skipped_columns (
  table_name text not null,
  column_name text not null,
  site bytea not null,
  seen_at timestamptz not null default clock_timestamp(),
  primary key (table_name, column_name, site)
);

-- What Postgres knows of each site that uploads: how far it got, and the token by which a
-- copy of its file is told from the file itself.
create table cloudsync.sites (
  site bytea primary key check (octet_length(site) = 16),
  acked bigint not null,
  token bytea not null check (octet_length(token) = 16),
  upload_id bytea not null,
  accepted_hlc bigint not null default 0,
  seen_at timestamptz not null default clock_timestamp(),
  generation integer not null default 0
);

-- One row for each time after which this database may lack what it once had: it became a copy of itself on
-- another timeline ('failover'), or was restored on purpose ('restore'). Until a site was heard of since, its
-- number and token may be older than what the site was told.
create table cloudsync.generations (
  generation integer primary key,
  cause text not null check (cause in ('failover', 'restore')),
  tag uuid not null default gen_random_uuid(),
  began_at timestamptz not null default clock_timestamp()
);

-- Rows that the database refused, kept until their site has confirmed that it knows.
create sequence cloudsync.rejection_number;

create table cloudsync.rejected (
  rejection_id bigint primary key default nextval('cloudsync.rejection_number'),
  site bytea not null,
  table_name text not null,
  row_key bytea not null,
  key jsonb not null,
  sqlstate text not null,
  message text not null,
  first_number bigint not null,
  last_number bigint not null,
  rejected_at timestamptz not null default clock_timestamp(),
  unique (site, table_name, row_key)
);

-- Values of uploads that lost to what was here, so that they can be looked up also when their device is gone.
create sequence cloudsync.conflict_number;

create table cloudsync.conflicts (
  conflict_id bigint primary key default nextval('cloudsync.conflict_number'),
  table_id integer not null,
  table_name text not null,
  key jsonb not null,
  column_name text not null,
  lost_value text,
  lost_hlc bigint not null,
  lost_site bytea not null,
  won_hlc bigint not null,
  won_site bytea not null,
  reason text not null,
  lost_at timestamptz not null default clock_timestamp(),
  -- Its site may be told: an upload that is asked about again is answered with it.
  is_told boolean not null default false
);

create index conflicts_told on cloudsync.conflicts (lost_site, conflict_id) where is_told;

-- The key that signs messages: only the owner and the hub may read it.
create table cloudsync.secret (
  only_row boolean primary key default true check (only_row),
  key bytea not null check (octet_length(key) = 32)
);

insert into cloudsync.secret (key)
values (sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())));

-- Numbers that order the leaders of the hub.
create sequence cloudsync.fence;

-- Rights on functions of the server that were taken from everybody.
create table cloudsync.revoked_functions (
  signature text primary key
);

-- A dump carries all of it; the restored database then takes a new site id by itself.
select pg_catalog.pg_extension_config_dump('cloudsync.site_dictionary', 'where ordinal <> 0');
select pg_catalog.pg_extension_config_dump('cloudsync.site_ordinal', '');
select pg_catalog.pg_extension_config_dump('cloudsync.self', '');
select pg_catalog.pg_extension_config_dump('cloudsync.tables', '');
select pg_catalog.pg_extension_config_dump('cloudsync.columns', '');
select pg_catalog.pg_extension_config_dump('cloudsync.settings', '');
select pg_catalog.pg_extension_config_dump('cloudsync.table_schemas', '');
select pg_catalog.pg_extension_config_dump('cloudsync.table_settings', '');
select pg_catalog.pg_extension_config_dump('cloudsync.announced_definitions', '');
select pg_catalog.pg_extension_config_dump('cloudsync.partitions', '');
select pg_catalog.pg_extension_config_dump('cloudsync.too_large', '');
select pg_catalog.pg_extension_config_dump('cloudsync.table_number', '');
select pg_catalog.pg_extension_config_dump('cloudsync.rejection_number', '');
select pg_catalog.pg_extension_config_dump('cloudsync.conflicts', '');
select pg_catalog.pg_extension_config_dump('cloudsync.conflict_number', '');
select pg_catalog.pg_extension_config_dump('cloudsync.fence', '');
select pg_catalog.pg_extension_config_dump('cloudsync.parked', '');
select pg_catalog.pg_extension_config_dump('cloudsync.skipped_columns', '');
select pg_catalog.pg_extension_config_dump('cloudsync.sites', '');
select pg_catalog.pg_extension_config_dump('cloudsync.generations', '');
select pg_catalog.pg_extension_config_dump('cloudsync.rejected', '');
