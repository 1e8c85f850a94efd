-- Two tables of one name in two schemas: which of them clients mean, and what they call the other.
\ir include/metadata.psql
create schema app;
create schema other;
create schema author;
create table app.t (id integer primary key, a text);
create table other.t (id integer primary key, a text);
create table author.t (id integer primary key, a text);
create table public.alone (id integer primary key);
create function named() returns setof text language sql as $$
  select t.schema_name || '.' || t.table_name || ' is ' || t.client_name || ', version ' || t.version from cloudsync.tables as t order by t.table_id
$$;
create function payload(relation regclass) returns bytea language sql as $$
  select p.payload from cloudsync.tables as t, cloudsync.snapshot_part(t.table_id, false, null, 10) as p where t.relation = payload.relation
$$;
\echo == nothing is set: one table of a name
select cloudsync_init('app.t'), cloudsync_init('alone');
select cloudsync_init('other.t');
select cloudsync_table_schema('t'), cloudsync_table_schema('alone'), cloudsync_table_schema('nothing') is null;
\echo == a schema for all names
select cloudsync_set_schema('nowhere');
select pg_create_logical_replication_slot('pg_sync_schemas', 'pg_sync') is not null;
select cloudsync_set_schema('app');
select count(*) from pg_logical_slot_get_binary_changes('pg_sync_schemas', null, null) where position('public.alone' in encode(data, 'escape')) > 0;
select cloudsync_init('other.t');
select named();
select cloudsync_table_schema('t'), cloudsync_table_schema('other.t'), cloudsync_table_schema('nothing');
\echo == another schema for one name
select cloudsync_set_table_schema('t', 'other'), cloudsync_set_table_schema('alone', 'public');
select named();
select cloudsync_set_table_schema('t', 'other');
select count(*) from cloudsync.tables where version > 3;
\echo == renamed, and moved
alter table other.t set schema public;
select named();
alter table public.t rename to u;
select cloudsync_table_schema('t'), cloudsync_table_schema('public.u');
alter table public.u rename to t;
create table public."other.t" (id integer primary key);
select cloudsync_set_table_schema('other.t', 'public');
alter table public.t set schema other;
select cloudsync_set_table_schema('t', 'app');
select cloudsync_init('"other.t"');
select cloudsync_set_table_schema('other.t', null);
select cloudsync_init('"other.t"');
select cloudsync_cleanup('"other.t"');
select named();
\echo == payloads find the table that is meant
select cloudsync_set_table_schema('t', 'author');
select cloudsync_init('author.t');
insert into author.t values (1, 'for t');
select payload('author.t') as plain \gset
select cloudsync_cleanup('author.t');
select cloudsync_set_table_schema('t', null);
select cloudsync_payload_apply(:'plain');
select id, a from app.t;
insert into other.t values (2, 'for other.t');
select payload('other.t') as qualified \gset
select cloudsync_cleanup('other.t');
delete from other.t;
select cloudsync_init('other.t');
select cloudsync_payload_apply(:'qualified');
select id, a from other.t;
select tbl, col_value from cloudsync_changes where col_name = 'a' order by tbl;
select t ->> 'schema', t ->> 'name', t ->> 'clientName' from jsonb_array_elements(cloudsync_status() -> 'tables') as t;
\echo == set back
select cloudsync_set_schema(null);
select cloudsync_set_table_schema('t', 'app');
select cloudsync_set_schema(null);
select named();
create role sync_other;
set role sync_other;
select cloudsync_set_schema('app');
select cloudsync_set_table_schema('t', 'app');
select cloudsync_table_schema('t');
reset role;
drop role sync_other;
select pg_drop_replication_slot('pg_sync_schemas');
\echo == all tables of the schema that is set
select cloudsync_cleanup('*');
create table app.more (id integer primary key);
select cloudsync_set_schema('app');
select cloudsync_init('*');
select named();
