-- Functions that a user's table brings into what our owner reads run as their authors.
\ir include/metadata.psql
\ir include/author.psql
create role sync_mallory;
grant create, usage on schema public to sync_mallory;
create table seen (who text, what text);
grant insert, select on seen to public;
create function note(what text) returns boolean language plpgsql volatile as $$
begin
  insert into public.seen select current_user, what where current_user not in ('postgres', 'sync_mallory');
  return true;
end
$$;
set role sync_mallory;
create function evil(what text) returns boolean language plpgsql immutable as $$
begin
  perform public.note(what);
  return true;
end
$$;
create function evil_number(what text) returns integer language plpgsql immutable as $$
begin
  perform public.note(what);
  perform set_config('search_path', 'public', false);
  return 1;
end
$$;
create function evil_sql(what text) returns boolean language sql immutable as 'select public.note(what)';
create domain checked as text check (evil('domain'));
create table t (
  id integer primary key, a text, b integer default evil_number('default'), c checked,
  g integer generated always as (b + evil_number('generated')) stored,
  check (evil('check') and b < 1000)
);
create index on t ((b + evil_number('index')));
create index on t (b) where evil('predicate') and evil_sql('sql predicate');
create statistics s on (b + evil_number('statistics')), a from t;
create table p (id integer, x text, primary key (id)) partition by range (id);
create table p1 partition of p for values from (0) to (100);
create index on p ((id + evil_number('index of a partition')));
create table r (id integer primary key, n bigint, check (evil('check of ruled')));
create index on r ((n + evil_number('index of ruled')));
select cloudsync_init('t') is not null, cloudsync_init('p') is not null, cloudsync_init('r') is not null;
select cloudsync_set_column('r', 'n', 'algorithm', 'counter');

\echo == capture
insert into t (id, a, c) values (1, 'one', 'c'), (2, 'two', 'c');
begin;
update t set a = 'three';
update t set a = 'four', c = 'd';
update t set id = id + 10;
delete from t where id = 11;
commit;
insert into p values (1, 'one');
insert into r values (1, 1);
begin;
update p set x = 'two';
update p set x = 'three';
update r set n = 5;
update r set n = null;
commit;
truncate p;
reset role;
select distinct who, what from seen;
truncate seen;

\echo == definitions
\c
set role sync_mallory;
alter table t alter a type varchar(100);
\c
set role sync_mallory;
alter table t drop constraint t_pkey, add primary key (id, b);
\c
set role sync_mallory;
create table p2 (id integer primary key, x text);
insert into p2 values (200, 'two hundred');
alter table p attach partition p2 for values from (200) to (300);
alter table t disable trigger cloudsync_insert;
insert into t (id, a) values (3, 'three');
alter table t enable trigger cloudsync_insert;
select cloudsync_init('t') is not null;
reset role;
select distinct who, what from seen;
truncate seen;

\echo == reading and applying
\c
select metadata('t');
begin;
set local role cloudsync_owner;
set local constraint_exclusion = on;
select row_count from cloudsync.tables as t cross join lateral cloudsync.snapshot_part(t.table_id, false, null, 10) order by t.table_name;
show search_path;
commit;
select distinct who, what from seen;
truncate seen;
set role sync_mallory;
select cloudsync_explain('r', 1) ->> 'present';
select count(*) > 0 from cloudsync_changes;
reset role;
select distinct who, what from seen;

drop extension pg_sync cascade;
drop owned by sync_mallory cascade;
drop role sync_mallory;
