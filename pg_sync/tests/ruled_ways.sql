-- Tables that merge by other rules, written in less usual ways: in partitions, and in replica mode.
\ir include/metadata.psql
\ir include/messages.psql
create table p (id integer, part integer, n integer, note text, primary key (id, part)) partition by list (part);
create table p1 partition of p for values in (1);
-- Another order of columns.
create table p2 (note text, n integer, part integer not null, id integer not null);
alter table p attach partition p2 for values in (2);
select length(cloudsync_init('p')) > 0 as ok \gset
select cloudsync_set_column('p', 'n', 'algo', 'counter');
select count(*) > 0 from messages();

\echo == partitions, by the table and directly
insert into p values (1, 1, 10, 'a'), (2, 2, 20, 'b');
insert into p2 values ('c', 30, 2, 3);
select split_part(m, ' | ', 2) as what, split_part(m, ' | ', 3) as key from messages() as m order by 2;
update p set n = n + 1;
update p2 set n = n + 5, note = 'later' where id = 3;
select split_part(m, ' | ', 2) as what, split_part(m, ' | ', 3) as key from messages() as m order by 2;
select * from p order by id;
select key_1, key_2, alive, registers is not null as counted from cloudsync.meta_1 order by 1;
\echo == a row that moves is a deletion and a creation
update p set part = 2 where id = 1;
select split_part(m, ' | ', 2) as what, split_part(m, ' | ', 3) as key from messages() as m order by 2, 1;
select key_1, key_2, alive from cloudsync.meta_1 order by 1, 2;
delete from p1;
delete from p2 where id = 3;
select split_part(m, ' | ', 2) as what, split_part(m, ' | ', 3) as key from messages() as m;

\echo == in replica mode, each row is captured
create table r (id integer primary key, n integer, top integer);
create table g (id integer primary key, a text);
create table d (id integer primary key, a text);
select length(cloudsync_init('r')) > 0 as ok \gset
select length(cloudsync_init('g', 'gos')) > 0 as ok \gset
select length(cloudsync_init('d', 'dws')) > 0 as ok \gset
select cloudsync_set_column('r', 'n', 'algo', 'counter');
select cloudsync_set_column('r', 'top', 'algo', 'max');
select count(*) > 0 from messages();
set session_replication_role = replica;
insert into r values (1, 1, 5), (2, 2, 5);
update r set n = n + 1;
update r set top = 9 where id = 1;
delete from r where id = 2;
insert into g values (1, 'stays');
insert into d values (1, 'goes');
delete from d;
\echo == the rules hold there too
update g set a = 'changes';
delete from g;
insert into d values (1, 'again');
reset session_replication_role;
select metadata('r');
select metadata('g');
select metadata('d');
select * from r;
select * from g;
select * from d;
select split_part(m, ' | ', 1) as tbl, split_part(m, ' | ', 2) as what, split_part(m, ' | ', 3) as key from messages() as m;
select pg_drop_replication_slot('messages_' || current_database());
