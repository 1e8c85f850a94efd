-- Commands that no event trigger told of: writes are never refused for them, are noted, and reach the clients once the
-- change is noticed.
\ir include/metadata.psql
\ir include/messages.psql
\ir include/told.psql
create procedure event_triggers(state text) language plpgsql as $$
begin
  execute format('alter event trigger cloudsync_definitions %s', state);
  execute format('alter event trigger cloudsync_rewrites %s', state);
end
$$;

\echo == a column that is dropped, one that is added, one that is renamed
create table t (id integer primary key, a text, b text, c text);
insert into t values (1, 'a', 'b', 'c'), (2, 'a', 'b', 'c'), (3, 'a', 'b', 'c');
select cloudsync_init('t') is not null;
select count(*) > 0 from messages();
call event_triggers('disable');
alter table t drop column a;
alter table t add column d text;
alter table t rename column b to bb;
insert into t values (4, 'b', 'c', 'd');
update t set d = 'new' where id = 1;
begin;
insert into t values (5, 'b', 'c', 'd');
update t set bb = 'again' where id = 5;
update t set id = 6 where id = 2;
delete from t where id = 3;
commit;
set session_replication_role = replica;
insert into t values (7, 'b', 'c', 'replica');
reset session_replication_role;
begin;
insert into t values (8, 'b', 'c', 'back');
rollback;
select count(*) from cloudsync.uncaptured;
select metadata('t');
select messages();
call event_triggers('enable always');
select cloudsync.catch_up();
select metadata('t');
select told();
select count(*) from cloudsync.uncaptured;
update t set d = 'told' where id = 1;
select messages();
select cloudsync.catch_up();

\echo == a table that is renamed, another key, another type, TRUNCATE, and a command on another table
call event_triggers('disable');
alter table t rename to tt;
insert into tt values (9, 'b', 'c', 'renamed');
truncate tt;
insert into tt values (10, 'b', 'c', 'after');
call event_triggers('enable always');
select count(*) > 0 from cloudsync.uncaptured;
create table other (id integer primary key);
alter table other add column x text;
select count(*) from cloudsync.uncaptured;
select told();
select metadata('tt');
call event_triggers('disable');
alter table tt alter column d type integer using 5;
alter table tt drop constraint t_pkey, add primary key (id, c);
insert into tt values (11, 'b', 'c', 6);
call event_triggers('enable always');
select cloudsync_init('tt') is not null;
select count(*) from cloudsync.uncaptured;
select told();
insert into tt values (12, 'b', 'c', 7);
select messages();

\echo == with other algorithms, and by partitions
create table n (id integer primary key, n bigint not null default 0, a text);
select cloudsync_init('n') is not null;
select cloudsync_set_column('n', 'n', 'algo', 'counter');
create table p (id integer, a text, primary key (id)) partition by range (id);
create table p_1 partition of p for values from (0) to (100);
select cloudsync_init('p') is not null;
insert into n values (1, 1, 'a');
insert into p values (1, 'a');
select count(*) > 0 from messages();
call event_triggers('disable');
alter table n drop column a;
alter table p add column b text;
alter table p drop column a;
update n set n = n + 1;
insert into p values (2, 'b');
insert into p_1 values (3, 'b');
update p_1 set b = 'c' where id = 1;
call event_triggers('enable always');
select count(*) > 0 from cloudsync.uncaptured;
select cloudsync.catch_up();
select told();
select metadata('p');
update p_1 set b = 'told' where id = 1;
update n set n = n + 1;
select messages();

\echo == a table that goes
call event_triggers('disable');
alter table n add column z text;
insert into n values (9, 9, 'z');
call event_triggers('enable always');
drop table n;
select count(*) from cloudsync.uncaptured;
