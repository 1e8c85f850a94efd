-- What capture writes for each way of writing a row.
\ir include/metadata.psql
create table t (id integer primary key, a text, b integer);
insert into t values (100, 'was there before', 1);
select cloudsync_init('t');
\echo == one statement each
insert into t values (1, 'one', 1), (2, 'two', 2);
update t set a = 'uno' where id = 1;
update t set b = b;
update t set a = 'over the baseline' where id = 100;
delete from t where id = 2;
select metadata('t');
\echo == a changed key is a deletion and a creation
update t set id = 3 where id = 1;
select metadata('t');
\echo == one row several times in one transaction
begin;
insert into t values (4, 'x', 1);
update t set a = 'y' where id = 4;
update t set b = 2 where id = 4;
commit;
begin;
insert into t values (5, 'x', 1);
delete from t where id = 5;
commit;
begin;
insert into t values (6, 'x', 1);
delete from t where id = 6;
insert into t values (6, 'z', 9);
commit;
select metadata('t');
\echo == rollback and savepoint leave nothing
begin;
insert into t values (7, 'x', 1);
rollback;
begin;
savepoint before;
insert into t values (7, 'x', 1);
rollback to before;
insert into t values (8, 'x', 1);
commit;
select metadata('t');
\echo == upsert and COPY
insert into t values (8, 'up', 1), (9, 'new', 1) on conflict (id) do update set a = excluded.a;
copy t from stdin;
10	copied	1
11	copied	\N
\.
select metadata('t');
\echo == deleted and inserted by one statement
with gone as (delete from t where id = 10 returning *) insert into t select id, 'again', b from gone;
select a from t where id = 10;
select line from metadata('t') as line where line like '10 %';
\echo == two keys swapped by one statement
alter table t drop constraint t_pkey, add primary key (id) deferrable initially deferred;
update t set id = case id when 10 then 11 else 10 end where id in (10, 11);
select * from t where id in (10, 11) order by id;
select line from metadata('t') as line where line like '1_ %';
\echo == stamps only grow, also against a wall clock that went back
update cloudsync.meta_1 set hlc = 5000000000000::bigint << 16 where key_1 = 3;
update t set a = 'later' where id = 3;
select (cols[3] - hlc) as steps from cloudsync.meta_1 where key_1 = 3;
delete from t where id = 3;
select hlc - (5000000000000::bigint << 16) as steps, cols from cloudsync.meta_1 where key_1 = 3;
\echo == TRUNCATE
truncate t;
select distinct split_part(line, ' | ', 2) from metadata('t') as line;
\echo == cascades
create table parent (id integer primary key);
create table child (id integer primary key, one integer references parent on delete cascade,
  two integer references parent on delete set null, note text);
select cloudsync_init('parent'), cloudsync_init('child');
insert into parent values (1), (2), (3);
insert into child values (1, 1, 2, 'q'), (2, 2, 2, 'r'), (3, 3, 1, 's');
delete from parent where id in (1, 2);
select * from child;
select metadata('parent');
select metadata('child');
\echo == a trigger that updates the row again
create function again() returns trigger language plpgsql as $$
begin
  update child set note = note || '!' where id = new.id and note not like '%!';
  return null;
end
$$;
create trigger again after insert or update on child for each row execute function again();
insert into child values (10, 3, 3, 'n');
update child set note = 'w' where id = 10;
select * from child where id = 10;
select metadata('child');
\echo == values that are equal but not the same
create table exact (id integer primary key, n numeric, f double precision);
select cloudsync_init('exact');
insert into exact values (1, 1.0, 0);
update exact set n = 1.00, f = '-0';
select metadata('exact');
\echo == a table of keys only
create table pair (a integer, b text, primary key (b, a));
select cloudsync_init('pair');
insert into pair values (1, 'x');
update pair set a = 2;
select key_1, key_2, alive from cloudsync.meta_5 order by 2;
\echo == a column that init has not seen, then init again
alter table pair add column c text;
update pair set c = 'new';
select cloudsync_init('pair');
update pair set c = 'newer';
select metadata('pair');
\echo == cleanup
select cloudsync_cleanup('pair');
update pair set c = 'untracked';
select to_regclass('cloudsync.meta_5') is null, count(*) from cloudsync.tables;
