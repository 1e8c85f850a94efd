-- The primary key of a tracked table changes: metadata follows, and keeps the stamps of rows that are still told apart.
\ir include/metadata.psql
\ir include/told.psql
create table t (id integer primary key, a text, b integer not null);
select cloudsync_init('t');
insert into t select n, 'row ' || n, 10 * n from generate_series(1, 4) as n;
insert into cloudsync.site_dictionary values (nextval('cloudsync.site_ordinal'), decode(repeat('aa', 16), 'hex'));
create function foreign_stamps() returns void language plpgsql as $$
begin
  -- Another site wrote row 2 and column a of row 3.
  update cloudsync.meta_1 set hlc = 7 << 16, site = (select ordinal from cloudsync.site_dictionary where site = decode(repeat('aa', 16), 'hex')) where key_1::text = '2';
  update cloudsync.meta_1 set cols = array[null, null, 9 << 16, 2], hlc = 8 << 16 where key_1::text = '3';
end
$$;
select foreign_stamps();
delete from t where id = 4;
select metadata('t');
select incarnation as before from cloudsync.tables \gset
select told();
\echo == a wider type
alter table t alter column id type bigint;
select metadata('t');
select incarnation <> :before as another, version from cloudsync.tables;
select told();
insert into t values (5000000000, 'wide', 1);
update t set a = 'later' where id = 1;
select metadata('t');
\echo == a cast that is spelt out
alter table t alter column id type text using id::text;
select metadata('t');
insert into t values ('x', 'text', 2);
\echo == an expression: nothing tells which row is which
alter table t alter column id type text using 'k' || id;
select metadata('t');
select told();
\echo == other columns
alter table t drop constraint t_pkey, add primary key (b);
select count(*), bool_and(alive) from cloudsync.meta_1;
update t set a = 'by the new key' where b = 20;
select metadata('t');
alter table t drop constraint t_pkey, add primary key (id, b);
select key_1, key_2, alive from cloudsync.meta_1 order by 1;
update t set b = 21 where b = 20;
select key_1, key_2, alive from cloudsync.meta_1 order by 1, 2;
select told();
alter table t rename column id to ident;
select column_id, name, key_position from cloudsync.columns order by column_id;
select told();
\echo == no key for a while
alter table t drop constraint t_pkey;
insert into t values ('n1', 'not captured', 1), ('n2', 'not captured', 2);
update t set a = 'changed' where b = 30;
delete from t where b = 10;
select suspended from cloudsync.tables;
select told();
alter table t add primary key (ident, b);
select suspended, suspended_since from cloudsync.tables;
select key_1, key_2, alive, stamp_text(hlc, site) from cloudsync.meta_1 order by 1, 2;
select told();
insert into t values ('n3', 'captured', 3);
select alive from cloudsync.meta_1 where key_1 = 'n3';
\echo == dropped and made again in one transaction, with writes around
begin;
insert into t values ('n4', 'before', 4);
alter table t drop constraint t_pkey;
insert into t values ('n5', 'between', 5);
alter table t add primary key (ident);
rollback;
begin;
insert into t values ('n4', 'before', 4);
alter table t drop constraint t_pkey;
delete from t where b = 2;
alter table t add primary key (ident);
update t set a = 'after' where ident = 'n1';
commit;
select metadata('t');
select told();
\echo == a key that cannot be synced, and a table that is not logged
alter table t drop constraint t_pkey;
alter table t add column n numeric;
update t set n = 1000 * length(ident) + b;
alter table t add primary key (n);
select suspended from cloudsync.tables;
alter table t drop constraint t_pkey, add primary key (ident), drop column n;
select suspended from cloudsync.tables;
alter table t set unlogged;
alter table t set logged;
select suspended from cloudsync.tables;
update t set a = 'at last' where ident = 'n1';
select metadata('t');
\echo == the key is dropped with its column
alter table t drop column ident;
insert into t (a, b) values ('q', 77);
update t set b = b + length(a) * 100;
alter table t add primary key (b);
select metadata('t');
\echo == an identity becomes the key
alter table t drop constraint t_pkey, add column id bigint generated always as identity primary key;
insert into t (a, b) values ('r', 78);
select count(*), count(*) filter (where m.alive), (select count(*) from t) from cloudsync.meta_1 as m;
\echo == two tables swap their names
create table u (id bigint primary key, c text);
select cloudsync_init('u');
begin;
alter table t rename to passing;
alter table u rename to t;
alter table passing rename to u;
commit;
insert into t values (1, 'in t');
insert into u (a, b) values ('in u', 79);
select table_id, table_name, relation::regclass from cloudsync.tables order by 1;
select count(*) from cloudsync.meta_2;
\echo == a transaction that began before
create table late (id integer primary key, a text);
select cloudsync_init('late');
\setenv LATE :database
create extension dblink;
select dblink_connect('other', 'dbname=' || current_database() || ' host=' || (select split_part(setting, ',', 1) from pg_settings where name = 'unix_socket_directories') || ' port=' || current_setting('port'));
select dblink_exec('other', 'begin isolation level repeatable read');
select * from dblink('other', 'select count(*) from cloudsync.tables') as d (n bigint);
alter table late rename a to b;
alter table late rename to later;
alter table later add column c text;
select dblink_exec('other', $$insert into later values (1, 'x', 'with its column')$$);
select dblink_exec('other', 'commit');
select position('with its column'::bytea in data) > 0 from pg_logical_slot_get_binary_changes(:'slot', null, null)
where length(data) > 100 order by 1 desc limit 1;
drop table later;
\echo == old messages stay readable
select count(*) > 12, count(distinct incarnation) > 4 from cloudsync.announced_definitions where table_id = 1;
select length(cloudsync.definitions()) > 3000;
drop table t, u;
select count(*) from cloudsync.tables;
select count(*) from pg_class where relname like 'meta_%' and relnamespace = 'cloudsync'::regnamespace;
select length(cloudsync.definitions()) > 3000;
select pg_drop_replication_slot(:'slot');
