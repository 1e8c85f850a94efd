-- Expressions and functions that try to run code with the rights of others, or to have rows read by others.
\ir include/metadata.psql
create role sync_mallory;
create role sync_hub login noinherit;
select cloudsync_grant_hub('sync_hub');
grant create, usage on schema public to sync_mallory;
create table public.seen (who text);
create function evil(value text) returns text language plpgsql immutable as $$
begin
  if current_user not in ('postgres', 'sync_mallory') then
    perform set_config('evil.who', current_user, false);
  end if;
  return value;
end
$$;
create function is_evil(value text) returns boolean language sql immutable as 'select public.evil(value) is null or true';
create function evil_pair(text, integer) returns text language sql immutable as 'select public.evil($1)';
create operator public.|| (leftarg = text, rightarg = integer, function = evil_pair);
create function public.lower(value text) returns text language sql immutable as 'select public.evil(value)';
create domain checked as text check (is_evil(value));
create type colour as enum ('red');
create type pair as (a text, b checked);
set role sync_mallory;
create table m (id integer primary key, owner text, d checked, c colour, p pair, ts timestamptz, j jsonb, "a' || evil('x') || '" text);
select cloudsync_init('m');
select cloudsync_set_scope('m', 'evil(owner)');
select cloudsync_set_scope('m', 'public.lower(owner)');
select cloudsync_set_scope('m', 'owner operator(public.||) 1');
select cloudsync_set_scope('m', 'owner::checked');
select cloudsync_set_scope('m', '(p).b');
select cloudsync_set_scope('m', '''("x","y")''::pair::text');
select cloudsync_set_scope('m', 'c::text');
select cloudsync_set_scope('m', 'ts::text');
select cloudsync_set_scope('m', 'current_user::text');
select cloudsync_set_scope('m', 'current_setting(''role'')');
select cloudsync_set_scope('m', 'random()::text');
select cloudsync_set_scope('m', 'm::text');
select cloudsync_set_scope('m', 'ctid::text');
select cloudsync_set_scope('m', 'xmin::text');
select cloudsync_set_scope('m', 'max(owner)');
select cloudsync_set_scope('m', 'max(owner) over ()');
select cloudsync_set_scope('m', 'unnest(array[owner])');
select cloudsync_set_scope('m', 'regexp_split_to_table(owner, ''x'')');
select cloudsync_set_scope('m', '$1');
select cloudsync_set_scope('m', 'pg_read_file(owner)');
select cloudsync_set_scope('m', 'query_to_xml(owner, true, true, '''')::text');
select cloudsync_set_scope('m', 'exists (select 1)::text');
select cloudsync_set_scope('m', 'owner from m');
select cloudsync_set_scope('m', 'owner) from m where (true');
select cloudsync_set_scope('m', 'owner), evil(owner');
select cloudsync_set_scope('m', 'owner); drop table m; select (owner');
select cloudsync_set_scope('m', 'owner) union select (evil(owner)');
select cloudsync_set_scope('m', 'owner) into temp x from (values (1)) as v (y');
select cloudsync_set_scope('m', '');
select cloudsync_set_scope('m', '*');
select cloudsync_set_scope('m', 'm.*');
select cloudsync_set_scope('m', 'n.owner');
select cloudsync_set_scope('m', 'tg_op');
select cloudsync_set_scope('m', 'v_site::text');
select cloudsync_set_filter('m', 'is_evil(owner)');
select cloudsync_set_filter('m', 'owner');
select cloudsync_set_filter('m', null);
select cloudsync_set_scope(null, 'owner');
select cloudsync_set_filter('m', 'owner = any (select who from seen)');
select cloudsync_set_scope('seen', 'who');
select cloudsync_set_table('m', 'scope', 'evil(owner)');
-- What is allowed, with text that tries to leave its place.
select cloudsync_set_scope('m', 'owner -- ''');
select cloudsync_set_scope('m', '"a'' || evil(''x'') || ''" || ''{scopes} %1$s $x$ {emit} %L '' || coalesce(j ->> ''$body$'', e''\\''''\n'')');
select cloudsync_set_filter('m', 'c = ''red'' or d is not null or (p).a is null');
insert into m (id, owner, "a' || evil('x') || '", c) values (1, 'ann', 'a', 'red');
update m set owner = 'bob';
begin;
update m set "a' || evil('x') || '" = 'b';
update m set "a' || evil('x') || '" = 'c';
commit;
delete from m;
-- One that fails for a row fails the write, as in an index.
select cloudsync_set_scope('m', 'id::text || (1 / (id - 7))::text');
insert into m values (7, 'seven');
insert into m values (8, 'eight');
reset role;
select array_to_string(scopes, ',') from cloudsync.meta_1 order by key_1;
select current_setting('evil.who', true);

\echo == the function of scopes
set role sync_mallory;
create function mine(claims jsonb) returns setof text language sql as $$ select 'all of them' $$;
select cloudsync_set('scopes_function', 'mine');
select cloudsync.scopes_of('{"sub": "x"}');
select cloudsync_scopes('{"sub": "x"}');
reset role;
create role sync_owner;
select 'alter database ' || current_database() || ' owner to sync_owner' \gexec
create function of_postgres(claims jsonb) returns setof text language plpgsql as $$
begin
  return query select current_user || ' ' || coalesce(current_setting('request.jwt.claims', true), '');
end
$$;
create schema of_owner authorization sync_owner;
set role sync_owner;
select cloudsync_set('scopes_function', 'of_postgres');
select cloudsync_set('scopes_function', 'mine');
select cloudsync_set('scopes_function', 'nothing');
select cloudsync_set('scopes_function', 'evil');
create table of_owner.members (scope text, person text);
insert into of_owner.members values ('red', 'ann'), ('blue', 'ann'), ('blue', 'ann'), (null, 'ann'), ('green', 'bob');
create function of_owner.scopes(claims jsonb) returns setof text language sql stable
  as $$ select scope from of_owner.members where person = claims ->> 'sub' $$;
create function of_owner.one(claims jsonb) returns text language sql stable as $$ select '' $$;
select cloudsync_set('scopes_function', 'of_owner.one');
select cloudsync_set('scopes_function', 'of_owner.scopes');
reset role;
set session authorization sync_hub;
select array_to_string(cloudsync.scopes_of('{"sub": "ann"}'), ',');
select array_to_string(cloudsync.scopes_of('{"sub": "zoe"}'), ',') = '';
select current_setting('request.jwt.claims', true) is null or current_setting('request.jwt.claims', true) = '';
reset session authorization;
-- It has the rights of its owner, not those of ours, and cannot take others.
create or replace function of_owner.scopes(claims jsonb) returns setof text language plpgsql as $$
begin
  perform set_config('role', 'cloudsync_owner', true);
  return query select current_user::text;
end
$$;
select cloudsync.scopes_of('{"sub": "ann"}');
create or replace function of_owner.scopes(claims jsonb) returns setof text language sql as $$
  select current_user || ' ' || current_setting('request.jwt.claims')
$$;
select cloudsync.scopes_of('{"sub": "ann"}');
create or replace function of_owner.scopes(claims jsonb) returns setof text language sql as $$
  select encode(key, 'hex') from cloudsync.secret
$$;
select cloudsync.scopes_of('{"sub": "ann"}');
-- Another one of that name does not take its place.
drop function of_owner.scopes(jsonb);
select cloudsync.scopes_of('{"sub": "ann"}');
grant create, usage on schema of_owner to sync_mallory;
set role sync_mallory;
create function of_owner.scopes(claims jsonb) returns setof text language sql as $$ select 'all of them' $$;
reset role;
select cloudsync.scopes_of('{"sub": "ann"}');
set role sync_owner;
select cloudsync_set('scopes_function', null);
reset role;
select cloudsync.scopes_of('{"sub": "ann"}'), cloudsync.scopes_of('{}'), cloudsync.scopes_of('[]'), cloudsync.scopes_of('null');
create or replace function cloudsync_scopes(claims jsonb) returns setof text language sql as $$ select claims ->> 'role' $$;
select cloudsync.scopes_of('{"role": "app"}');
\o /dev/null
select 'alter database ' || current_database() || ' owner to postgres' \gexec
\o
drop extension pg_sync cascade;
drop owned by sync_hub, sync_mallory, sync_owner cascade;
drop role sync_hub, sync_mallory, sync_owner;
