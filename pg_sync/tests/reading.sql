-- What is read of tracked tables: lines, payloads, chunks, files, explain.
\ir include/metadata.psql
create table t (id integer primary key, a text, n numeric(6, 2), b bytea);
insert into t values (0, 'was there', 1.5, '\x01');
select cloudsync_init('t');
insert into t values (1, 'one', 2, null), (2, 'two', null, null), (3, 'three', null, null);
update t set a = 'two more' where id = 2;
delete from t where id = 3;
create table pair ("Key" uuid, k2 text, v jsonb, primary key (k2, "Key"));
select cloudsync_init('pair');
insert into pair values ('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a01', 'x', '{"a": [1, null]}');
create table off (id integer primary key);
select cloudsync_init('off');
insert into off values (1);
select cloudsync_disable('off');
\echo == lines
select tbl, col_name, col_value, cl, seq, site_id = cloudsync_siteid() as own, col_version = 1 as baseline from cloudsync_changes order by tbl, pk, seq;
select count(*) = count(distinct (tbl, pk, seq)), bool_and(db_version between 3 and cloudsync_db_version()) from cloudsync_changes;
\echo == what changed since
select cloudsync_db_version() as since \gset
select cloudsync_payload_encode(:since) is null, length(cloudsync_payload_encode()) > 100, cloudsync_payload_encode(0, 3) is null;
update t set a = 'later' where id = 1;
select tbl, col_name, col_value from cloudsync_changes where db_version > :since order by seq;
select chunk_index, rows, db_version_min > :since, watermark_db_version >= :since, is_final, payload_size = length(payload) from cloudsync_payload_chunks(:since);
select chunk_index, rows, is_final from cloudsync_payload_chunks();
select count(*) from cloudsync_payload_chunks(cloudsync_db_version());
insert into t select g, repeat(md5(g::text), 60), null, null from generate_series(100, 139) as g;
select count(*) > 2, sum(rows), bool_or(is_final) from cloudsync_payload_chunks(:since, null, 1);
select cloudsync_set('payload_max_chunk_size', '20000');
select count(*) > 2, sum(rows) from cloudsync_payload_chunks(:since);
select cloudsync_payload_encode(-1);
select * from cloudsync_payload_chunks(0, 1, -1);
\echo == a payload holds everything, both ways of making it
select cloudsync_payload_apply(cloudsync_payload_encode());
select cloudsync_payload_encode() as whole \gset
select cloudsync_payload_encode(tbl, pk, col_name, col_value, col_version, db_version, site_id, cl, seq) as gathered from cloudsync_changes \gset
select cloudsync_payload_apply(:'gathered');
select string_agg(d::text, ' ' order by id) as rows_before from t as d \gset
create temporary table lines as select * from cloudsync_changes;
select cloudsync_cleanup('t');
truncate t;
select cloudsync_init('t');
select cloudsync_payload_apply(:'whole');
select string_agg(d::text, ' ' order by id) = :'rows_before' from t as d;
select count(*) from (select tbl, pk, col_name, col_value, col_version, site_id, cl, seq from cloudsync_changes except select tbl, pk, col_name, col_value, col_version, site_id, cl, seq from lines) as more;
select cloudsync_cleanup('t');
truncate t;
select cloudsync_init('t');
select cloudsync_payload_apply(:'gathered');
select string_agg(d::text, ' ' order by id) = :'rows_before' from t as d;
select count(*) from (select tbl, pk, col_name, col_value, col_version, site_id, cl, seq from cloudsync_changes except select tbl, pk, col_name, col_value, col_version, site_id, cl, seq from lines) as more;
select cloudsync_payload_encode('nothing', '\x', 'a', 'x', 1, 1, cloudsync_siteid(), 1, 1);
select cloudsync_payload_encode(tbl, pk, 'nothing', 'x', col_version, 1, site_id, cl, seq) from cloudsync_changes where tbl = 't';
select cloudsync_payload_encode(tbl, '\x', col_name, 'x', col_version, 1, site_id, cl, seq) from cloudsync_changes where tbl = 't';
select cloudsync_payload_encode(tbl, pk, col_name, 'x', col_version, 1, '\x01', cl, seq) from cloudsync_changes where tbl = 't';
select cloudsync_payload_encode(tbl, pk, col_name, 'x', col_version, 1, site_id, 3, seq) from cloudsync_changes where tbl = 't';
select cloudsync_payload_encode(tbl, null, col_name, 'x', col_version, 1, site_id, 1, seq) from cloudsync_changes where tbl = 't';
select cloudsync_payload_encode(tbl, pk, col_name, col_value, col_version, db_version, site_id, cl, seq) is null from cloudsync_changes where false;
\echo == values are printed alike whatever the session has set
create table moments (id integer primary key, r daterange, i interval, f real[], z timestamptz[]);
select cloudsync_init('moments');
insert into moments values (1, '[2026-02-01,2026-03-04)', '1 day 02:03', '{0.1, 1e-20}', '{2026-11-22 20:00+00}');
select col_value from cloudsync_changes where tbl = 'moments' order by seq;
set datestyle = 'German';
set intervalstyle = 'iso_8601';
set timezone = 'Asia/Tokyo';
set extra_float_digits = -10;
select col_value from cloudsync_changes where tbl = 'moments' order by seq;
select cloudsync_payload_encode(tbl, pk, col_name, col_value, col_version, db_version, site_id, cl, seq) as german from cloudsync_changes where tbl = 'moments' \gset
reset datestyle;
reset intervalstyle;
set timezone = 'UTC';
reset extra_float_digits;
select cloudsync_cleanup('moments');
create table kept as select * from moments;
delete from moments;
select cloudsync_init('moments');
select cloudsync_payload_apply(:'german');
select count(*), bool_and(m operator(pg_catalog.*=) k) from moments as m join kept as k using (id);
drop table moments;
\echo == files of the server
select current_setting('unix_socket_directories') || '/todos.payload' as path \gset
select cloudsync_payload_save(:'path') > 0, cloudsync_payload_load(:'path');
select cloudsync_payload_save('todos.payload');
select cloudsync_payload_load('/nowhere/todos.payload');
select cloudsync_payload_save(:'path', cloudsync_db_version());
\echo == explain
create function shown(explained jsonb) returns text language sql as $$
  select regexp_replace(regexp_replace(regexp_replace(explained::text, '"[0-9a-f]{32}"', '"site"', 'g'), '"time": "[^"]*"', '"time": "then"', 'g'), '"version": [0-9]{5,}', '"version": "n"', 'g')
