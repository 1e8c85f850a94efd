-- Merging payloads: who wins, what is refused, and what an upload is answered.
\ir include/metadata.psql
\ir include/author.psql
create table author.t (id integer primary key, a text, b integer);
create table t (id integer primary key, a text, b integer check (b < 100), c text default 'made here');
select cloudsync_init('author.t');

insert into author.t values (1, 'first', 1), (2, 'second', 2), (3, 'third', 300);
select author.stamp(1, 1000, 'aa'), author.stamp(2, 1000, 'aa', '{"b": 1500}'), author.stamp(3, 1000, 'aa');
select author.payload() as created \gset
update author.t set a = 'by bb', b = 20;
select author.stamp(1, 1000, 'aa', '{"a": 3000}'), author.stamp(2, 1000, 'aa', '{"a": 900, "b": 3000}'), author.stamp(3, 1000, 'aa');
select author.stamp(1, 1000, 'aa', '{"a": 3000, "b": 2000}');
select author.payload() as updated \gset
delete from author.t;
select author.stamp(1, 2500, 'bb'), author.stamp(2, 4000, 'bb'), author.stamp(3, 4000, 'bb');
select author.payload(true) as deleted \gset
insert into author.t values (2, 'another life', 3);
delete from cloudsync.meta_1 where key_1 <> 2;
select author.stamp(2, 5000, 'cc');
select author.payload() as reborn \gset
update author.t set a = 'from the future';
select author.stamp(2, (extract(epoch from clock_timestamp() + interval '1 hour') * 1000)::bigint, 'cc');
select author.payload() as ahead \gset
select cloudsync_cleanup('author.t');
select cloudsync_init('t');

\echo == a creation; one row is refused
select cloudsync_payload_apply(:'created');
select * from t order by id;
select metadata('t');
\echo == again: nothing changes
select cloudsync_payload_apply(:'created');
select metadata('t');
\echo == later cells win, in any order
select cloudsync_payload_apply(:'updated');
select cloudsync_payload_apply(:'created');
select * from t order by id;
select metadata('t');
\echo == a deletion takes what is older and parks what is newer
select cloudsync_payload_apply(:'deleted');
select cloudsync_payload_apply(:'updated');
select * from t order by id;
select metadata('t');
select count(*) from cloudsync.parked;
\echo == a later creation
select cloudsync_payload_apply(:'reborn');
select cloudsync_payload_apply(:'deleted');
select * from t order by id;
select metadata('t');
\echo == a stamp ahead of the clock changes nothing
select regexp_replace(status, '[0-9]{9,}', 'N', 'g') from (
  select cloudsync.apply_upload(:'ahead', decode(repeat('cc', 16), 'hex'), decode(repeat('01', 16), 'hex'), 1, 1, null, null, null) ->> 'status' as status) as u;
select * from t order by id;
select count(*) from cloudsync.sites;
\echo == refusals are kept by row
select table_name, key, sqlstate, message from cloudsync.rejected;
\echo == broken payloads
select cloudsync_payload_apply('\x00');
select cloudsync_payload_apply(substr(:'created'::bytea, 1, 100));
select cloudsync_payload_apply('CSY1'::bytea || '\x00');
\echo == uploads: first, again, unknown token, gap
create function upload(payload bytea, id text, first bigint, last bigint, token text, seen bigint default null) returns setof text language sql as $$
  select concat_ws(' ', u.answer ->> 'status', 'acked', u.answer ->> 'acked', 'token', length(u.answer ->> 'token'),
    'rejected', u.answer -> 'rejected' -> 0 ->> 'sqlstate', u.answer -> 'rejected' -> 0 ->> 'last', 'accepted', u.answer ->> 'accepted_hlc')
  from (select cloudsync.apply_upload(payload, decode(repeat('aa', 16), 'hex'), decode(repeat(id, 16), 'hex'), first, last,
    case token when 'none' then null when 'known' then (select s.token from cloudsync.sites as s) else '\x0011' end, null, null, seen) as answer) as u
$$;
truncate t;
delete from cloudsync.meta_2;
select upload(:'created', '01', 1, 4, 'known');
select upload(:'created', '01', 1, 4, 'none');
select upload(:'created', '01', 1, 4, 'wrong');
select upload(:'updated', '02', 5, 6, 'wrong');
select upload(:'updated', '02', 5, 6, 'none');
select upload(:'updated', '02', 6, 6, 'known');
select upload('\x00', '02', 5, 5, 'known');
select upload(:'updated', '02', 5, 6, 'known');
select upload(:'updated', '02', 5, 6, 'known', max(rejection_id) - 1) from cloudsync.rejected;
select upload(:'updated', '02', 5, 6, 'wrong', max(rejection_id)) from cloudsync.rejected;
select count(*) from cloudsync.apply_upload(:'created', '\x00', '\x00', 1, 1, null, null, null);
select count(*) from cloudsync.apply_upload(:'created', decode(repeat('aa', 16), 'hex'), decode(repeat('aa', 16), 'hex'), 3, 2, null, null, null);
select acked from cloudsync.sites;
\echo == columns and tables that are not here
drop table author.t;
create table author.t (id integer primary key, a text, extra text);
create table author.nowhere (id integer primary key);
alter table t rename column b to renamed;
select cloudsync_cleanup('t');
select cloudsync_init('author.t');
insert into author.t values (7, 'seven', 'x');
select author.payload() as wider \gset
select cloudsync_cleanup('author.t');
select cloudsync_init('author.nowhere');
insert into author.nowhere values (1);
select author.payload() as nowhere \gset
select cloudsync_cleanup('author.nowhere');
select cloudsync_init('t');
select cloudsync_payload_apply(:'wider');
select cloudsync_payload_apply(:'nowhere');
select * from t where id = 7;
select table_name, column_name from cloudsync.skipped_columns;
select table_name, sqlstate, message from cloudsync.rejected order by rejection_id desc limit 1;
\echo == of two seeds of one row, the one of the greater site stays, whatever comes first
drop table author.t;
select cloudsync_cleanup('t');
drop table t;
create table author.t (id integer primary key, a text);
select cloudsync_init('author.t');
insert into author.t values (1, 'greater'), (2, 'greater');
select author.stamp(1, 0, 'bb'), author.stamp(2, 0, 'bb');
select author.payload() as greater \gset
update author.t set a = 'smaller';
select author.stamp(1, 0, 'aa'), author.stamp(2, 0, 'aa');
select author.payload() as smaller \gset
select cloudsync_cleanup('author.t');
create table t (id integer primary key, a text);
select cloudsync_init('t');
select cloudsync_payload_apply(:'greater');
select cloudsync_payload_apply(:'smaller');
select * from t order by id;
truncate t;
select metadata('t');
