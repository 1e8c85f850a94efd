-- Writes in replica mode, where statement triggers do not fire: by hand, and by the worker of a subscription.
\ir include/metadata.psql
\ir include/messages.psql
\ir include/author.psql
create table author.t (id integer primary key, a text, b integer);
select cloudsync_init('author.t');
insert into author.t values (8, 'sent', 8), (1, 'sent', 1);
select author.stamp(8, 1000, 'aa'), author.stamp(1, 1000, 'aa', format('{"a": %s}', floor(extract(epoch from clock_timestamp()) * 1000)::bigint + 50000)::jsonb);
select author.payload() as payload \gset
select cloudsync_cleanup('author.t');
select messages() is not null;
create table t (id integer primary key, a text, b integer);
create table parts (id integer primary key, a text) partition by range (id);
create table parts_low partition of parts for values from (0) to (100);
create table parts_high partition of parts for values from (100) to (200);
select cloudsync_init('t'), cloudsync_init('parts');
select messages();
\echo == each operation by hand
set session_replication_role = replica;
insert into t values (1, 'one', 1), (2, 'two', 2), (3, 'three', 3);
update t set a = upper(a) where id < 3;
update t set a = a;
update t set id = 4 where id = 3;
delete from t where id = 2;
insert into t values (1, 'up', 1), (5, 'new', 5) on conflict (id) do update set a = excluded.a;
copy t from stdin;
6	copied	\N
\.
select messages();
begin;
insert into t values (7, 'x', 1);
update t set b = 2 where id = 7;
savepoint s;
delete from t where id = 7;
rollback to s;
commit;
with gone as (delete from t where id = 6 returning *) insert into t select id, 'again', b from gone;
select messages();
insert into parts values (1, 'low'), (101, 'high');
update parts set id = 102 where id = 1;
delete from parts_high where id = 101;
select messages();
truncate parts;
select messages();
select metadata('t');
select metadata('parts');
\echo == apply in this mode: what was staged is not stamped again
select cloudsync_payload_apply(:'payload');
select messages();
select regexp_replace(line, 'a: [0-9]+ by', 'a: later by') from metadata('t') as line where line ~ '^(1|8) ';
reset session_replication_role;
\echo == a subscription: first the copy, then what is written
create function wait_for(condition text) returns void language plpgsql as $$
declare
  v_met boolean := false;
begin
  while not v_met loop
    if clock_timestamp() > transaction_timestamp() + interval '60 seconds' then
      raise exception 'never became true: %', condition;
    end if;
    perform pg_stat_clear_snapshot(), pg_sleep(0.01);
    execute condition into v_met;
  end loop;
end
$$;
create database pg_sync_publisher template template0 encoding 'UTF8' locale 'C';
\c pg_sync_publisher
set client_min_messages = warning;
create table s (id integer primary key, a text);
create table parts (id integer primary key, a text);
insert into s values (1, 'copied'), (2, 'copied');
create publication everything for table s, parts;
select from pg_create_logical_replication_slot('pg_sync_publisher', 'pgoutput');
\c :database
set client_min_messages = warning;
create table s (id integer primary key, a text);
select cloudsync_init('s');
truncate parts;
select messages() is not null;
\set publisher 'host=' :HOST ' port=' :PORT ' user=' :USER ' dbname=pg_sync_publisher'
-- What a worker commits is decoded once it is flushed, which a worker by itself leaves for later.
create subscription follows connection :'publisher'
  publication everything with (create_slot = false, slot_name = 'pg_sync_publisher', synchronous_commit = 'on');
select wait_for('select not exists (select from pg_subscription_rel where srsubstate <> ''r'')');
select messages();
\c pg_sync_publisher
begin;
insert into s values (3, 'new');
update s set a = 'changed' where id = 1;
update s set id = 4 where id = 3;
delete from s where id = 2;
insert into parts values (5, 'low'), (150, 'high');
update parts set a = 'changed';
commit;
truncate parts;
insert into s values (9, 'last');
\c :database
set client_min_messages = warning;
select wait_for('select exists (select from s where id = 9)');
select messages();
select metadata('s');
select metadata('parts');
alter subscription follows disable;
select wait_for('select not exists (select from pg_stat_subscription where pid is not null)');
alter subscription follows set (slot_name = none);
drop subscription follows;
select wait_for('select not active from pg_replication_slots where slot_name = ''pg_sync_publisher''');
select pg_drop_replication_slot('pg_sync_publisher');
drop database pg_sync_publisher;
select pg_drop_replication_slot('messages_' || :'database');
