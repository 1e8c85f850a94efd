-- Capture without a plan: what it does by itself, and what it leaves to the general functions, end alike.
create extension pg_sync;
create table t (id int primary key, a text, b numeric(10, 2));
select cloudsync_init('public.t') is not null;
create function shown() returns table (key int, alive boolean, life text, a text, b text)
language sql as $$
  select d.key_1, d.alive, case when d.hlc = 1 then 'baseline' when d.hlc > 1 then 'stamped' end,
    case when d.cols[3] is not null then 'own' end, case when d.cols[5] is not null then 'own' end
  from cloudsync.meta_1 as d order by 1
$$;

\echo == an inserted row whose key was deleted, among new ones
insert into t values (1, 'one', 1), (2, 'two', 2);
delete from t where id = 2;
insert into t select n, 'again', n from generate_series(2, 5) as n where n <> 3;
insert into t values (6, 'new', 6), (3, 'new', 3);
select * from shown();
delete from t where id in (3, 5);
insert into t values (7, 'new', 7), (8, 'new', 8), (3, 'back', 3), (9, 'new', 9), (5, 'back', 5);
select * from shown();
select count(*) from cloudsync.meta_1;

\echo == only changed columns are stamped, and only newer
update t set a = a, b = b + 1 where id in (1, 2);
select * from shown() where b is not null;
select hlc as life, cols[5] as first from cloudsync.meta_1 where key_1 = 1 \gset
update t set b = b + 1, a = 'other' where id = 1;
select cols[5] > :first, cols[3] = cols[5], hlc = :life from cloudsync.meta_1 where key_1 = 1;
update t set a = a;

\echo == a row that was there before the table was tracked
create table old (id int primary key, a text);
insert into old values (1, 'x'), (2, 'y'), (3, 'z');
select cloudsync_init('public.old') is not null;
update old set a = 'changed' where id = 1;
delete from old where id = 2;
select key_1, alive, hlc = 1 as baseline, cols[3] is not null as own from cloudsync.meta_2 order by 1;

\echo == one key twice in one statement
create function replace_row() returns trigger language plpgsql as $$
begin
  delete from t where id = new.id;
  return new;
end $$;
create trigger replace_row before insert on t for each row execute function replace_row();
insert into t values (20, 'first', 1), (20, 'second', 2), (21, 'third', 3);
drop trigger replace_row on t;
select * from t where id >= 20 order by 1;
select * from shown() where key >= 20;

\echo == the same row twice in one transaction
begin;
insert into t values (30, 'a', 1);
update t set a = 'b' where id = 30;
update t set b = 5 where id = 30;
delete from t where id = 30;
insert into t values (30, 'c', 1);
commit;
select * from shown() where key = 30;

\echo == keys that change places
update t set id = id + 10 where id = 30;
update t set id = case id when 21 then 22 else id - 1 end, b = 9 where id in (21, 40);
select * from shown() where key >= 20;

\echo == a column that is added, and one that goes
alter table t add c timestamptz default '2026-01-01 00:00:00Z';
update t set c = now() where id = 1;
alter table t drop a;
update t set b = 77 where id = 1;
insert into t (id, b) values (60, 1);
select key_1, cols[5] is not null as b, cols[7] is not null as c from cloudsync.meta_1 where key_1 in (1, 60) order by 1;

\echo == a disabled table tells nobody
select cloudsync_disable('public.t');
select pg_create_logical_replication_slot('direct_' || current_database(), 'test_decoding') is not null;
update t set b = 79 where id = 1;
select count(*) filter (where data like 'table public.t:%'), count(*) filter (where data like 'message:%')
from pg_logical_slot_get_changes('direct_' || current_database(), null, null);
select pg_drop_replication_slot('direct_' || current_database());

\echo == rows that are written often: their metadata stays on its page
create table often (id int primary key, n int);
select cloudsync_init('public.often') is not null;
insert into often select n, 0 from generate_series(1, 20) as n;
do $$
begin
  for round in 1..100 loop
    for row in 1..20 loop
      update often set n = round where id = row;
      commit;
    end loop;
  end loop;
end $$;
select pg_relation_size(meta) / current_setting('block_size')::int as pages,
  pg_relation_size(index.indexrelid) / current_setting('block_size')::int as of_index
from cloudsync.tables as t, to_regclass('cloudsync.meta_' || t.table_id) as meta, pg_index as index
where t.relation = 'often'::regclass and index.indrelid = meta;
