-- Who reads a row: the lists that travel with every change, by every way to write, and with snapshots.
\ir include/metadata.psql
\ir include/messages.psql
\ir include/author.psql
create table t (id integer primary key, owner text, team text[], title text, gone integer);
alter table t drop column gone;
select cloudsync_init('t');
insert into t values (1, 'ann', null, 'one'), (2, 'bob', '{x,y}', 'two'), (3, null, null, 'three');
create function part(tracked text, dead boolean) returns setof text language sql as $$
  select message.lines(p.payload) from cloudsync.tables as t, cloudsync.snapshot_part(t.table_id, dead, null, 100) as p
  where t.table_name = tracked
$$;
create function last_scopes(tracked text) returns setof text language plpgsql as $$
begin
  return query execute format('select m.key_1 || '' '' || array_to_string(m.scopes, '','') from cloudsync.meta_%s as m
    where not m.alive order by m.key_1', (select table_id from cloudsync.tables where table_name = tracked));
end
$$;
\o /dev/null
select messages();
\o

\echo == set, and set to the same
select cloudsync_set_scope('t', 'team || owner');
select cloudsync_set_scope('t', '(team  ||  owner)');
select messages();
select scope_expression from cloudsync.tables;

\echo == plain statements
insert into t values (4, 'ann', '{x}', 'four');
update t set title = 'uno' where id = 1;
update t set owner = 'cy' where id in (1, 2);
update t set team = array['y', null, 'y'] where id = 2;
update t set owner = owner, title = title;
update t set id = 40 where id = 4;
delete from t where id = 3;
insert into t values (5, 'ann', null, 'five') on conflict (id) do nothing;
insert into t values (5, 'bob', null, 'v') on conflict (id) do update set owner = excluded.owner;
merge into t using (values (5, 'cy'), (6, 'dan')) as s (id, owner) on s.id = t.id
when matched then update set owner = s.owner when not matched then insert (id, owner) values (s.id, s.owner);
copy t (id, owner, title) from stdin;
7	eve	seven
8	\N	eight
\.
with gone as (delete from t where id = 7 returning *) insert into t select id + 70, 'fay', team, title from gone;
with gone as (delete from t where id = 8 returning *) update t set owner = 'gil' where id = 77;
select messages();
select last_scopes('t');

\echo == one transaction, one row
begin;
insert into t values (9, 'ann', null, 'nine');
update t set owner = 'bob' where id = 9;
update t set title = 'ix' where id = 9;
update t set owner = 'cy', title = 'nove' where id = 9;
delete from t where id = 9;
insert into t values (9, 'dan', null, 'again');
commit;
select messages();

\echo == triggers of the user, which write again
create function again() returns trigger language plpgsql as $$
begin
  if new.title = 'move' then update t set owner = 'moved', title = 'was moved' where id = new.id;
  elsif new.title = 'drop' then delete from t where id = new.id;
  elsif new.title = 'change and drop' then
    update t set owner = 'between', title = 'x' where id = new.id;
    delete from t where id = new.id;
  end if;
  return null;
end
$$;
create trigger again after insert or update on t for each row execute function again();
insert into t values (10, 'ann', null, 'move'), (11, 'ann', null, 'drop');
update t set owner = 'late', title = 'move' where id = 9;
select messages();
update t set owner = 'bob', title = 'drop' where id = 10;
update t set owner = 'eve', title = 'change and drop' where id = 5;
select messages();
select last_scopes('t');
drop trigger again on t;

\echo == cascades
create table parent (name text primary key);
create table child (id integer primary key, name text references parent on update cascade on delete cascade);
insert into parent values ('p'), ('q');
select cloudsync_init('child'), cloudsync_set_scope('child', 'name');
insert into child values (1, 'p'), (2, 'q');
update parent set name = 'r' where name = 'p';
delete from parent where name = 'r';
select messages();

\echo == replica mode
set session_replication_role = replica;
insert into t values (12, 'ann', null, 'twelve');
update t set owner = 'bob' where id = 12;
update t set title = 'xii' where id = 12;
update t set id = 13, owner = 'cy' where id = 12;
delete from t where id = 13;
reset session_replication_role;
select messages();

\echo == snapshots
select part('t', false);
select part('t', true);

\echo == truncate
truncate child;
select messages();
select last_scopes('child');

\echo == partitions, with columns in another order
create table p (id integer primary key, owner text, n integer) partition by range (id);
create table p_1 (n integer, owner text, id integer not null);
alter table p attach partition p_1 for values from (0) to (100);
create table p_2 partition of p for values from (100) to (200);
select cloudsync_init('p'), cloudsync_set_scope('p', 'owner');
insert into p values (1, 'ann', 1), (101, 'bob', 2);
update p set owner = 'cy';
update p_1 set owner = 'dan' where id = 1;
update p_2 set owner = 'eve', n = 3 where id = 101;
update p set id = 102 where id = 1;
delete from p_2 where id = 101;
truncate p;
select messages();

\echo == another algorithm
create table r (id integer primary key, owner text, n integer default 0);
select cloudsync_init('r'), cloudsync_set_column('r', 'n', 'algo', 'counter'), cloudsync_set_scope('r', 'owner');
insert into r values (1, 'ann', 1), (2, 'bob', 2);
update r set n = n + 1 where id = 1;
update r set owner = 'bob' where id = 1;
delete from r where id = 2;
begin;
update r set owner = 'cy' where id = 1;
delete from r where id = 1;
commit;
select regexp_replace(messages(), 'bytes [0-9a-f]+', 'a counter', 'g');
select last_scopes('r');

\echo == a scope over a generated column, and over what a trigger of the user makes of a row
create table g (id integer primary key, a text, lower_a text generated always as (lower(a)) stored);
create function upper_a() returns trigger language plpgsql as $$ begin new.a := upper(new.a) || 'S'; return new; end $$;
create trigger upper_a before insert or update on g for each row execute function upper_a();
select cloudsync_init('g'), cloudsync_set_scope('g', 'lower_a');
insert into g values (1, 'Ann');
update g set a = 'Bob';
select messages();

\echo == definitions are followed
alter table g rename lower_a to "Lower {a} %s $1";
alter table t rename owner to "the owner";
update g set a = 'cy';
update t set "the owner" = 'hal' where id = 1;
alter table t drop column "the owner";
alter table t alter column "the owner" type integer using 1;
alter table g drop column a cascade;
select scope_expression from cloudsync.tables where table_name in ('t', 'g') order by table_name;
alter table t enable row level security;
alter table child enable row level security;
select messages();
select cloudsync_set_scope('child', null);
insert into parent values ('s');
insert into child values (3, 's');
alter table child disable row level security;
delete from child;
select messages();

\echo == another type that fits
create table v (id integer primary key, owner text, team text);
select cloudsync_init('v');
select cloudsync_set_scope('v', 'lower(owner) || team'), cloudsync_set_filter('v', 'owner <> ''nobody''');
alter table v alter column owner type varchar(20), alter column team type name;
insert into v values (1, 'ANN', ' red'), (2, 'nobody', ' blue');
alter table v drop constraint v_pkey;
alter table v rename owner to who;
update v set team = 'x';
alter table v add primary key (id);
update v set who = 'Bob' where id = 1;
delete from v;
select messages();
select last_scopes('v');

\echo == thousands of scopes, cut into messages of their own
create table many (id integer primary key, readers text[]);
select cloudsync_init('many'), cloudsync_set_scope('many', 'readers');
insert into many select n, (select array_agg('team ' || s) from generate_series(1, 1000) as s) from generate_series(1, 20) as n;
select count(*) filter (where substr(b.body, 42)::text like '%7465616d203939%') > 2 as cut, max(length(b.body)) < 200000 as small
from pg_logical_slot_get_binary_changes('messages_' || current_database(), null, null) as c, message.bodies(c.data) as b (body);

\echo == disabled, and back
select cloudsync_disable('t');
update t set "the owner" = 'ida' where id = 1;
select cloudsync_set_scope('t', '"the owner"');
select cloudsync_enable('t');
update t set "the owner" = 'jon' where id = 1;
select messages();

\echo == another key keeps the last scopes
alter table t add column part integer not null default 0;
alter table t drop constraint t_pkey, add primary key (id, part);
delete from t where id = 1;
select array_to_string(scopes, ',') from cloudsync.meta_1 where key_1 = 1;
select cloudsync_cleanup('*');
