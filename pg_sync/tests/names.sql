-- Names that are long, quoted, or those which our own statements use.
\ir include/metadata.psql
\ir include/messages.psql
\ir include/author.psql
\echo == names of 63 bytes, quoted, and keys of several types
create schema "Sch""ema é";
select rpad('T" é', 62, 'x') as long_table, rpad('c'' é', 62, 'y') as long_column, rpad('k; é', 62, 'z') as long_key \gset
create table "Sch""ema é".:"long_table" (:"long_key" text, "select" uuid, "Key" timestamptz, small smallint,
  :"long_column" text, primary key ("Key", :"long_key", "select", small));
select octet_length(:'long_table'), octet_length(:'long_column'), octet_length(:'long_key');
select cloudsync_init(format('%I.%I', 'Sch"ema é', :'long_table'));
insert into "Sch""ema é".:"long_table" values ('a''b', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a01', '2024-01-01Z', 1, 'one');
update "Sch""ema é".:"long_table" set :"long_column" = 'two';
begin;
update "Sch""ema é".:"long_table" set :"long_column" = 'three';
update "Sch""ema é".:"long_table" set :"long_column" = 'four';
commit;
update "Sch""ema é".:"long_table" set "Key" = 'infinity';
set session_replication_role = replica;
update "Sch""ema é".:"long_table" set :"long_column" = 'five';
reset session_replication_role;
select messages();
select key_1, key_2, key_3, key_4, alive from cloudsync.meta_1 order by 1;
truncate "Sch""ema é".:"long_table";
select messages();
select cloudsync_cleanup(format('%I.%I', 'Sch"ema é', :'long_table'));
\echo == columns named as in the statements of capture
create function make_odd(schema text, tail text default '') returns void language plpgsql as $$
declare
  v_names text[] := array['cloudsync_new', 'cloudsync_old', 'cloudsync_rows', 'm', 'c', 'w', 'k', 'n', 'o', 'd', 'r', 'x', 't', 's', 'u', 'key_1', 'key_2',
    'v_wall', 'v_site', 'v_table', 'v_start', 'v_left', 'v_emitted', 'image', 'was', 'now', 'changed', 'changed_1', 'present', 'updated', 'kept',
    'stamp', 'excluded', 'alive', 'hlc', 'site', 'cols', 'new', 'old', 'tg_op', 'tg_relid', 'tg_name', 'written', 'left', 'kind', 'carried', 'registers',
    'place', 'c_0', 'operation', 'table_id', 'found', 'row', 'sqlstate', 'pg_catalog', 'cloudsync', 'record_image_ne'];
begin
  execute format('create table %I.odd (%s, primary key (m, key_1, cloudsync_new)) %s', schema,
    (select string_agg(format('%I %s', name, case when name in ('m', 'key_1', 'cloudsync_new') then 'integer' else 'text' end), ', ' order by place)
     from unnest(v_names) with ordinality as u (name, place)), tail);
end
$$;
select make_odd('author');
select cloudsync_init('author.odd');
insert into author.odd (m, key_1, cloudsync_new, v_wall, image) values (7, 7, 7, 'sent', 'sent');
select author.payload() as payload \gset
select cloudsync_cleanup('author.odd');
select messages() is not null;
select make_odd('public');
select cloudsync_init('odd');
insert into odd (m, key_1, cloudsync_new, v_wall) values (1, 1, 1, 'a'), (2, 1, 1, 'b');
update odd set now = 'changed', excluded = 'changed', n = 'changed', "new" = 'changed', d = 'changed', u = 'changed';
begin;
update odd set x = 'slow', r = 'slow' where m = 1;
update odd set x = 'slower', "old" = 'slow' where m = 1;
commit;
update odd set key_1 = 3 where m = 2;
set session_replication_role = replica;
update odd set tg_op = 'row', image = 'row' where m = 1;
delete from odd where m = 2;
reset session_replication_role;
select regexp_replace(messages(), '=null(, [a-z_0-9]+=null)+', '=nulls', 'g');
select cloudsync_payload_apply(:'payload');
select regexp_replace(messages(), '=null(, [a-z_0-9]+=null)+', '=nulls', 'g');
select m, v_wall, image from odd order by m;
select row_count from cloudsync.snapshot_part((select max(table_id) from cloudsync.tables), false, null, 10);
truncate odd;
select messages();
select cloudsync_cleanup('odd');
drop table odd;
select make_odd('public', 'partition by range (m)');
create table odd_1 partition of odd for values from (0) to (10);
select cloudsync_init('odd');
insert into odd_1 (m, key_1, cloudsync_new, v_wall) values (1, 1, 1, 'a');
update odd set now = 'changed', tg_relid = 'changed';
select regexp_replace(messages(), '=null(, [a-z_0-9]+=null)+', '=nulls', 'g');
\echo == temporary types and functions in the place of those of the system
create table shadow (id integer primary key, a text, n numeric, b boolean);
select cloudsync_init('shadow');
create type pg_temp.integer as enum ('forged');
create domain pg_temp.bigint as text check (value = 'forged');
create domain pg_temp.smallint as text check (value = 'forged');
create domain pg_temp.boolean as text check (value = 'forged');
create domain pg_temp.text as pg_catalog.text check (value = 'forged');
create function pg_temp.row(integer) returns text language sql as 'select 1::text';
create function pg_temp.greatest(bigint, bigint) returns bigint language sql as 'select 1::bigint';
create temp table pg_class (oid oid);
set search_path = pg_temp, public;
insert into shadow values (1, 'a', 1.0, true);
update shadow set n = 1.00, a = 'b';
set session_replication_role = replica;
update shadow set a = 'c';
reset session_replication_role;
alter table shadow add column later text;
update shadow set later = 'x';
truncate shadow;
reset search_path;
discard temp;
select messages();
select metadata('shadow');
select pg_drop_replication_slot(:'slot');
