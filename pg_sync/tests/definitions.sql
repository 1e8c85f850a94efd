-- A tracked table changes: writes go on, and the registry follows.
\ir include/metadata.psql
create schema app;
create type app.colour as enum ('red');
create table t (id integer primary key, a text, b integer, c app.colour);
select cloudsync_init('t');
insert into t values (1, 'one', 1, 'red');
create function known() returns setof text language sql as $$
  select concat_ws(' ', t.schema_name, t.table_name, 'version', t.version, string_agg(concat_ws(':', c.column_id, c.name, c.type_name), ' ' order by c.column_id))
  from cloudsync.tables as t join cloudsync.columns as c using (table_id) group by t.table_id
$$;
\echo == a column is dropped, another renamed, a third added
alter table t drop column b;
update t set a = 'two';
alter table t rename column a to "A b";
update t set "A b" = 'three';
alter table t add column d numeric(10,2) default 5;
insert into t values (2, 'x', 'red', 6);
update t set d = 7;
begin;
update t set d = 8;
update t set d = 9;
commit;
delete from t where id = 2;
select known();
select metadata('t');
\echo == by a cascade
drop type app.colour cascade;
update t set d = 10;
select known();
\echo == the table and its schema are renamed
alter table t rename to u;
begin;
update u set d = 11;
update u set d = 12;
commit;
alter table u set schema app;
grant usage on schema app to cloudsync_owner;
alter table u set schema app;
alter schema app rename to "App";
insert into "App".u values (3, 'y', 1);
truncate "App".u;
select known();
select metadata('u');
\echo == its type changes
alter table "App".u alter column d type bigint;
insert into "App".u values (4, 'z', 1);
select known();
\echo == a rolled-back change leaves no trace
begin;
alter table "App".u drop column d;
rollback;
update "App".u set d = 2;
select known();
\echo == the key is followed too: see keys.sql
alter table "App".u alter column id type bigint;
insert into "App".u values (5, 'wide', 1);
alter table "App".u drop column id;
insert into "App".u values ('not captured', 1);
delete from "App".u;
alter table "App".u add column id bigint primary key;
insert into "App".u values ('captured', 1, 6);
select known();
select metadata('u');
\echo == what is not followed
create table t (id integer primary key);
select cloudsync_init('t');
alter table t rename to u;
\echo == a table in the place of one that was dropped
drop table "App".u;
alter table t rename to u;
insert into u values (2);
select known();
\echo == somebody who may not touch the registry changes their own table
create role sync_dora;
grant create, usage on schema public to sync_dora;
set role sync_dora;
create table mine (id integer primary key, x text);
select cloudsync_init('mine');
alter table mine rename column x to y;
insert into mine values (1, 'one');
drop table mine;
reset role;
drop extension pg_sync cascade;
alter table u add column x text;
drop owned by sync_dora;
drop role sync_dora;
