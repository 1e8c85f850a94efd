-- Nobody writes under the name of another site: what is new here and carries a foreign stamp becomes a write of this
-- database, so that the site which it names does not drop it as its own.
\ir include/metadata.psql
\ir include/author.psql
create table author.t (id integer primary key, a text, b integer);
create table t (id integer primary key, a text, b integer);
select cloudsync_init('author.t');
insert into author.t values (1, 'made by bb', 1), (2, 'made by bb', 2), (3, 'made by bb', 3);
select count(author.stamp(id, 1000, 'bb')) from author.t;
select author.payload() as made \gset
-- As a client sends a refused row: whole, with the stamps of others as it had them, and its own edit.
update author.t set b = 20 where id = 1;
select author.stamp(1, 1000, 'bb', '{"b": 2000}');
insert into cloudsync.site_dictionary values (nextval('cloudsync.site_ordinal'), decode(repeat('aa', 16), 'hex')) on conflict do nothing;
update cloudsync.meta_1 set cols[6] = (select ordinal from cloudsync.site_dictionary where site = decode(repeat('aa', 16), 'hex')) where key_1 = 1;
delete from author.t where id <> 1;
delete from cloudsync.meta_1 where key_1 <> 1;
select author.payload() as whole \gset
-- Forged: a later cell, another value under a stamp that is held, a new row, a later life, a deletion.
update author.t set a = 'forged cell', b = 21;
select author.stamp(1, 1000, 'bb', '{"a": 3000}');
insert into author.t values (2, 'zz forged value', 99), (3, 'forged life', 33), (4, 'forged row', 4);
select author.stamp(2, 1000, 'bb'), author.stamp(3, 4000, 'cc'), author.stamp(4, 1000, 'bb', '{"b": 1500}');
select author.payload() as forged \gset
delete from author.t;
select author.stamp(key_1, case key_1 when 2 then 1000 else 5000 end, 'bb') from cloudsync.meta_1;
select author.payload(true) as deleted \gset
select cloudsync_cleanup('author.t');
select cloudsync_init('t');
create role sync_app;
grant select, insert, update, delete on t to sync_app;
create function upload(payload bytea, site text, id text) returns setof text language sql as $$
  select concat_ws(' ', u.answer ->> 'status', 'rejected', u.answer -> 'rejected', 'lost', jsonb_array_length(u.answer -> 'lost'))
  from (select cloudsync.apply_upload(payload, decode(repeat(site, 16), 'hex'), decode(repeat(id, 16), 'hex'), 1, 9,
    (select s.token from cloudsync.sites as s where s.site = decode(repeat(upload.site, 16), 'hex')), 'sync_app', null) as answer) as u
$$;

\echo == stamps of the site itself
select upload(:'made', 'bb', '01');
select metadata('t');
\echo == a row that is sent whole: what is held stays, its own cell is taken
select upload(:'whole', 'aa', '01');
select metadata('t');
\echo == forged stamps
select upload(:'forged', 'aa', '02');
select * from t order by id;
select metadata('t');
\echo == just above what was sent
select m.key_1, m.hlc = (4000::bigint << 16) + 1 as life, m.cols[3] = (3000::bigint << 16) + 1 as a, m.cols[5] = (1500::bigint << 16) + 1 as b
from cloudsync.meta_2 as m order by m.key_1;
\echo == again: nothing changes
create temporary table once as select * from cloudsync.meta_2;
select upload(:'forged', 'aa', '03');
select count(*) from (table once except table cloudsync.meta_2) as changed;
\echo == the site that was named may still write, and sees what it did not write
select upload(:'made', 'bb', '02');
select count(*) from (table once except table cloudsync.meta_2) as changed;
\echo == a deletion in the name of another site
select upload(:'deleted', 'aa', '04');
select metadata('t');
\echo == a person may not either; whoever may be our owner says what any site wrote
truncate t;
delete from cloudsync.meta_2;
set role sync_app;
select cloudsync_payload_apply(:'made');
reset role;
select metadata('t');
truncate t;
delete from cloudsync.meta_2;
select cloudsync_payload_apply(:'made');
select metadata('t');
drop owned by sync_app;
drop role sync_app;
