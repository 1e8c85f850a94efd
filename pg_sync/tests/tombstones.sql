-- Tombstones that every site has received go, everywhere at the same place in the log.
\ir include/metadata.psql
\ir include/messages.psql
\ir include/author.psql
create table t (id integer primary key, a text, b integer);
create table d (id integer primary key, a text);
select length(cloudsync_init('t')) > 0 as ok \gset
select length(cloudsync_init('d', 'dws')) > 0 as ok \gset
select table_id as t from cloudsync.tables where table_name = 't' \gset
select table_id as d from cloudsync.tables where table_name = 'd' \gset

-- Makes a tombstone older.
create function age(metadata regclass, key integer, by interval) returns void language plpgsql as $$
begin
  execute format('update %s set hlc = hlc - ((extract(epoch from $2) * 1000)::bigint << 16) where key_1 = $1', metadata)
  using key, by;
end
$$;

insert into t select i, 'x', i from generate_series(1, 6) as i;
insert into d values (1, 'x');
delete from t where id <= 5;
delete from d;
select age(format('cloudsync.meta_%s', :t), 1, '2 days');
select age(format('cloudsync.meta_%s', :t), 2, '2 days');
select age(format('cloudsync.meta_%s', :t), 3, '40 days');
select age(format('cloudsync.meta_%s', :t), 5, '2 days');
select age(format('cloudsync.meta_%s', :d), 1, '40 days');
select count(*) > 0 from messages();

\echo == nobody is known: what is older than the retention goes, and nothing of a dws table
select * from cloudsync.collect_tombstones();
select metadata('t');
select metadata('d');
select messages();
\echo == again: nothing is left to do
select * from cloudsync.collect_tombstones();
select messages();

\echo == a site of which nothing is known holds it there; another that is a day behind as well
insert into cloudsync.sites (site, acked, token, upload_id)
select decode(repeat('aa', 16), 'hex'), 5, decode(repeat('11', 16), 'hex'), decode(repeat('01', 16), 'hex');
-- The log was where it is a day ago, and a mark far ahead keeps another one away.
update cloudsync.log_marks set at = now() - interval '1 day';
insert into cloudsync.log_marks values ('FFFFFFFF/0', now());
select cloudsync.note_site(decode(repeat('bb', 16), 'hex'), pg_current_wal_insert_lsn());
select dropped from cloudsync.collect_tombstones();
\echo == all have received what was committed a day ago: older ones go, but the row that is being written
select cloudsync.note_site(decode(repeat('aa', 16), 'hex'), pg_current_wal_insert_lsn());
select cloudsync.note_site(decode(repeat('bb', 16), 'hex'), pg_current_wal_insert_lsn());
begin;
insert into t values (5, 'again', 5);
prepare transaction 'writing';
select dropped from cloudsync.collect_tombstones();
commit prepared 'writing';
select metadata('t');
select messages();
select left(site::text, 4), received_until < now() - interval '1 day' + interval '1 hour' from cloudsync.site_places order by 1;
\echo == who is behind has to begin anew, who is not does not
select cloudsync.note_site(decode(repeat('cc', 16), 'hex'), '0/0');
select cloudsync.note_site(decode(repeat('aa', 16), 'hex'), pg_current_wal_insert_lsn());
select count(*) from cloudsync.site_places;
\echo == a snapshot tells of the horizon, where its tombstones begin
select message.lines(payload) from cloudsync.snapshot_part(:t, true, null, 10);
select message.lines(payload) from cloudsync.snapshot_part(:t, false, null, 10);

\echo == many are dropped by parts, which tell of it once
update cloudsync.log_marks set at = now() - interval '1 hour' where at < now() - interval '1 hour';
delete from cloudsync.site_places;
delete from cloudsync.sites;
select cloudsync.note_site(decode(repeat('aa', 16), 'hex'), pg_current_wal_insert_lsn());
insert into t select i, 'x', i from generate_series(1001, 4000) as i;
delete from t where id > 1000;
select count(age(format('cloudsync.meta_%s', :t), i, '2 hours')) from generate_series(1001, 4000) as i;
select count(*) > 0 from messages();
do $$
declare
  v_part record;
  v_calls integer := 0;
  v_dropped bigint := 0;
