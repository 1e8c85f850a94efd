-- Partitioned tables: each way of writing, through the table and through its partitions, and partitions that come and go.
\ir include/metadata.psql
\ir include/messages.psql
create table p (region text, id integer, note text, primary key (region, id)) partition by list (region);
create table p_north partition of p for values in ('n');
-- Of another layout: columns in another order, and one that was dropped.
create table p_south (note text, gone integer, id integer not null, region text not null);
alter table p_south drop column gone;
alter table p attach partition p_south for values in ('s');
create schema far;
create table p_far (region text not null, note text, id integer not null) partition by range (id);
create table far.p_low partition of p_far for values from (0) to (100);
alter table p attach partition p_far for values in ('f');
insert into p values ('n', 100, 'before'), ('f', 90, 'before');
select cloudsync_init('p');
select messages();
create function stamps() returns setof text language sql as $$
  select concat_ws(' | ', key_1, key_2, case when alive then 'alive' else 'dead' end, stamp_text(hlc, site),
    'note: ' || stamp_text(cols[2 * c.column_id - 1], cols[2 * c.column_id]))
  from cloudsync.meta_1, cloudsync.columns as c where c.name = 'note' order by key_1, key_2
$$;
\echo == through the table
insert into p values ('n', 1, 'one'), ('s', 1, 'two'), ('f', 1, 'three');
select messages();
update p set note = note || '!' where id = 1;
select messages();
update p set note = note;
update p set note = 'over the baseline' where id >= 90;
select messages();
delete from p where id = 1 and region = 's';
select messages();
select stamps();
\echo == through partitions of every level
insert into p_north values ('n', 2, 'leaf');
insert into p_south (region, id, note) values ('s', 2, 'leaf');
insert into far.p_low (region, id, note) values ('f', 2, 'leaf');
insert into p_far (region, id, note) values ('f', 3, 'middle');
select messages();
update p_south set note = 'changed';
update p_far set note = 'changed' where id = 3;
update far.p_low set note = 'changed' where id = 2;
delete from p_north where id = 1;
select messages();
\echo == several times in one transaction: the slow path reads the row from wherever it is
begin;
insert into p_south (region, id, note) values ('s', 3, 'a');
update p set note = 'b' where region = 's' and id = 3;
update p_south set note = 'c' where id = 3;
commit;
select messages();
copy p_south (region, id, note) from stdin;
s	4	copied
\.
insert into p values ('s', 4, 'up') on conflict (region, id) do update set note = excluded.note;
merge into p using (values ('s', 4), ('n', 5)) as v (region, id) on p.region = v.region and p.id = v.id
when matched then update set note = 'merged' when not matched then insert values (v.region, v.id, 'merged');
select messages();
\echo == rows that move
insert into p values ('n', 20, 'moves');
-- A row whose stamp is of the same millisecond is stamped on the slow path, which tells of both of its keys again.
do $tick$
declare
  v_now timestamptz := clock_timestamp();
begin
  while clock_timestamp() < v_now + interval '1 ms' loop
  end loop;
end
$tick$;
update p set region = 's' where id = 20;
select messages();
begin;
update p set region = 'f' where id = 20;
update p set note = 'moved and changed' where id = 20;
commit;
select messages();
\echo == TRUNCATE of a leaf, of a branch, and of all
truncate p_south;
select messages();
truncate p_far;
select messages();
truncate p;
select messages();
select stamps();
\echo == new partitions, by every command
create table p_east partition of p for values in ('e');
insert into p values ('e', 1, 'new partition');
insert into p_east values ('e', 2, 'new partition');
create table far.p_high partition of p_far for values from (100) to (200);
insert into far.p_high (region, id, note) values ('f', 150, 'deep');
create table p_west (id integer not null, region text not null, note text);
insert into p_west values (1, 'w', 'filled');
alter table p attach partition p_west for values in ('w');
insert into p_west values (2, 'w', 'attached');
create schema made create table made.p_up partition of public.p for values in ('u');
insert into made.p_up values ('u', 1, 'x');
select messages();
\echo == a branch that comes whole
create table p_branch (region text not null, id integer not null, note text) partition by range (id);
create table p_branch_1 partition of p_branch for values from (0) to (10);
alter table p attach partition p_branch for values in ('b');
insert into p_branch_1 values ('b', 1, 'x');
select messages();
\echo == partitions that go, and come back changed
alter table p detach partition p_west;
select count(*) from pg_trigger where tgrelid = 'p_west'::regclass and not tgisinternal;
select has_table_privilege('cloudsync_owner', 'p_west', 'select');
-- Its rows are deletions, and no others.
select s from stamps() as s where s ~ '^w' or s ~ 'alive' order by s;
insert into p_west values (3, 'w', 'untold');
update p_west set note = 'changed outside' where id = 2;
select messages();
alter table p attach partition p_west for values in ('w');
select messages();
update p set note = 'told' where region = 'w' and id > 1;
select messages();
alter table p detach partition p_branch concurrently;
insert into p_branch values ('b', 2, 'untold');
drop table p_west;
select messages();
select s from stamps() as s where s ~ '^[bw]' or s ~ 'alive' order by s;
select relation from cloudsync.partitions order by relation::text;
\echo == partitions that cannot be
create unlogged table p_un (region text not null, id integer not null, note text);
alter table p attach partition p_un for values in ('x');
create table q (id integer primary key) partition by range (id);
create unlogged table q_1 partition of q for values from (0) to (1);
select cloudsync_init('q');
\echo == a partition of an own
create role sync_pam;
grant create, usage on schema public to sync_pam;
set role sync_pam;
create table own (id integer primary key, x text) partition by range (id);
create table own_1 partition of own for values from (0) to (10);
select cloudsync_init('own');
create table own_2 partition of own for values from (10) to (20);
insert into own values (1, 'x');
insert into own_2 values (11, 'y');
alter table own detach partition own_1;
insert into own_1 values (2, 'z');
reset role;
select messages();
select metadata('own');
\echo == a table that was renamed unseen, and its name given to a view
create table seen (who text);
grant insert on seen to public;
create function evil() returns boolean language plpgsql volatile as $$ begin insert into seen values (current_user); return true; end $$;
alter event trigger cloudsync_definitions disable;
set role sync_pam;
alter table own rename to hidden;
create view own as select id, x from hidden where evil();
grant select on own to cloudsync_owner;
begin;
insert into own_2 values (12, 'y');
update own_2 set x = 'z' where id = 12;
rollback;
reset role;
alter event trigger cloudsync_definitions enable;
table seen;
drop view own;
set role sync_pam;
alter table hidden rename to own;
insert into own_2 values (12, 'y');
reset role;
select messages();
\echo == the capture function on a table that is none of its
set role sync_pam;
create table other (id integer primary key, x text);
create trigger cloudsync_row after insert on other for each row execute function cloudsync.capture_row_2();
insert into other values (1, 'x');
create trigger statement after insert on own for each statement execute function cloudsync.capture_row_2();
insert into own values (13, 'x');
reset role;
\echo == cleanup
select cloudsync_cleanup('p');
select tgrelid::regclass, tgname from pg_trigger where tgfoid in (select oid from pg_proc where proname ~ '^capture_.*_1$');
insert into p_north values ('n', 1, 'untold');
select messages();
select pg_drop_replication_slot(:'slot');
drop extension pg_sync cascade;
drop owned by sync_pam;
drop role sync_pam;
