-- Bytes made to break apply, and tables whose triggers, policies, views and rules work against it.
\ir include/metadata.psql
\ir include/author.psql
create role sync_app;
create table author.t (id integer, part text, a text, b integer, primary key (id, part));
create table t (id integer, part text, a text, b integer, primary key (id, part));
select cloudsync_init('author.t');
insert into author.t values (1, 'x', 'one', 1), (2, 'y', 'two', 2);
select author.payload() as payload \gset
select cloudsync_cleanup('author.t');
select cloudsync_init('t');

create function tried(payload bytea) returns text language plpgsql as $$
begin
  perform cloudsync_payload_apply(payload);
  return '00000';
exception when others then
  return sqlstate;
end
$$;
set client_min_messages = error;
begin;
\echo == cut off anywhere: wrong, but for the padding at its end
select tried(substr(:'payload'::bytea, 1, i)) as state, count(*) > 0 from generate_series(0, octet_length(:'payload'::bytea) - 1) as i group by 1;
\echo == a byte changed anywhere: refused, or taken for what it says; never an error of ours
select distinct state
from generate_series(0, octet_length(:'payload'::bytea) - 1) as i, unnest(array[1, 128, 255]) as step,
  tried(set_byte(:'payload'::bytea, i, (get_byte(:'payload'::bytea, i) + step) % 256)) as state
where state not in ('00000', '22000', '0A000', '40001');
\echo == frames that promise more than there is
select tried('CSY1'::bytea || decode('00ffffffff0000000000000000', 'hex')), tried('CSY1'::bytea || decode('01ffffff7f0000000028b52ffd', 'hex')),
  tried('CSY1'::bytea), tried(''::bytea), tried(:'payload'::bytea || :'payload'::bytea);
rollback;
select count(*) from t;

\echo == another key here
create table author.k (id integer, part text, a text, primary key (id, part));
select cloudsync_init('author.k');
insert into author.k values (1, 'x', 'one');
select author.payload() as pairs \gset
select cloudsync_cleanup('author.k');
create table k (id integer primary key, a text);
select cloudsync_init('k');
select cloudsync_payload_apply(:'pairs');
select key, sqlstate, message from cloudsync.rejected where table_name = 'k';
select cloudsync_cleanup('k');

\echo == triggers that work against apply
create table author.g (id integer primary key, x text);
create table g (id integer primary key, x text);
select cloudsync_init('author.g');
insert into author.g values (1, 'set role'), (2, 'session'), (3, 'reset'), (4, 'config'), (5, 'commit'), (6, 'close'), (7, 'discard'),
  (8, 'null'), (9, 'other value'), (10, 'twice'), (11, 'apply'), (12, 'disable'), (13, 'replica'), (14, 'isolation'), (15, 'plain');
select author.payload() as against \gset
select cloudsync_cleanup('author.g');
create function against() returns trigger language plpgsql as $$
begin
  case new.x
    when 'set role' then set role sync_app;
    when 'session' then set session authorization sync_app;
    when 'reset' then reset role;
    when 'config' then perform set_config('role', 'postgres', false);
    when 'commit' then commit;
    when 'close' then execute 'close all';
    when 'discard' then execute 'discard all';
    when 'null' then return null;
    when 'other value' then new.x := 'changed';
    when 'twice' then insert into g values (new.id, 'first'); return new;
    when 'apply' then perform cloudsync_payload_apply('\x00');
    when 'disable' then alter table g disable trigger cloudsync_insert;
    when 'replica' then set session_replication_role = replica;
    when 'isolation' then set transaction isolation level serializable;
    else
  end case;
  return new;
end
$$;
create trigger against before insert on g for each row execute function against();
grant select, insert, update, delete on g to sync_app;
select cloudsync_init('g');
select cloudsync.apply_upload(:'against', decode(repeat('aa', 16), 'hex'), decode(repeat('01', 16), 'hex'), 1, 1, null, 'sync_app', null) ->> 'status';
select key, sqlstate, message from cloudsync.rejected where table_name = 'g' order by (key ->> 0)::integer;
select * from g order by id;
select metadata('g');
select current_user, session_user, current_setting('role'), current_setting('session_replication_role');
select tgname, tgenabled from pg_trigger where tgrelid = 'g'::regclass and tgname = 'cloudsync_insert';

\echo == rules in place of the writes
create table author.q (id integer primary key, x text);
create table q (id integer primary key, x text);
select cloudsync_init('author.q');
insert into author.q values (1, 'sent');
select author.payload() as ruled \gset
select cloudsync_cleanup('author.q');
select cloudsync_init('q');
create table elsewhere (id integer, x text);
grant all on q, elsewhere to sync_app;
create rule aside as on insert to q do instead insert into elsewhere values (new.id, new.x);
select cloudsync_payload_apply(:'ruled');
table q;
table elsewhere;
select sqlstate, message from cloudsync.rejected where table_name = 'q';

\echo == objects of the caller with the names that apply uses
create temporary table cloudsync_rows (key_1 integer, c_0 text, place bigint);
create temporary table q (id integer primary key, x text);
create schema mine;
create function mine.evil(integer, integer) returns boolean language plpgsql as $$ begin raise exception 'an operator of the caller'; end $$;
create operator mine.= (leftarg = integer, rightarg = integer, function = mine.evil);
drop rule aside on public.q;
set search_path = mine, pg_temp, public, pg_catalog;
select public.cloudsync_payload_apply(:'ruled');
update public.q set x = 'typed';
reset search_path;
select * from public.q;
select count(*) from pg_temp.q;
select metadata('q');
drop owned by sync_app;
drop role sync_app;
