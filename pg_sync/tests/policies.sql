-- What a role may not read of a tracked table it does not read by way of ours: lines, payloads, explanations, reports.
\ir include/metadata.psql
create role sync_ann;
create role sync_columns;
create table t (id integer primary key, who name not null, secret text);
create table big (id integer primary key, who name not null);
select cloudsync_init('t') is not null, cloudsync_init('big') is not null;
insert into t values (1, 'sync_ann', 'hers'), (2, 'sync_bob', 'his'), (3, 'sync_ann', 'gone'), (4, 'sync_bob', 'gone');
delete from t where id > 2;
update t set secret = secret || ' now';
alter table t enable row level security;
alter table t force row level security;
create policy own on t using (who = current_user);
grant select on t to sync_ann;
grant select (id, who) on t to sync_columns;
create function leaky(value text) returns boolean language plpgsql cost 0.0001 as $$
begin
  raise notice 'seen: %', value;
  return true;
end
$$;
create view through_owner as select id, secret from t;
grant select on through_owner to sync_ann;

\echo == lines: her row, no other, and of what is gone nothing
set role sync_ann;
set client_min_messages = notice;
select tbl, col_name, col_value from cloudsync_changes where leaky(col_value) order by seq;
select count(*) from cloudsync_changes where tbl = 'big';
select count(distinct pk) from cloudsync_changes;
\echo == the same from a view of somebody else, and through a prepared statement of another role
reset role;
create view lines as select tbl, col_name, col_value from cloudsync_changes;
grant select on lines to sync_ann;
set role sync_ann;
select * from lines;
reset role;
prepare all_lines as select tbl, col_name, col_value from cloudsync_changes where tbl = 't';
execute all_lines \g /dev/null
set role sync_ann;
execute all_lines;
\echo == payloads: each of them merges to her row alone
select cloudsync_payload_encode() as encoded \gset
select payload as chunk from cloudsync_payload_chunks() \gset
select cloudsync_payload_encode(tbl, pk, col_name, col_value, col_version, db_version, site_id, cl, seq) as gathered from cloudsync_changes \gset
\echo == with rights on columns only, and with none
set role sync_columns;
select tbl, col_name, col_value from cloudsync_changes order by seq;
select cloudsync_payload_encode() is null;
select cloudsync_explain('t', 1);
\echo == stamps of one row, and reports
set role sync_ann;
select cloudsync_explain('t', 1) ->> 'alive', cloudsync_explain('t', 2) -> 'life', cloudsync_explain('t', 4) -> 'life';
select cloudsync_explain('big', 1);
select count(*) from cloudsync_rejected;
select count(*) from cloudsync_conflicts;
select t ->> 'name' from jsonb_array_elements(cloudsync_status() -> 'tables') as t;
\echo == files of the server, and what is inside
select cloudsync_payload_save('/tmp/never');
select cloudsync_payload_load('/tmp/never');
select count(*) from cloudsync.meta_1;
select count(*) from cloudsync.too_large;
select count(*) from cloudsync.uncaptured;
select cloudsync.registered(1);
select cloudsync.settle(1, row(1));
select cloudsync.is_standing('t'::regclass, '(0,1)');
select cloudsync.catch_up();
select cloudsync.snapshot_part(1, false, null, 10);
\echo == a policy that is switched off for somebody, and one that raises
reset role;
alter role sync_ann bypassrls;
set role sync_ann;
select count(distinct pk) from cloudsync_changes where tbl = 't' and col_name = 'secret';
reset role;
alter role sync_ann nobypassrls;
set role sync_ann;
set row_security = off;
select count(*) from cloudsync_changes;
reset row_security;
reset role;
reset client_min_messages;
drop view lines, through_owner;
\echo == what the payloads held
alter table t disable row level security;
create procedure replayed(payload bytea) language plpgsql as $$
begin
  perform cloudsync_cleanup('t');
  truncate t;
  perform cloudsync_init('t');
  perform cloudsync_payload_apply(payload);
end
$$;
call replayed(:'encoded');
select * from t;
select metadata('t');
call replayed(:'chunk');
select * from t;
select metadata('t');
call replayed(:'gathered');
select * from t;
select metadata('t');
drop owned by sync_ann, sync_columns;
drop role sync_ann, sync_columns;
