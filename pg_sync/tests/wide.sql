-- Tables of 1,000 columns, and column numbers up to the server's limit.
\ir include/metadata.psql
\ir include/messages.psql
\ir include/author.psql
create function make_wide(name text, first integer, last integer) returns void language plpgsql as $$
begin
  execute format('create table %s (id integer primary key, %s)', name,
    (select string_agg(format('c%s %s', n, (array['integer', 'text', 'boolean', 'uuid'])[1 + n % 4]), ', ') from generate_series(first, last) as n));
end
$$;
-- What was told: kinds of the rows of each message, and how many cells travel.
create function told() returns setof text language sql volatile as $$
  select concat_ws(' ', 'kinds', array_to_string(message.vector(p.payload, m.at, 4, 1), ','),
    'rows', message.scalar(p.payload, m.at, 3, 4),
    'cells', coalesce(bit_count(message.bytes(p.payload, m.at, 9)), message.scalar(p.payload, m.at, 3, 4)
      * (select message.number(p.payload, t, 4) from message.target(p.payload, m.at, 8) as t)),
    'own stamps', coalesce(bit_count(message.bytes(p.payload, m.at, 10)), 0))
  from pg_logical_slot_get_binary_changes('messages_' || current_database(), null, null) with ordinality as c (lsn, xid, data, place),
    message.bodies(c.data) with ordinality as b (body, place), substr(b.body, 42) as p (payload),
    unnest(message.tables(p.payload, message.number(p.payload, 0, 4)::integer, 2)) as m (at)
  order by c.place, b.place
$$;
select make_wide('wide', 1, 1000);
select cloudsync_init('wide');
alter table wide drop column c1000;
select make_wide('author.wide', 1, 999);
select cloudsync_init('author.wide');
insert into author.wide (id, c1, c2, c999) values (5, 5, true, 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a01'), (6, 6, true, null);
select author.stamp(5, 1000, 'aa'), author.stamp(6, 1000, 'aa', '{"c1": 2000, "c999": 3000}');
select author.payload() as payload \gset
select cloudsync_cleanup('author.wide');
select told() is not null;
select cloudsync_init('wide');
\echo == each operation
insert into wide (id, c1, c998) values (1, 1, true), (2, 2, false), (3, 3, null);
update wide set c999 = 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a02' where id = 1;
select told();
do $$
begin
  execute (select 'update wide set ' || string_agg(format(
      (array['c%1$s = coalesce(c%1$s, 0) + 1', 'c%1$s = coalesce(c%1$s, '''') || ''x''', 'c%1$s = not coalesce(c%1$s, false)', 'c%1$s = gen_random_uuid()'])[1 + n % 4], n), ', ')
    || ' where id = 2' from generate_series(2, 999) as n);
end
$$;
select told();
begin;
update wide set c1 = 10 where id = 1;
update wide set c500 = 5, c999 = null where id = 1;
update wide set id = 4 where id = 3;
commit;
delete from wide where id = 2;
insert into wide (id, c1) values (1, 1) on conflict (id) do update set c1 = 11;
select told();
set session_replication_role = replica;
insert into wide (id, c1) values (7, 7);
update wide set c999 = 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a03' where id = 7;
reset session_replication_role;
select told();
select cloudsync_payload_apply(:'payload');
select told();
select metadata('wide');
select row_count, next is null from cloudsync.snapshot_part((select table_id from cloudsync.tables), false, null, 10);
truncate wide;
select told();
\echo == one more is refused
select make_wide('wider', 1, 1000);
select cloudsync_init('wider');
alter table wider drop column c1;
select cloudsync_init('wider');
\echo == 1,000 columns whose numbers end at 1,600
drop table wider;
select cloudsync_cleanup('wide');
select make_wide('wider', 1, 999);
do $$
begin
  execute (select 'alter table wider ' || string_agg('drop column c' || n, ', ') from generate_series(1, 600) as n);
  execute (select 'alter table wider ' || string_agg(format('add column c%s integer', n), ', ') from generate_series(1000, 1599) as n);
end
$$;
select max(attnum), count(*) filter (where not attisdropped) from pg_attribute where attrelid = 'wider'::regclass and attnum > 0;
select cloudsync_init('wider');
insert into wider (id, c601, c1599) values (1, 'one', 1), (2, 'two', 2);
update wider set c1599 = 3 where id = 1;
begin;
update wider set c601 = 'uno', c1598 = 4 where id = 1;
update wider set c1599 = 5 where id = 1;
delete from wider where id = 2;
commit;
select told();
select metadata('wider');
select pg_drop_replication_slot(:'slot');