begin
  loop
    select * into v_part from cloudsync.collect_tombstones(7);
    v_calls := v_calls + 1;
    v_dropped := v_dropped + v_part.dropped;
    if v_part.dropped > 7 * 226 then
      raise exception '% rows on 7 pages', v_part.dropped;
    end if;
    exit when not v_part.more;
  end loop;
  raise warning '% dropped, in several calls: %', v_dropped, v_calls > 3;
end
$$;
select messages();
select metadata('t');

\echo == cells that waited beside a tombstone go with it, and their values are kept
select cloudsync_cleanup('t') as n \gset
create table author.t (id integer primary key, a text, b integer);
select length(cloudsync_init('author.t')) > 0 as ok \gset
insert into author.t values (1, 'first', 1), (2, 'second', 2);
select count(author.stamp(i, 1000, 'aa')) from generate_series(1, 2) as i;
select author.payload() as created \gset
create table created as select author.payload() as payload;
update author.t set a = 'late';
select author.stamp(1, 1000, 'aa', '{"a": 3000}'), author.stamp(2, 1000, 'aa', '{"a": 3000}');
select author.payload() as updated \gset
delete from author.t;
select author.stamp(1, 2500, 'bb'), author.stamp(2, 2500, 'bb');
select author.payload(true) as deleted \gset
select cloudsync_cleanup('author.t') as n \gset
delete from t;
select length(cloudsync_init('t')) > 0 as ok \gset
select table_id as t from cloudsync.tables where table_name = 't' \gset
select cloudsync_payload_apply(:'created'), cloudsync_payload_apply(:'deleted'), cloudsync_payload_apply(:'updated');
-- One waits that is newer than the horizon.
select format('update cloudsync.meta_%s set cols[3] = %s where key_1 = 2', :t, cloudsync.clock_of(now())) \gexec
select metadata('t') ~ '^1 ';
select * from cloudsync.collect_tombstones();
select metadata('t') ~ '^2 ';
select tbl, key, col, lost_value, lost_hlc >> 16 as lost, won_hlc >> 16 as won, reason from cloudsync_conflicts;
select count(*) from cloudsync_parked;

\echo == a payload from before, of an author who may not have seen the deletion, brings nothing back
do $$ begin perform cloudsync_payload_apply(p.payload) from created as p; exception when others then raise warning '%', regexp_replace(sqlerrm, '[0-9]+ ms', '? ms', 'g'); end $$;
select * from t;
\echo == one of a database that had them gone too, may
insert into t values (7, 'old', 7);
select age(format('cloudsync.meta_%s', :t), 7, '2 hours');
create table written as select c.payload from cloudsync_payload_chunks() as c;
alter table t disable trigger all;
delete from t where id = 7;
alter table t enable trigger all;
select format('delete from cloudsync.meta_%s where key_1 = 7', :t) \gexec
select cloudsync_payload_apply(w.payload) > 0 from written as w order by 1;
select * from t;

\echo == settings
select cloudsync_set('tombstone_retention', 'soon');
select cloudsync_set('tombstone_retention', '-1 day');
select cloudsync_set('tombstone_retention', '7 days');
select cloudsync.tombstone_retention();
select cloudsync_set('tombstone_retention', null);
select cloudsync.tombstone_retention();
select * from cloudsync.collect_tombstones(0);
\echo == a table that is no longer tracked has no horizon
select cloudsync_cleanup('t') as n \gset
select count(*) from cloudsync.horizons where table_id = :t;

\echo == the hub may, nobody else
create role tombstones_hub;
create role tombstones_other;
grant usage on schema cloudsync to tombstones_other;
select cloudsync_grant_hub('tombstones_hub') as n \gset
set role tombstones_hub;
select dropped from cloudsync.collect_tombstones();
select cloudsync.note_site(decode(repeat('aa', 16), 'hex'), '0/1');
set role tombstones_other;
select dropped from cloudsync.collect_tombstones();
select cloudsync.note_site(decode(repeat('aa', 16), 'hex'), '0/1');
reset role;
drop owned by tombstones_hub, tombstones_other cascade;
drop role tombstones_hub, tombstones_other;
select pg_drop_replication_slot('messages_' || current_database());
