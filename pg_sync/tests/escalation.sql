-- Code of the owner of a table never runs with more rights than its author has.
\ir include/metadata.psql
\ir include/author.psql
create role sync_mallory;
grant create, usage on schema public to sync_mallory;
-- Tells who runs it, and whether that one could read the key of messages.
create table seen (who text);
grant insert, select on seen to public;
create function evil() returns boolean language plpgsql volatile as $$
begin
  insert into public.seen select current_user where current_user not in ('postgres', 'sync_mallory', 'sync_app');
  return true;
end
$$;
create role sync_app;
create role sync_hub login noinherit;
grant sync_app to sync_hub;
select cloudsync_grant_hub('sync_hub');

\echo == the check of a domain, while parked cells are read and while a snapshot is taken
create domain checked as text check (evil());
create table author.d (id integer primary key, x checked);
select cloudsync_init('author.d');
insert into author.d values (1, 'parked');
select author.stamp(1, 1000, 'aa', '{"x": 5000}');
select author.payload() as written \gset
delete from author.d;
select author.stamp(1, 3000, 'bb');
select author.payload(true) as deleted \gset
select cloudsync_cleanup('author.d');
create table d (id integer primary key, x checked);
select cloudsync_init('d');
select cloudsync_payload_apply(:'written');
select cloudsync_payload_apply(:'deleted');
select count(*) from cloudsync.parked;
select cloudsync_payload_apply(:'written');
select distinct who from seen;
truncate seen;
create table k (id checked primary key);
select cloudsync_init('k');
insert into k values ('a'), ('b');
select table_id as k from cloudsync.tables where table_name = 'k' \gset
begin;
set local role cloudsync_owner;
select next as after from cloudsync.snapshot_part(:k, false, null, 1) \gset
select row_count from cloudsync.snapshot_part(:k, false, :'after', 10);
commit;
select distinct who from seen;
truncate seen;

\echo == a view under the old name of a table
create table author.m (id integer primary key, x text);
select cloudsync_init('author.m');
insert into author.m values (1, 'from afar');
select author.payload() as renamed \gset
select cloudsync_cleanup('author.m');
set role sync_mallory;
create table m (id integer primary key, x text);
select cloudsync_init('m');
insert into m values (1, 'one');
alter table m rename to hidden;
create view m as select id, x from hidden where evil();
grant select on m to cloudsync_owner;
begin;
update hidden set x = 'two';
update hidden set x = 'three';
commit;
reset role;
select distinct who from seen;
truncate seen;
select table_id as m from cloudsync.tables where relation = 'hidden'::regclass \gset
begin;
set local role cloudsync_owner;
select row_count from cloudsync.snapshot_part(:m, false, null, 10);
commit;
select distinct who from seen;
truncate seen;
-- Also where renaming is not followed.
drop view m;
alter table hidden rename to m;
alter event trigger cloudsync_definitions disable;
alter table m rename to hidden;
create view m as select id, x from hidden where evil();
grant select on m to cloudsync_owner;
update hidden set x = 'four';
select cloudsync_payload_apply(:'renamed');
select row_count from cloudsync.snapshot_part(:m, false, null, 10);
alter event trigger cloudsync_definitions enable;
select cloudsync_init('hidden');
update hidden set x = 'five';
select row_count from cloudsync.snapshot_part(:m, false, null, 10);
select distinct who from seen;

\echo == a temporary view in place of a transition table
set role sync_mallory;
create table n (id integer primary key, x text);
select cloudsync_init('n');

reset role;
select 'cloudsync.capture_insert_' || table_id as capture from cloudsync.tables where table_name = 'n' \gset
set role sync_mallory;
create temp view cloudsync_new as select 7 as id, 'forged' as x where evil();
grant select on cloudsync_new to public;
create trigger forged after insert on n for each statement execute function :capture();
insert into n values (1, 'one');
drop trigger forged on n;
insert into n values (2, 'two');
drop view cloudsync_new;
reset role;
select distinct who from seen;
truncate seen;
select metadata('n');

\echo == a trigger that takes another role, or leaves settings behind
create table author.s (id integer primary key, x text);
select cloudsync_init('author.s');
insert into author.s values (1, 'sent');
select author.payload() as sent \gset
select cloudsync_cleanup('author.s');
create table s (id integer primary key, x text);
grant select, insert, update, delete on s to sync_app;
create function take_over() returns trigger language plpgsql as $$
begin
  perform set_config('search_path', 'public, pg_catalog', false);
  perform set_config('role', 'cloudsync_owner', true);
  return new;
end
$$;
create trigger take_over before insert on s for each row execute function take_over();
select cloudsync_init('s');
set session authorization sync_hub;
show search_path;
select cloudsync.apply_upload(:'sent', decode(repeat('aa', 16), 'hex'), decode(repeat('01', 16), 'hex'), 1, 1, null, 'sync_app', '{}') -> 'rejected' -> 0 ->> 'message';
show search_path;
select current_user;
reset session authorization;
create or replace function take_over() returns trigger language plpgsql as $$
begin
  perform set_config('search_path', 'public, pg_catalog', false);
  return new;
end
$$;
set session authorization sync_hub;
select cloudsync.apply_upload(:'sent', decode(repeat('bb', 16), 'hex'), decode(repeat('01', 16), 'hex'), 1, 1, null, 'sync_app', '{}') ->> 'status';
show search_path;
select current_user, current_setting('role'), current_setting('request.jwt.claims', true) as claims;
reset session authorization;
table s;

drop extension pg_sync cascade;
drop owned by sync_app, sync_hub, sync_mallory cascade;
drop role sync_app, sync_hub, sync_mallory;
