-- Cells newer than the deletion of their row: they wait beside it, and whoever joins by a snapshot has them too.
\ir include/metadata.psql
\ir include/author.psql
create table author.t (id integer primary key, a text, b integer);
create table t (id integer primary key, a text, b integer);
select cloudsync_init('author.t');
insert into author.t values (1, 'first', 1), (2, 'second', 2);
select author.stamp(1, 1000, 'aa'), author.stamp(2, 1000, 'aa');
select author.payload() as created \gset
update author.t set a = 'late';
select author.stamp(1, 1000, 'aa', '{"a": 3000}'), author.stamp(2, 1000, 'aa', '{"a": 2000}');
select author.payload() as updated \gset
update author.t set a = 'between', b = 7;
select author.stamp(1, 2700, 'cc'), author.stamp(2, 2700, 'cc');
select author.payload() as between \gset
delete from author.t;
select author.stamp(1, 2500, 'bb'), author.stamp(2, 2500, 'bb');
select author.payload(true) as deleted \gset
select cloudsync_cleanup('author.t');
select cloudsync_init('t');

\echo == one row keeps a cell beside its tombstone, the other none
select cloudsync_payload_apply(:'created');
select cloudsync_payload_apply(:'deleted');
select cloudsync_payload_apply(:'updated');
select metadata('t');
select max(table_id) as t from cloudsync.tables \gset
select payload as tombstones from cloudsync.snapshot_part(:t, true, null, 10) \gset
select cloudsync_cleanup('t');
drop table t;
create table t (id integer primary key, a text, b integer);
select cloudsync_init('t');
\echo == a table that begins with the snapshot knows the same
select cloudsync_payload_apply(:'tombstones');
select metadata('t');
\echo == an older creation shows the cell
select cloudsync_payload_apply(:'between');
select * from t order by id;
select metadata('t');
