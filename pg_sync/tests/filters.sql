-- Rows that a filter keeps here, with and without a scope; and applying what others send to such tables.
\ir include/metadata.psql
\ir include/messages.psql
\ir include/author.psql
create table t (id integer primary key, a text, hidden boolean default false);
select cloudsync_init('t');
insert into t values (1, 'one', false), (2, 'two', true), (3, 'three', null);
create function part(tracked text, dead boolean) returns setof text language sql as $$
  select message.lines(p.payload) from cloudsync.tables as t, cloudsync.snapshot_part(t.table_id, dead, null, 100) as p
  where t.table_name = tracked
$$;
\o /dev/null
select messages();
\o

\echo == a first filter sends nothing
select cloudsync_set_filter('t', 'not hidden');
select messages();

\echo == rows that match, that do not, that come and go
insert into t values (4, 'four', false), (5, 'five', true);
update t set a = 'uno' where id = 1;
update t set a = 'dos' where id = 2;
update t set hidden = false where id = 2;
update t set a = 'deux' where id = 2;
update t set hidden = true where id = 1;
update t set a = 'un' where id = 1;
delete from t where id in (1, 4);
update t set id = 20 where id = 2;
update t set id = 50 where id = 5;
select messages();
select part('t', false);
select part('t', true);
select tbl, pk, col_name, cl from cloudsync_changes where col_name = '__[RIP]__' order by pk;

\echo == one transaction
begin;
insert into t values (6, 'six', true);
update t set hidden = false where id = 6;
update t set hidden = true where id = 6;
update t set a = 'vi' where id = 6;
delete from t where id = 6;
commit;
select messages();

\echo == another filter sends what it lets in
select cloudsync_set_filter('t', 'not hidden or a = ''five''');
select messages();
select cloudsync_set_filter('t', 'hidden');
select messages();
select cloudsync_clear_filter('t');
select messages();
select part('t', true);

\echo == with a scope, whoever may not read a row loses it all the same
select cloudsync_set_scope('t', 'a');
select cloudsync_set_filter('t', 'hidden is not true');
insert into t values (7, 'ann', false), (8, 'ann', false), (9, 'ann', true);
select messages();
update t set hidden = true where id = 7;
update t set hidden = true, a = 'bob' where id = 8;
update t set a = 'bob' where id = 9;
update t set a = 'cy' where id = 8;
update t set hidden = false where id = 8;
delete from t where id = 7;
select messages();
begin;
set local session_replication_role = replica;
update t set hidden = true, a = 'dan' where id = 8;
update t set hidden = false where id = 8;
commit;
select messages();

\echo == uploads: what is stored decides
create table author.u (id integer primary key, owner text, a text, hidden boolean);
select cloudsync_init('author.u');
insert into author.u values (1, 'ann', 'one', false), (2, 'bob', 'two', false), (3, 'ann', 'three', true), (4, 'ann', 'four', false);
select author.stamp(k, 1000, 'aa') from generate_series(1, 4) as k;
select author.payload() as created \gset
update author.u set owner = 'cy', a = 'uno' where id = 1;
update author.u set a = 'dos' where id = 2;
select author.stamp(1, 1000, 'aa', '{"owner": 2000, "a": 2000}'), author.stamp(2, 1000, 'aa', '{"a": 2000}');
select author.payload() as updated \gset
delete from author.u where id in (1, 3);
select author.stamp(1, 3000, 'aa'), author.stamp(3, 3000, 'aa');
select author.payload(true) as deleted \gset
select author.stamp(1, 4000, 'aa'), author.stamp(3, 4000, 'aa');
select author.payload(true) as deleted_later \gset
select cloudsync_cleanup('author.u');
create table u (id integer primary key, owner text, a text, hidden boolean);
select cloudsync_init('u');
select cloudsync_set_scope('u', 'owner'), cloudsync_set_filter('u', 'hidden is not true');
\o /dev/null
select messages();
\o
select cloudsync_payload_apply(:'created');
select messages();
select cloudsync_payload_apply(:'updated');
select messages();
select cloudsync_payload_apply(:'deleted');
select messages();
select cloudsync_payload_apply(:'deleted_later');
select messages();
select part('u', false);
select part('u', true);
-- A trigger moves what was sent to another reader.
create function mine() returns trigger language plpgsql as $$ begin new.owner := 'zoe'; return new; end $$;
create trigger mine before insert on u for each row execute function mine();
delete from u;
select cloudsync_cleanup('u');
select cloudsync_init('u');
select cloudsync_set_scope('u', 'owner');
\o /dev/null
select messages();
\o
select cloudsync_payload_apply(:'created');
select messages();
-- Never here: nobody but its author has it.
select cloudsync_cleanup('u');
truncate u;
select cloudsync_init('u');
select cloudsync_set_scope('u', 'owner');
\o /dev/null
select messages();
\o
select cloudsync_payload_apply(:'deleted');
select messages();
select part('u', true);
