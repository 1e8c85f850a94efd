-- Values up to 32 MiB travel; larger ones are kept and reported, and the rest of their row travels.
\ir include/metadata.psql
\ir include/messages.psql
create table t (id integer primary key, note text, data bytea, more text);
alter table t alter column data set storage external;
select cloudsync_init('t');
-- Sizes and hashes: what is read back from messages a second reader would unpack for minutes.
create function told() returns setof text language sql volatile as $$
  select concat_ws(' ', (array['cells', 'created', 'deleted'])[(message.vector(p.payload, m.at, 4, 1))[1]::integer + 1],
    (select string_agg(coalesce(length(message.bytes(p.payload, v, 3))::text || ' ' || left(md5(message.bytes(p.payload, v, 3)), 6), '-'), ', ' order by place)
     from unnest(message.tables(p.payload, m.at, 13)) with ordinality as u (v, place)))
  from pg_logical_slot_get_binary_changes('messages_' || current_database(), null, null) with ordinality as c (lsn, xid, data, place),
    message.bodies(c.data) with ordinality as b (body, place), substr(b.body, 42) as p (payload),
    unnest(message.tables(p.payload, message.number(p.payload, 0, 4)::integer, 2)) as m (at)
  order by c.place, b.place
$$;
select told() is not null;
\echo == at the limit
insert into t values (1, 'at the limit', decode(repeat('01', 33554432), 'hex'), repeat('x', 6000000));
select told(), left(md5(data), 6), left(md5(more), 6) from t;
\echo == stored elsewhere, and not touched: it does not travel
update t set note = 'small' where id = 1;
select told();
\echo == beyond it: by each way of capture
insert into t values (2, 'too large', decode(repeat('02', 33554433), 'hex'), 'rest');
update t set data = decode(repeat('03', 33554433), 'hex') where id = 1;
begin;
update t set note = 'one' where id = 2;
update t set note = 'two', data = decode(repeat('04', 33554434), 'hex') where id = 2;
commit;
set session_replication_role = replica;
update t set more = repeat('y', 33554440) where id = 2;
reset session_replication_role;
select told();
select metadata('t');
select length(data), length(more) from t order by id;
select t.table_name, l.row_key, l.column_id, l.bytes from cloudsync.too_large as l join cloudsync.tables as t using (table_id) order by 2, 3;
\echo == a row that is too large as a whole: its largest value stays behind
insert into t values (3, 'sum', decode(repeat('05', 30000000), 'hex'), repeat('z', 20000000));
select told();
select row_key, column_id, bytes from cloudsync.too_large where row_key = '[3]';
\echo == a snapshot leaves out the same
select length(payload) between 20000000 and 42000000, row_count from cloudsync.snapshot_part(1, false, null, 10);
\echo == small again, it travels; gone, nobody is told of it; neither is reported any more
insert into t values (4, 'stays', decode(repeat('06', 33554433), 'hex'), 'rest');
update t set data = '\x00' where id = 1;
update t set note = 'still', more = 'small' where id = 2;
select row_key, column_id from cloudsync.too_large order by 1, 2;
begin;
insert into t values (5, 'once', decode(repeat('07', 33554433), 'hex'), 'rest');
update t set data = null where id = 5;
delete from t where id = 2;
commit;
set session_replication_role = replica;
update t set data = null where id = 3;
reset session_replication_role;
select told();
select row_key, column_id from cloudsync.too_large order by 1, 2;
delete from t where id = 1;
truncate t;
select count(*) from cloudsync.too_large;
insert into t values (6, 'again', decode(repeat('08', 33554433), 'hex'), 'rest');
alter table t drop column data;
select count(*) from cloudsync.too_large;
alter table t add column data bytea;
insert into t (id, data) values (7, decode(repeat('09', 33554433), 'hex'));
select count(*) from cloudsync.too_large;
select cloudsync_cleanup('t');
select count(*) from cloudsync.too_large;
\echo == a table with algorithms: by itself, beside a counter, and as text that is merged by line
create table r (id integer primary key, n bigint not null default 0, data bytea, body text);
alter table r alter column data set storage external, alter column body set storage external;
select cloudsync_init('r') is not null;
select cloudsync_set_column('r', 'n', 'algo', 'counter'), cloudsync_set_column('r', 'body', 'algo', 'block');
select count(*) > 0 from told();
insert into r values (1, 1, decode(repeat('0a', 33554433), 'hex'), 'body');
update r set n = 2 where id = 1;
insert into r values (2, 1, '\x00', repeat('long', 8388609));
update r set data = decode(repeat('0b', 33554434), 'hex') where id = 2;
select r.row_key, k.name, r.bytes from cloudsync.too_large as r join cloudsync.columns as k using (table_id, column_id) order by 1, 2;
select count(*), bool_or(t ~ '[0-9]{8}') from told() as t;
select row_count, length(payload) < 10000 from cloudsync.snapshot_part((select table_id from cloudsync.tables), false, null, 10);
update r set data = '\x01' where id = 1;
select r.row_key, k.name from cloudsync.too_large as r join cloudsync.columns as k using (table_id, column_id) order by 1, 2;
delete from r where id = 2;
select count(*) from cloudsync.too_large;
select pg_drop_replication_slot(:'slot');
