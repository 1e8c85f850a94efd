-- The functions that set tracking up: results as on SQLite, whose right it takes, and what a disabled table does.
\ir include/metadata.psql
\ir include/author.psql
create table t (id integer primary key, a text);
select cloudsync_init('t') = encode(cloudsync_siteid(), 'hex'), cloudsync_init('t'::regclass, null, 7) = cloudsync_init('t', 'cls');
select cloudsync_init('t', 'cls', 8);
select cloudsync_init(null::text);
\echo == all tables of a schema, all or none
create schema app;
create table app.one (id text primary key);
create table app.two (id text primary key);
create table app.three (id text);
set search_path = app, public;
select cloudsync_init('*');
select count(*) from cloudsync.tables where schema_name = 'app';
drop table app.three;
select cloudsync_init('*') = cloudsync_init('*');
select schema, name from cloudsync.tracked_tables order by 1, 2;
reset search_path;
create schema empty;
set search_path = nowhere;
select public.cloudsync_init('*');
reset search_path;
select cloudsync_cleanup('*');
select count(*) from cloudsync.tables;
select cloudsync_cleanup('t'), cloudsync_cleanup('t'::regclass);
\echo == values
select cloudsync_init('t');
select cloudsync_set('payload_max_chunk_size', '1000000'), cloudsync_set_table('t', 'colour', 'red'), cloudsync_set_column('t', 'a', 'label', 'What');
select * from cloudsync.settings;
select table_id, column_name, key, value from cloudsync.table_settings order by 2;
select cloudsync_set('payload_max_chunk_size', null), cloudsync_set_table('t', 'colour', null);
select (select count(*) from cloudsync.settings), (select count(*) from cloudsync.table_settings);
select cloudsync_set('payload_max_chunk_size', 'much');
select cloudsync_set('schema', 'x');
select cloudsync_set(null, 'x');
select cloudsync_set_table('t', 'filter', 'true');
select cloudsync_set_table('app.one', 'colour', 'red');
select cloudsync_set_table('t', 'algo', 'cls'), cloudsync_set_column('t', 'a', 'algo', 'lww');
select cloudsync_set_table('t', 'algo', 'xyz');
select cloudsync_set_column('t', 'a', 'algo', 'xyz');
select cloudsync_set_column('t', 'nothing', 'label', 'What');
select cloudsync_set_column('t', '', 'label', 'What');
select cloudsync_begin_alter('t'), cloudsync_commit_alter('t'), cloudsync_terminate();
select cloudsync_begin_alter('app.one');
\echo == a disabled table: stamped, not sent, not received
create table author.t (id integer primary key, a text);
select cloudsync_init('app.one');
select cloudsync_cleanup('t');
select cloudsync_init('author.t');
insert into author.t values (9, 'sent');
select author.stamp(9, 1000, 'aa');
select author.payload() as sent \gset
select cloudsync_cleanup('author.t');
select cloudsync_init('t');
insert into t values (1, 'before');
select pg_create_logical_replication_slot('pg_sync_settings', 'pg_sync') is not null;
create function frames() returns text language sql as $$
  select count(*) || ' frames, ' || coalesce(sum((position('held' in encode(data, 'escape')) > 0)::integer), 0) || ' with what was held, '
    || coalesce(sum((position('enable' in encode(data, 'escape')) > 0)::integer), 0) || ' with reload'
  from pg_logical_slot_get_binary_changes('pg_sync_settings', null, null)
$$;
select cloudsync_disable('t'), cloudsync_is_enabled('t'), cloudsync_is_enabled('app.two');
select frames();
insert into t values (2, 'held');
update t set a = 'held too' where id = 1;
delete from t where id = 2;
truncate t;
insert into t values (1, 'held again');
select frames();
select metadata('t');
select cloudsync_payload_apply(:'sent');
select count(*) from cloudsync.tracked_tables where name = 't';
select cloudsync_enable('t'), cloudsync_is_enabled('t');
select cloudsync_enable('t');
select frames();
insert into t values (3, 'later');
select frames();
select cloudsync_payload_apply(:'sent');
select cloudsync_disable('app.two');
\echo == a table that cannot be captured for now stays as it is set
create table lame (id integer primary key, a text);
select cloudsync_init('lame');
set client_min_messages = error;
alter table lame drop constraint lame_pkey;
select cloudsync_disable('lame'), cloudsync_is_enabled('lame');
select cloudsync_enable('lame'), cloudsync_disable('lame');
alter table lame add primary key (id);
set client_min_messages = warning;
insert into lame values (1, 'held');
select frames();
select cloudsync_enable('lame');
select frames();
\echo == whose right it takes
create role sync_other;
grant all on t to sync_other;
set role sync_other;
select cloudsync_disable('t');
select cloudsync_set_table('t', 'colour', 'red');
select cloudsync_set_column('t', 'a', 'label', 'What');
select cloudsync_set('payload_max_chunk_size', '1');
select cloudsync_begin_alter('t');
select cloudsync_cleanup('*');
select cloudsync_is_enabled('t'), cloudsync_terminate();
reset role;
select pg_drop_replication_slot('pg_sync_settings');
drop owned by sync_other;
drop role sync_other;
\echo == facts
select cloudsync_uuid_text('\x0189f7e27c3a7d528c1e001122334455'), cloudsync_uuid_text('\x0189f7e27c3a7d528c1e001122334455', 0);
select cloudsync_uuid_blob('0189f7e2-7c3a-7d52-8c1e-001122334455'), cloudsync_uuid_blob('0189F7E27C3A7D528C1E001122334455');
select cloudsync_uuid_text('\x01'), 1;
select cloudsync_uuid_blob('0189f7e2-7c3a');
select cloudsync_uuid_text(null) is null, cloudsync_uuid_blob(null) is null;
select cloudsync_db_version() as first \gset
insert into t values (4, 'x');
select cloudsync_db_version() >= :first;
