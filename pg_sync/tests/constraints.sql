-- Deferred constraints: a row that breaks one is refused alone, and the caller's transaction defers what it deferred.
\ir include/metadata.psql
\ir include/author.psql
create table parent (id integer primary key);
create table author.child (id integer primary key, p integer);
create table child (
  id integer primary key,
  p integer references parent deferrable initially deferred,
  u integer references parent deferrable initially immediate
);
insert into parent values (1);
select cloudsync_init('author.child');
insert into author.child values (1, 1), (2, 2);
select author.stamp(1, 1000, 'aa'), author.stamp(2, 1000, 'aa');
select author.payload() as children \gset
select cloudsync_cleanup('author.child');
select cloudsync_init('child');

\echo == deferred before, deferred afterwards; the row that has no parent is refused
begin;
select cloudsync_payload_apply(:'children');
insert into child (id, p) values (10, 10);
insert into parent values (10);
commit;
select id, p from child order by id;
select key, sqlstate from cloudsync.rejected;
\echo == what the caller deferred itself
begin;
set constraints all deferred;
select cloudsync_payload_apply(:'children');
insert into child (id, u) values (11, 11);
insert into parent values (11);
commit;
\echo == what it made immediate itself
begin;
set constraints child_p_fkey immediate;
select cloudsync_payload_apply(:'children');
insert into child (id, p) values (12, 12);
rollback;
\echo == constraints that are open already wait for the caller: the payload is not blamed for them
delete from cloudsync.rejected;
begin;
insert into child (id, p) values (13, 13);
select cloudsync_payload_apply(:'children');
insert into parent values (2), (13);
commit;
select id, p from child order by id;
select metadata('child');
select count(*) from cloudsync.rejected;
