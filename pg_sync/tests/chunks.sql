-- The chunks of one upload are applied as one: in one transaction, and with what waits for a row of a later chunk.
\ir include/metadata.psql
\ir include/author.psql
create table author.child (id integer primary key, parent integer, code text);
select cloudsync_init('author.child');
insert into author.child select i, i, 'c' || i from generate_series(1, 700) as i;
select count(author.stamp(i, 1000, 'aa')) from generate_series(1, 700) as i;
select author.payload() as children \gset
update author.child set code = 'c2' where id = 1;
delete from author.child where id > 1;
select author.stamp(1, 2000, 'aa');
select author.payload() as first_moved \gset
delete from author.child;
insert into author.child values (2, 2, 'free');
select author.stamp(2, 2000, 'aa');
select author.payload() as second_moved \gset
delete from author.child;
insert into author.child values (3, 9999, 'c3'), (4, 4, 'moved');
select author.stamp(3, 2000, 'aa'), author.stamp(4, 2000, 'aa');
select author.payload() as orphaned \gset
select cloudsync_cleanup('author.child');
create table author.parent (id integer primary key, name text);
select cloudsync_init('author.parent');
insert into author.parent select i, 'p' from generate_series(1, 700) as i;
select count(author.stamp(i, 1000, 'aa')) from generate_series(1, 700) as i;
select author.payload() as parents \gset
select count(author.stamp(i, (extract(epoch from now()) * 1000 + 3600000)::bigint, 'aa')) from generate_series(1, 700) as i;
select author.payload() as ahead \gset
select cloudsync_cleanup('author.parent');

create table parent (id integer primary key, name text);
create table child (id integer primary key, parent integer references parent, code text unique);
select cloudsync_init('parent'), cloudsync_init('child');

create function upload(payload bytea, number bigint, role text default null) returns text language sql as $$
  select concat_ws(' | ', u.answer ->> 'status', 'acked ' || (u.answer ->> 'acked'), 'refused ' || (u.answer ->> 'refused'),
    (select string_agg(r ->> 'key', ' ') from jsonb_array_elements(u.answer -> 'rejected') as r))
  from (
    select cloudsync.apply_upload(payload, decode(repeat('aa', 16), 'hex'),
      decode(lpad(to_hex(number), 32, '0'), 'hex'), number, number,
      (select s.token from cloudsync.sites as s), role, null) as answer
  ) as u
$$;
create view held as
select (select count(*) from parent) as parents, (select count(*) from child) as children, (select count(*) from cloudsync.sites) as sites;

\echo == a chunk that is missing
begin;
select cloudsync.add_chunk(null);
select upload(:'parents', 1);
commit;
select * from held;
\echo == what was kept for a transaction that is over
begin;
select cloudsync.add_chunk(:'children');
rollback;
begin;
select cloudsync.add_chunk(null);
commit;
\echo == a chunk ahead of the clock leaves nothing of those before it
begin;
select cloudsync.add_chunk(:'parents');
select upload(:'ahead', 1);
commit;
select * from held;
\echo == children before their parents
begin;
select cloudsync.add_chunk(:'children');
select upload(:'parents', 1);
commit;
select * from held;
select count(*) from child where code = 'c' || id;
\echo == once more: it is there, though its chunks are not
begin;
select cloudsync.add_chunk(null);
select upload(:'parents', 1);
commit;
\echo == a value that a row of a later chunk gives up
begin;
select cloudsync.add_chunk(:'first_moved');
select upload(:'second_moved', 2);
commit;
select id, parent, code from child where id < 4 order by id;
\echo == a row whose parent is in no chunk is refused alone
begin;
select cloudsync.add_chunk(:'orphaned');
select upload(:'second_moved', 3);
commit;
select id, parent, code from child where id in (3, 4) order by id;
\echo == every chunk is applied with the rights of the caller
create role sync_carol;
grant select, insert, update on parent to sync_carol;
update child set code = 'x' || id where id < 3;
begin;
select cloudsync.add_chunk(:'children');
select left(upload(:'parents', 4, 'sync_carol'), 33);
commit;
select count(*) from child where code like 'c%';
\echo == what is kept lies in a file, which is closed where nothing is done with it
begin;
select cloudsync.add_chunk(:'children');
select upload(:'parents', (select acked from cloudsync.sites));
commit;
begin;
set local temp_file_limit = '64kB';
select cloudsync.add_chunk(decode(repeat('00', 200000), 'hex'));
rollback;
drop owned by sync_carol;
drop role sync_carol;
