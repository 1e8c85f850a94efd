-- What the centre says of itself: status with a real slot, refusals, lost values, parked cells, and to whom.
\ir include/metadata.psql
\ir include/author.psql
create table author.t (id integer primary key, a text, b integer);
create table t (id integer primary key check (id < 9), a text, b integer);
select cloudsync_init('author.t');
insert into author.t select i, 'client', i from generate_series(1, 4) as i;
insert into author.t values (9, 'refused', 9);
select count(author.stamp(id, 1000, 'aa', '{"a": 2000}')) from author.t;
select author.payload() as client \gset
update author.t set a = 'late';
select count(author.stamp(id, 500, 'aa', '{"a": 5000}')) from author.t;
update cloudsync.meta_1 set hlc = 0 where key_1 = 4;
select author.payload() as late \gset
delete from author.t;
insert into author.t select i, 'server', i from generate_series(1, 3) as i;
select count(author.stamp(id, 900, 'bb', '{"a": 3000}')) from author.t;
select author.payload() as server \gset
delete from author.t;
delete from cloudsync.meta_1 where key_1 <> 2;
select author.stamp(2, 4000, 'bb');
select author.payload(true) as deleted \gset
select cloudsync_cleanup('author.t');
select cloudsync_init('t');
\echo == nothing yet
select cloudsync_status() - 'version' - 'siteId' - 'dbVersion' - 'tables' = '{"slots": [], "sites": 0, "tooLarge": 0, "parked": 0, "skipped": 0, "rejected": 0, "conflicts": 0, "oldestSite": null}';
select cloudsync_status() ->> 'version' = cloudsync_version(), cloudsync_status() ->> 'siteId' = encode(cloudsync_siteid(), 'hex'), (cloudsync_status() ->> 'dbVersion')::bigint between 3 and cloudsync_db_version();
\echo == a slot that nobody reads keeps what was written
select pg_create_logical_replication_slot('pg_sync_reports', 'pg_sync') is not null;
insert into t select i, repeat('x', 2000), 0 from generate_series(-100, -1) as i;
delete from t;
select s ->> 'name', s ->> 'active', s ->> 'status', (s ->> 'lagBytes')::bigint > 200000, (s ->> 'retainedBytes')::bigint >= (s ->> 'lagBytes')::bigint, s ->> 'confirmedLsn' is not null from jsonb_array_elements(cloudsync_status() -> 'slots') as s;
select count(*) > 0 from pg_logical_slot_get_binary_changes('pg_sync_reports', null, null);
select (s ->> 'lagBytes')::bigint < 100000 from jsonb_array_elements(cloudsync_status() -> 'slots') as s;
select pg_drop_replication_slot('pg_sync_reports');
\echo == what uploads left behind
select cloudsync_payload_apply(:'server');
select cloudsync_payload_apply(:'deleted');
create function upload(payload bytea, number bigint) returns text language sql as $$
  select cloudsync.apply_upload(payload, decode(repeat('aa', 16), 'hex'), decode(lpad(to_hex(number), 32, '0'), 'hex'), number, number, (select s.token from cloudsync.sites as s), null, null) ->> 'status'
$$;
select upload(:'client', 1);
select tbl, key, sqlstate, message, first, last, left(encode(site_id, 'hex'), 2), at > now() - interval '1 hour' from cloudsync_rejected;
select tbl, key, col, lost_value, lost_hlc >> 16 as lost_ms, left(encode(lost_site, 'hex'), 2), won_hlc >> 16 as won_ms, left(encode(won_site, 'hex'), 2), reason, at > now() - interval '1 hour' from cloudsync_conflicts order by key, col;
select cloudsync_explain('t', 9) -> 'rejected';
select s ->> 'sites', s ->> 'rejected', s ->> 'conflicts', left(s -> 'oldestSite' ->> 'site', 2), s -> 'oldestSite' ->> 'acknowledged' from cloudsync_status() as s;
select t ->> 'schema', t ->> 'name', t ->> 'algorithm', t ->> 'enabled', (t ->> 'metadataBytes')::bigint > 0 from jsonb_array_elements(cloudsync_status() -> 'tables') as t;
select upload(:'late', 2);
select tbl, length(change) > 0 from cloudsync_parked;
select cloudsync_status() ->> 'parked';
\echo == old conflicts go
update cloudsync.conflicts set lost_at = now() - interval '31 days' where conflict_id = 1;
select setval('cloudsync.conflict_number', 99);
delete from cloudsync.sites;
select upload(:'client', 1);
select min(conflict_id) > 1, max(conflict_id) >= 100 from cloudsync.conflicts;
\echo == who sees what
create role sync_maker;
create role sync_app;
create role sync_hub;
create role sync_watch;
grant pg_monitor to sync_watch;
select cloudsync_grant_hub('sync_hub');
grant select on t to sync_app;
alter table t owner to sync_maker;
create function seen() returns text language sql as $$
  select concat_ws(' ', current_user, (select count(*) > 0 from cloudsync_rejected), (select count(*) > 0 from cloudsync_conflicts), (select count(*) > 0 from cloudsync_parked),
    'status', jsonb_array_length(s -> 'tables'), jsonb_typeof(s -> 'slots'), jsonb_typeof(s -> 'rejected'))
  from cloudsync_status() as s
$$;
set role sync_maker;
select seen();
select jsonb_array_length(cloudsync_explain('t', 9) -> 'rejected');
set role sync_app;
select seen();
select jsonb_array_length(cloudsync_explain('t', 9) -> 'rejected');
delete from cloudsync_rejected;
select * from cloudsync.rejected;
select cloudsync.status_for(10, 'x');
-- A condition that tells what it is asked of is asked of nothing that its caller may not see.
create function pg_temp.tell(text) returns boolean language plpgsql cost 0.0000001 as $$ begin raise warning 'told of %', $1; return true; end $$;
select count(*) from cloudsync_rejected where pg_temp.tell(message);
select count(*) from cloudsync_conflicts where pg_temp.tell(lost_value);
select count(*) from cloudsync_parked where pg_temp.tell(tbl);
set role sync_hub;
select seen();
set role sync_watch;
select seen();
reset role;
alter table t owner to postgres;
drop owned by sync_maker, sync_app, sync_hub, sync_watch;
drop role sync_maker, sync_app, sync_hub, sync_watch;