$$;
update t set n = 7 where id = 1;
select shown(cloudsync_explain('t', 1));
select shown(cloudsync_explain('t', '3'));
select shown(cloudsync_explain('t', 77));
select shown(cloudsync_explain('pair', 'x', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a01'::uuid));
select cloudsync_explain('t', 1, 2);
select cloudsync_explain('t', null);
select cloudsync_explain('t', 'x');
create table untracked (id integer primary key);
select cloudsync_explain('untracked', 1);
\echo == who may read what
create role sync_reader;
create role sync_blind;
grant select on t to sync_reader;
alter table t enable row level security;
create policy first_row on t using (id = 1);
set role sync_reader;
select tbl, col_name, col_value, cl from cloudsync_changes order by seq;
select cloudsync_explain('t', 1) ->> 'alive', cloudsync_explain('t', 2) -> 'life', cloudsync_explain('t', 3) -> 'life';
select cloudsync_explain('pair', 'x', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a01');
select count(*), sum(rows) from cloudsync_payload_chunks();
select cloudsync_payload_save('/tmp/never');
select cloudsync_payload_load('/tmp/never');
set role sync_blind;
select count(*), cloudsync_payload_encode() is null from cloudsync_changes;
reset role;
drop owned by sync_reader, sync_blind;
drop role sync_reader, sync_blind;
