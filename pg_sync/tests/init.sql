-- What cannot be tracked, and who may set tracking up.
\ir include/metadata.psql
create table no_key (a integer);
select cloudsync_init('no_key');
create view seen as select 1 as id;
select cloudsync_init('seen');
create table parts (id integer primary key) partition by range (id);
create table part partition of parts for values from (0) to (10);
select cloudsync_init('part');
create table inexact (id numeric primary key);
select cloudsync_init('inexact');
create table padded (id char(3) primary key);
select cloudsync_init('padded');
create collation loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
create table folded (id text collate loose primary key);
select cloudsync_init('folded');
create unlogged table forgetful (id integer primary key);
select cloudsync_init('forgetful');
create temporary table passing (id integer primary key);
select cloudsync_init('passing');
select cloudsync_init('missing');
create table t (id integer primary key);
select cloudsync_init('t', 'xyz');
select cloudsync_cleanup('t');
select count(*) from cloudsync.tables;
\echo == names
create schema other;
create table other.t (id integer primary key);
create table "Odd ""name"" é" ("Key" uuid, "key 2" text, "select" text, primary key ("key 2", "Key"));
select cloudsync_init('t');
select cloudsync_init('t');
select cloudsync_init('other.t');
select cloudsync_init('"Odd ""name"" é"');
insert into "Odd ""name"" é" values ('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a01', 'x', 'y');
update "Odd ""name"" é" set "select" = 'z';
select key_1, key_2, alive from cloudsync.meta_2;
select schema, name from cloudsync.tracked_tables order by 2;
\echo == a table that was dropped, and made again
create table short (id integer primary key);
select cloudsync_init('short');
drop table short;
select count(*) from cloudsync.tracked_tables;
select length(cloudsync.definitions()) > 0;
create table short (id integer primary key, more text);
select cloudsync_init('short');
insert into short values (1, 'x');
select schema, name from cloudsync.tracked_tables order by 2;
\echo == who may
begin;
create role sync_maker;
create schema made authorization sync_maker;
set local role sync_maker;
create table made.own (id integer primary key, a text);
select cloudsync_init('made.own');
insert into made.own values (1, 'x');
savepoint s;
select cloudsync_init('public.t');
rollback to s;
select * from cloudsync.tables;
rollback to s;
select cloudsync.message_key();
rollback to s;
select cloudsync.emit_reload(1, 'x');
rollback to s;
select pg_logical_emit_message(true, 'cloudsync', 'x');
rollback to s;
create table made.foreign_trigger (id integer primary key);
create trigger wrong after insert on made.foreign_trigger referencing new table as cloudsync_new
for each statement execute function cloudsync.capture_insert_1();
insert into made.foreign_trigger values (1);
rollback;
\echo == a copy is another site
select cloudsync_siteid() as before \gset
update cloudsync.self set database_oid = 1;
\c
select cloudsync_siteid() <> :'before', length(cloudsync_siteid()), cloudsync_siteid() = cloudsync_siteid();
select cloudsync_version(), substr(cloudsync_uuid()::text, 15, 1);
