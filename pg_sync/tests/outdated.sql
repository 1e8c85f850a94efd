-- The library of the next release beside the tables of this one, which lack what it reads: users write all the same.
\ir include/metadata.psql
create table t (id integer primary key, a text, b integer);
create table r (id integer primary key, a text, n integer);
select length(cloudsync_init('t')) > 0 as ok \gset
select length(cloudsync_init('r')) > 0 as ok \gset
select cloudsync_set_column('r', 'n', 'algo', 'counter');
select payload from cloudsync.tables, cloudsync.snapshot_part(table_id, false, null, 10) where table_name = 't' \gset
update pg_extension set extversion = '0.1.9' where extname = 'pg_sync';
alter table cloudsync.tables rename column attributes to attributes_later;
\connect
insert into t values (1, 'one', 1), (2, 'two', 2);
update t set a = 'changed' where id = 1;
delete from t where id = 2;
insert into r values (1, 'one', 1);
update r set n = n + 1;
select metadata('t');
select metadata('r');
\echo == what merges or tells of tables waits for the update
select cloudsync_payload_apply(:'payload');
select length(cloudsync.definitions());
\echo == a session that saw it takes the short way afterwards
alter table cloudsync.tables rename column attributes_later to attributes;
update pg_extension set extversion = cloudsync_version() where extname = 'pg_sync';
insert into t values (3, 'three', 3);
select metadata('t');
select length(cloudsync.definitions()) > 0;
