-- Names chosen to break out of whatever we write with them.
\ir include/metadata.psql
\ir include/author.psql
set standard_conforming_strings = on;
create schema "a'; drop schema public cascade; --";
create schema "$$ $capture$ $body$ %I %s {name}";
create role "mallory""';--$capture$";
grant create, usage on schema "$$ $capture$ $body$ %I %s {name}", public to "mallory""';--$capture$";
-- What a broken quote would run, it would run as the owner of everything.
create table broken (who text);
grant insert, select on broken to public;

create function sync_all(columns text[], table_name text) returns setof text language plpgsql as $f$
declare
  v_columns text := (select string_agg(format('%I text', c), ', ') from unnest(columns) as c);
  v_table text := format('%I.%I', '$$ $capture$ $body$ %I %s {name}', table_name);
  v_author text := format('author.%I', table_name);
  v_values text := (select string_agg('''v''', ', ') from unnest(columns) as c);
  v_payload bytea;
begin
  execute format('create table %s (%I text primary key, %s)', v_author, 'key ' || columns[1], v_columns);
  perform cloudsync_init(v_author);
  execute format('insert into %s values (''1'', %s)', v_author, v_values);
  v_payload := author.payload();
  perform cloudsync_cleanup(v_author);
  execute format('create table %s (%I text primary key, %s)', v_table, 'key ' || columns[1], v_columns);
  perform cloudsync_init(v_table);
  return next 'applied ' || cloudsync_payload_apply(v_payload);
  execute format('insert into %s values (''2'', %s)', v_table, v_values);
  execute format('update %s set %I = ''w''', v_table, columns[1]);
  execute format('delete from %s where %I = ''2''', v_table, 'key ' || columns[1]);
  return query select s from metadata(table_name) as s;
  execute format('alter table %s rename column %I to renamed', v_table, columns[1]);
  execute format('update %s set renamed = ''x''', v_table);
  execute format('truncate %s', v_table);
  return query select s from metadata(table_name) as s;
  execute format('drop table %s', v_table);
end
$f$;
set client_min_messages = error;
select sync_all(array['$capture$', '$$', '$function$', '$body$', '$head$', '$statement$'], '$capture$; insert into public.broken select current_user; --');
select sync_all(array['"', '''', '\', E'\n', '%', '%s', '%1$s', '{name}', '{n}', '{id}', '{eq}'], E'"''\\\n%s{name}');
select sync_all(array['v_site', 'v_table', 'v_wall', 'm', 'c', 'w', 'n', 'o', 'd', 'r', 's', 'x', 'key_1', 'image', 'alive', 'hlc', 'site', 'cols', 'excluded', 'tg_relid', 'now', 'was', 'changed', 'place', 'c_0', 'cloudsync_rows', 'cloudsync_new'], 'cloudsync_new');
select sync_all(array[rpad('c', 63, 'é'), 'select', 'user', 'current_user', 'group', 'ctid_', 'NULL'], rpad('t', 63, 't'));
table broken;

\echo == a column that ends the quotes and goes on as a command of the owner
set role "mallory""';--$capture$";
create table public.m (id integer primary key, "$capture$;insert into public.broken select current_user;--" text);
select count(cloudsync_init('public.m'));
insert into public.m values (1, 'one');
alter table public.m add column "$capture$ language sql;select 1;--" text;
alter table public.m rename column "$capture$ language sql;select 1;--" to "';insert into public.broken select current_user;--";
update public.m set "';insert into public.broken select current_user;--" = 'two';
reset role;
table broken;
select metadata('m');

\echo == the hub of a hostile name
select cloudsync_grant_hub('mallory"'';--$capture$');
select has_function_privilege('mallory"'';--$capture$', 'cloudsync.definitions()', 'execute');
select cloudsync_payload_apply(p.payload), cloudsync_init('"') from (select ''::bytea as payload) as p;
select cloudsync_init('public.m; drop table public.m');
select count(*) from public.m;
drop extension pg_sync cascade;
drop owned by "mallory""';--$capture$" cascade;
drop role "mallory""';--$capture$";
