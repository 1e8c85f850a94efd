-- Apply has the caller's rights, and no more.
\ir include/metadata.psql
\ir include/author.psql
create table author.t (id integer primary key, owner text, x text);
create table t (id integer primary key, owner text, x text);
select cloudsync_init('author.t');
insert into author.t values (1, 'bob', 'new'), (2, 'eve', 'new'), (3, 'bob', 'touched'), (4, 'eve', 'touched'), (5, 'bob', 'same'), (6, 'eve', 'same');
select author.stamp(id, 1000, 'aa') from author.t where id < 3;
select author.stamp(id, 1000, 'aa', '{"x": 2000}') from author.t where id > 2;
select author.payload() as written \gset
delete from author.t;
select author.stamp(id, 3000, 'aa') from generate_series(1, 6) as id;
insert into author.t values (7, '', ''), (8, '', '');
delete from author.t;
select author.stamp(7, 3000, 'aa'), author.stamp(8, 3000, 'aa');
select author.payload(true) as deleted \gset
select cloudsync_cleanup('author.t');
insert into t values (3, 'bob', 'old'), (4, 'eve', 'old'), (5, 'bob', 'same'), (6, 'eve', 'same');
select cloudsync_init('t');
alter table t enable row level security;
create policy own on t using (owner = nullif(current_setting('request.jwt.claims', true), '')::json ->> 'sub');
create role sync_app;
create role sync_reader;
create role sync_hub login noinherit;
grant select, insert, update, delete on t to sync_app;
grant select on t to sync_reader;
grant sync_app, sync_reader to sync_hub;
select cloudsync_grant_hub('sync_hub');
create function upload(payload bytea, site text, role text) returns setof text language sql as $$
  select concat_ws(' ', u.answer ->> 'status', r.value -> 'key', r.value ->> 'sqlstate', r.value ->> 'message')
  from (select cloudsync.apply_upload(payload, decode(repeat(site, 16), 'hex'), decode(repeat('01', 16), 'hex'), 1, 9, null, role, '{"sub": "bob"}') as answer) as u
  left join lateral jsonb_array_elements(u.answer -> 'rejected') as r on true
  order by r.value -> 'key'
$$;
set session authorization sync_hub;
\echo == a reader may write nothing
begin;
select upload(:'written', 'aa', 'sync_reader');
rollback;
\echo == rows of somebody else are refused, also where only the stamp would change
select upload(:'written', 'aa', 'sync_app');
select current_user, current_setting('request.jwt.claims');
reset session authorization;
select * from t order by id;
select metadata('t');
set session authorization sync_hub;
\echo == deletions, some of rows that are not there
begin;
select upload(:'deleted', 'bb', 'sync_reader');
rollback;
select upload(:'deleted', 'bb', 'sync_app');
reset session authorization;
select * from t order by id;
select metadata('t');
\echo == a role that the hub may not take
set session authorization sync_hub;
select upload(:'written', 'cc', 'postgres');
\echo == what the hub reads
select row_count from cloudsync.snapshot_part(2, false, null, 10);
begin;
set local role cloudsync_owner;
set local row_security = off;
select row_count from cloudsync.snapshot_part(2, false, null, 10);
commit;
select length(cloudsync.message_key()), length(cloudsync.definitions()) > 0, nextval('cloudsync.fence');
select schema, name from cloudsync.tracked_tables;
reset session authorization;
\echo == everybody else
set session authorization sync_app;
select cloudsync.apply_upload('\x00', '\x00', '\x00', 1, 1, null, null, null);
select cloudsync.definitions();
select cloudsync.stage_unchanged(1, row(1), true, 1, 1, null);
select cloudsync_payload_apply('\x00');
reset session authorization;
\echo == whoever may have an extension may alter it
grant create on database :database to sync_app;
set session authorization sync_app;
create schema sync_app;
create extension citext schema sync_app;
alter extension citext update;
reset session authorization;
drop extension pg_sync cascade;
drop owned by sync_app, sync_reader, sync_hub;
drop role sync_app, sync_reader, sync_hub;
