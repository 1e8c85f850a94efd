-- Every type that travels comes back as it was, through a payload and the merge.
\ir include/metadata.psql
\ir include/author.psql
create domain positive as integer check (value > 0);
create type mood as enum ('sad', 'happy');
create table author.every (
  id bigint, k text, k2 uuid,
  int2 smallint, int4 integer, int8 bigint, float4 real, float8 double precision, numeric numeric, fixed numeric(10, 2),
  bool boolean, text text, varchar varchar(20), char char(5), bytea bytea, uuid uuid, timestamptz timestamptz,
  timestamp timestamp, date date, "time" time, json json, jsonb jsonb, ints integer[], texts text[], point point,
  inet inet, interval interval, domain positive, enum mood, range int4range, generated integer generated always as (int4 * 2) stored,
  primary key (id, k, k2));
create table every (like author.every including all);
select cloudsync_init('author.every');
insert into author.every values
  (1, 'x', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a01', 1, -2, 9223372036854775807, 1.5, 'NaN', 'NaN', 1.25, true,
   'wide é 😀', 'v', 'c', '\x00ff', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a02', '2024-02-29 12:34:56.789012+02',
   'infinity', '-infinity', '24:00', '{"b": 1,  "a": [null]}', '{"b": 1, "a": [1.10]}', '{1,NULL,3}', '{"a b","c\"d",NULL}',
   '(1,2)', '10.0.0.1/24', '1 mon 2 days 00:00:03', 5, 'happy', '[1,5)'),
  (-1, '', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a01', -32768, 1073741823, -9223372036854775808, '-0', '-0', 1e50, 0.00, false,
   '', '', '', '', null, '-infinity', '1999-12-31 23:59:59.999999', '0044-03-15 BC', '00:00:00.000001', 'null', 'null', '{}', '{}',
   null, null, null, null, null, null);
insert into author.every (id, k, k2) values (2, 'nulls', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a01');
select author.payload() as payload \gset
create temporary table expected as select * from author.every;
select cloudsync_cleanup('author.every');
select cloudsync_init('every');
select cloudsync_payload_apply(:'payload');
select count(*) from every;
select count(*) as different from every as e full join expected as x on e.id = x.id where e *<> x;
\echo == nothing was stamped here: all is as sent
select count(*) from cloudsync.meta_2 where cols is not null;
\echo == pages in key order
select row_count, next is null from cloudsync.snapshot_part(2, false, null, 2);
select next from cloudsync.snapshot_part(2, false, null, 2) \gset
select row_count, next is null from cloudsync.snapshot_part(2, false, :'next', 2);
select row_count, next is null from cloudsync.snapshot_part(2, true, null, 2);
select row_count from cloudsync.snapshot_part(2, false, null, 0);
select row_count from cloudsync.snapshot_part(99, false, null, 1);
\echo == a domain that takes no null
create domain filled as text check (value is not null);
create table author.f (id integer primary key, x text);
create table f (id integer primary key, x filled);
select cloudsync_init('author.f');
insert into author.f values (1, null), (2, 'filled');
select author.payload() as nulls \gset
select cloudsync_cleanup('author.f');
select cloudsync_init('f');
select cloudsync_payload_apply(:'nulls');
select * from f;
