-- Every kind of refusal: the row alone, with its SQLSTATE; what waits for a later row is tried again; what may pass
-- fails the whole apply.
\ir include/metadata.psql
\ir include/author.psql
create role sync_app;
create type mood as enum ('sad', 'happy');
create domain positive as integer check (value > 0);
create table author.r (id integer primary key, u text, p text, c text, nn text, small text, num text, e text, s text, m text, d text, j text, at text);
create table parent (id integer primary key);
insert into parent values (1);
create table r (
  id integer primary key,
  u text unique deferrable initially deferred,
  p integer references parent deferrable initially deferred,
  c integer check (c < 100),
  nn text not null,
  small smallint,
  num numeric(3, 1),
  e int4range,
  s varchar(3),
  m mood,
  d positive,
  j json,
  at timestamptz,
  exclude using gist (e with &&) where (e is not null)
);
grant select, insert, update, delete on r to sync_app;
select cloudsync_init('author.r');
insert into author.r (id, nn) select i, 'good' from generate_series(1, 40) as i;
update author.r set u = 'taken' where id in (2, 3);
update author.r set p = '77' where id = 4;
update author.r set c = '100' where id = 5;
update author.r set nn = null where id = 6;
update author.r set small = '40000' where id = 7;
update author.r set num = '100' where id = 8;
update author.r set e = '[1,5)' where id in (9, 10);
update author.r set s = 'long' where id = 11;
update author.r set m = 'angry' where id = 12;
update author.r set d = '-1' where id = 13;
update author.r set c = 'ten' where id = 14;
update author.r set j = '{' where id = 15;
update author.r set at = '2024-02-30' where id = 16;
update author.r set u = 'own policy' where id = 17;
update author.r set u = 'raises' where id = 18;
select count(author.stamp(id, 1000, 'aa')) from author.r;
select author.payload() as refused \gset
select cloudsync_cleanup('author.r');
select cloudsync_init('r');
create function raises() returns trigger language plpgsql as $$
begin
  if new.u = 'raises' then
    raise exception 'not now' using errcode = current_setting('test.code');
  end if;
  return new;
end
$$;
create trigger raises before insert on r for each row execute function raises();
set test.code = 'ZZ999';
alter table r enable row level security;
create policy reads on r for select using (true);
create policy writes on r for insert with check (u is distinct from 'own policy');
set role sync_app;
set client_min_messages = error;
select cloudsync_payload_apply(:'refused');
set client_min_messages = warning;
reset role;
select key, sqlstate, message from cloudsync.rejected order by (key ->> 0)::integer;
select id from r where id < 19 or id = 40 order by id;
select count(*) from r;
\echo == what may pass: nothing stays, nothing is refused
delete from r;
delete from cloudsync.rejected;
create function tried(code text) returns text language plpgsql as $$
begin
  perform set_config('test.code', code, true);
  perform cloudsync_payload_apply(p.payload) from kept as p;
  return 'refused ' || (select r.sqlstate from cloudsync.rejected as r where r.key = '[18]');
exception when others or query_canceled then
  return 'raised ' || sqlstate || ', ' || (select count(*) from r) || ' rows';
end
$$;
create table kept as select :'refused'::bytea as payload;
set client_min_messages = error;
select code, tried(code)
from unnest(array['40001', '40P01', '55P03', '25P03', '25006', '53100', '53200', '53300', '57014', '57P01', '57P02', '57P03', '58030', '08006']) as code;
select code, tried(code) from unnest(array['P0001', '22012', '42883', '54000', '2F003', '0A000', 'XX000']) as code;
set client_min_messages = warning;
\echo == a right on some columns only
create table author.c (id integer primary key, a text, b text);
select cloudsync_init('author.c');
insert into author.c values (1, 'a', 'b');
select author.stamp(1, 1000, 'aa');
select author.payload() as whole \gset
update author.c set a = 'a2';
select author.stamp(1, 1000, 'aa', '{"a": 2000}');
select author.payload() as one \gset
update author.c set b = 'b2';
select author.stamp(1, 1000, 'aa', '{"a": 2000, "b": 2000}');
select author.payload() as two \gset
select cloudsync_cleanup('author.c');
create table c (id integer primary key, a text, b text);
select cloudsync_init('c');
grant select, update (a), delete on c to sync_app;
set role sync_app;
select cloudsync_payload_apply(:'whole');
reset role;
select cloudsync_payload_apply(:'whole');
delete from cloudsync.rejected;
set role sync_app;
select cloudsync_payload_apply(:'one');
select cloudsync_payload_apply(:'two');
reset role;
table c;
select key, sqlstate, message from cloudsync.rejected where table_name = 'c';
\echo == a row that lets others pass comes after them
create table author.m (id integer primary key, kind text, x text);
create table m (id integer primary key, kind text, x text);
select cloudsync_init('author.m');
insert into author.m values (1, 'document', 'first'), (2, 'document', 'second'), (3, 'foreign', 'third'), (9, 'member', 'sync_app');
select count(author.stamp(id, 1000, 'aa')) from author.m;
select author.payload() as membership \gset
select cloudsync_cleanup('author.m');
select cloudsync_init('m');
grant select, insert on m to sync_app;
create function is_member() returns boolean language sql security definer as $$ select exists (select from m where kind = 'member' and x = 'sync_app') $$;
alter table m enable row level security;
create policy members on m using (kind = 'member' or (kind = 'document' and is_member()));
set role sync_app;
select cloudsync_payload_apply(:'membership');
reset role;
select * from m order by id;
\echo == an answer names a thousand refusals; the site confirms, and is told of the others
create table author.many (id integer primary key, x text);
create table many (id integer primary key, x text check (x <> 'no'));
select cloudsync_init('author.many');
insert into author.many select i, 'no' from generate_series(1, 1000) as i;
select count(author.stamp(id, 1000, 'aa')) from author.many;
select author.payload() as first \gset
update author.many set id = id + 1000;
select count(author.stamp(id, 1000, 'aa')) from author.many;
select author.payload() as second \gset
select cloudsync_cleanup('author.many');
select cloudsync_init('many');
delete from cloudsync.rejected;
create function upload(payload bytea, number bigint, seen bigint) returns setof text language sql as $$
  select concat_ws(' | ', u.answer ->> 'status', u.answer ->> 'refused', jsonb_array_length(u.answer -> 'rejected'),
    u.answer -> 'rejected' -> 0 -> 'key', u.answer -> 'rejected' -> -1 -> 'key', u.answer ->> 'rejected_more')
  from (
    select cloudsync.apply_upload(payload, decode(repeat('aa', 16), 'hex'),
      decode(lpad(to_hex(number), 32, '0'), 'hex'), number, number,
      (select s.token from cloudsync.sites as s), 'sync_app', null, seen) as answer
  ) as u
$$;
grant insert on many to sync_app;
select upload(:'first', 1, null);
select upload(:'second', 2, null);
select upload(:'second', 2, max(rejection_id)) from (select rejection_id from cloudsync.rejected order by rejection_id limit 1000) as told;
select upload(:'second', 2, max(rejection_id)) from cloudsync.rejected;
drop owned by sync_app;
drop role sync_app;
