-- What changes rows and fires no trigger for them: the clients are told to fetch the table, and cells that a command
-- computed are stamped.
\ir include/metadata.psql
\ir include/told.psql
create table t (id integer primary key, a text, b integer, c varchar(10));
insert into t values (1, 'old', 1, 'x');
select cloudsync_init('t');
select told();
insert into t values (2, 'new', 2, 'y');
\echo == types whose values stay
alter table t alter column c type varchar(20);
alter table t alter column c type text;
alter table t alter column b type bigint;
select metadata('t');
select told();
\echo == values that are computed anew: by a cast, by an expression, by one of the same type, in one command
alter table t alter column b type text;
select metadata('t');
select told();
alter table t alter column a type text using upper(a);
select metadata('t');
select told();
begin;
update t set b = 'in between' where id = 1;
alter table t alter column b type varchar using b || '!', alter column c type text using c || '?';
update t set b = 'later' where id = 2;
commit;
select metadata('t');
select told();
select * from t order by id;
\echo == new columns
alter table t add column d text;
select told();
alter table t add column e integer default 5;
select told();
alter table t add column f double precision default random();
select told();
alter table t add column g bigint generated always as identity;
select told();
alter table t add column h text generated always as (a || b) stored;
select told();
alter table t alter column h drop expression;
select told();
alter table t add column i integer not null default 1, drop column d, alter column e type bigint;
select told();
update t set h = 'plain', i = 3 where id = 2;
select metadata('t');
\echo == none, where there are no rows
create table empty (id integer primary key);
select cloudsync_init('empty');
alter table empty add column a integer default 1;
alter table empty alter column a type text using 'x';
select told();
\echo == a rolled-back change
begin;
alter table t alter column a type text using lower(a);
rollback;
select told();
select count(*) from cloudsync.rewritten;
\echo == a change that cannot be seen by origin triggers
set session_replication_role = replica;
alter table t rename column a to aa;
alter table t alter column aa type text using lower(aa);
reset session_replication_role;
select told();
update t set aa = 'seen' where id = 1;
select name from cloudsync.columns where table_id = 1 and column_id = 2;
\echo == a domain, an enum and a composite type
create domain short as text;
create type mood as enum ('good', 'bad');
create type pair as (x integer, y integer);
create table shaped (id integer primary key, s short, m mood, p pair);
select cloudsync_init('shaped');
insert into shaped values (1, 's', 'good', (1, 2));
alter domain short rename to brief;
alter type mood rename to temper;
alter type temper rename value 'good' to 'fine';
alter type temper add value 'so-so';
insert into shaped values (2, 't', 'fine', (3, 4));
select name, type_name from cloudsync.columns where table_id = 3 order by column_id;
drop table shaped;
\echo == someone who is nobody in particular
create role sync_emil;
grant create, usage on schema public to sync_emil;
set role sync_emil;
create table mine (id integer primary key, x text);
select cloudsync_init('mine');
insert into mine values (1, 'one');
alter table mine alter column x type integer using length(x);
alter table mine alter column id type bigint;
alter table mine drop constraint mine_pkey;
alter table mine add primary key (id);
insert into mine values (2, 2);
reset role;
select told();
select metadata('mine');
drop owned by sync_emil;
drop role sync_emil;
select count(*) from cloudsync.tables;
select told();
\echo == dropped with another: each is told; one that is disabled is not
create table one (id integer primary key);
create table two (id integer primary key);
create table three (id integer primary key);
select count(cloudsync_init(name)) from unnest(array['one', 'two', 'three']) as name;
select cloudsync_disable('three');
begin;
drop table one;
rollback;
select told();
drop table one, two, three;
select told();
select count(*) from cloudsync.tables;
select pg_drop_replication_slot(:'slot');
