-- The answer to an upload names the cells of its author that lost, with the stamps that stay.
\ir include/metadata.psql
\ir include/author.psql
create table author.t (id integer primary key, a text, b integer);
create table t (id integer primary key, a text, b integer);
select cloudsync_init('author.t');

create function author.ordinal(site text) returns integer language sql as $$
  select d.ordinal from cloudsync.site_dictionary as d where d.site = decode(repeat(ordinal.site, 16), 'hex')
$$;
insert into author.t values (1, 'server', 1), (2, 'server', 2), (3, 'server', 3), (4, 'server', 4), (5, 'server', 5);
select count(author.stamp(i, 1000, 'bb', '{"a": 3000}')) from generate_series(1, 5) as i;
select author.payload() as server \gset
delete from author.t where id = 3;
select author.stamp(3, 4000, 'bb');
select author.payload(true) as deleted \gset
insert into author.t values (3, 'server', 3);
update author.t set a = case id when 4 then 'server' else 'client' end, b = 20;
select count(author.stamp(i, 1000, 'bb')) from generate_series(1, 4) as i;
select author.stamp(5, 5000, 'aa');
-- The author's own cells, and one of another site.
update cloudsync.meta_1 set cols = array[null, null, 2000::bigint << 16, author.ordinal(case key_1 when 2 then 'bb' else 'aa' end), 2000::bigint << 16, author.ordinal('aa')]
where key_1 < 5;
select author.payload() as client \gset
update author.t set a = 'earlier', b = 30;
select count(author.stamp(i, 500, 'aa')) from generate_series(1, 5) as i;
select author.payload() as earlier \gset
delete from author.t;
insert into author.t select i, 'many', i from generate_series(10, 700) as i;
select count(author.stamp(i, 7000, 'bb')) from generate_series(10, 700) as i;
select author.payload() as many \gset
update author.t set a = 'mine', b = -b;
select count(author.stamp(i, 6000, 'aa')) from generate_series(10, 700) as i;
select author.payload() as beaten \gset
select cloudsync_cleanup('author.t');
select cloudsync_init('t');

create function upload(payload bytea, number bigint, role text default null) returns setof text language sql as $$
  select concat_ws(' | ', u.answer ->> 'status', l.value ->> 'table', l.value ->> 'key', l.value ->> 'column',
    (l.value ->> 'hlc')::bigint >> 16, left(l.value ->> 'site', 2), length(l.value ->> 'site'),
    'more: ' || (u.answer ->> 'lost_more'))
  from (
    select cloudsync.apply_upload(payload, decode(repeat('aa', 16), 'hex'),
      decode(lpad(to_hex(number), 32, '0'), 'hex'), number, number,
      (select s.token from cloudsync.sites as s), role, null) as answer
  ) as u left join lateral jsonb_array_elements(u.answer -> 'lost') as l on true
  order by l.value ->> 'key', l.value ->> 'column'
$$;
select cloudsync_payload_apply(:'server');
select cloudsync_payload_apply(:'deleted');
\echo == what lost to a later cell or deletion; not what is equal, nor what another site wrote
select upload(:'client', 1);
select * from t order by id;
\echo == asked again, the answer names the same
select upload(:'client', 1);
\echo == what lost to later creations; not what lost to writes of the same site
select upload(:'earlier', 2);
\echo == at most a thousand are named, and the others counted
select cloudsync_payload_apply(:'many');
select count(*), max(x) filter (where x like '%| [10] | a |%') from upload(:'beaten', 3) as x;
\echo == rows that the caller may not see are not named
create role sync_erin;
grant select, insert, update, delete on t to sync_erin;
alter table t enable row level security;
create policy own on t to sync_erin using (id = 11);
set client_min_messages = error;
select upload(:'beaten', 4, 'sync_erin');
revoke select on t from sync_erin;
select upload(:'beaten', 5, 'sync_erin');
drop owned by sync_erin;
drop role sync_erin;
