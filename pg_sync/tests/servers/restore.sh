#!/usr/bin/env bash
# A synced database is dumped and restored, in each format of pg_dump: stamps, parked cells and settings are those of
# before, under the column ids that the restored tables have; the database is a site of its own, and capture goes on.
# usage: pg_sync/tests/servers/restore.sh <bindir> <connection>
set -euo pipefail

bindir=$1
connection=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"

query() {
    "$bindir/psql" -X -q -A -t -v ON_ERROR_STOP=1 "$connection dbname=$1 options='-c client_min_messages=error'" "${@:2}"
}

made() {
    query postgres -c "create database $1 template template0 encoding 'UTF8' locale 'C'"
}

# Metadata by names and sites, which last: of every table, every row with its stamps.
stamps() {
    query "$1" <<'SQL'
create function pg_temp.stamps() returns setof text language plpgsql as $$
declare
  t cloudsync.tables;
begin
  for t in select * from cloudsync.tables order by table_name loop
    return query execute format($q$
      select concat_ws(' | ', %1$L, to_jsonb(m) - array['alive', 'hlc', 'site', 'cols'], m.alive, m.hlc,
        (select encode(d.site, 'hex') from cloudsync.site_dictionary as d where d.ordinal = m.site),
        (select string_agg(concat_ws(' ', c.name, m.cols[2 * c.column_id - 1], encode(d.site, 'hex')), ', ' order by c.name)
         from cloudsync.columns as c
         left join cloudsync.site_dictionary as d on d.ordinal = m.cols[2 * c.column_id]
         where c.table_id = %2$s and m.cols[2 * c.column_id - 1] is not null))
      from cloudsync.meta_%2$s as m order by 1$q$, t.table_name, t.table_id);
  end loop;
end
$$;
select pg_temp.stamps();
SQL
}

# Ids are attribute numbers again.
unmatched() {
    query "$1" -c "
      select count(*) from cloudsync.columns as c join cloudsync.tables as t using (table_id)
      where not exists (select from pg_attribute as a where a.attrelid = t.relation and a.attnum = c.column_id and a.attname = c.name)"
}

same() { # same WHAT FOUND WANTED
    if [[ "$2" != "$3" ]]; then
        printf '%s: found\n%s\nwanted\n%s\n' "$1" "$2" "$3"
        exit 1
    fi
}

made sync_dumped
query sync_dumped > /dev/null <<'SQL'
create extension pg_sync;
create role sync_dump_owner;
create schema "App" authorization sync_dump_owner;
grant usage on schema "App" to cloudsync_owner;
create type "App".colour as enum ('red', 'blue');
create table "App"."My todo" (gone text, "Id" integer, part text, a text, lost integer, b "App".colour, c integer,
  primary key (part, "Id"));
alter table "App"."My todo" owner to sync_dump_owner, enable row level security, drop column gone;
set role sync_dump_owner;
select cloudsync_init('"App"."My todo"');
reset role;
insert into "App"."My todo" values (1, 'x', 'one', 1, 'red', 1), (2, 'x', 'two', 2, 'blue', 2), (3, 'x', 'three', 3, 'red', 3);
alter table "App"."My todo" drop column lost;
alter table "App"."My todo" add column d text default 'd';
insert into cloudsync.site_dictionary values (nextval('cloudsync.site_ordinal'), decode(repeat('ab', 16), 'hex'));
update "App"."My todo" set b = 'red', d = 'e' where "Id" = 2;
update cloudsync.meta_1 set cols = cloudsync.stamped(cols, array[6::smallint], 99, 2) where key_2 = 2;
delete from "App"."My todo" where "Id" = 3;
create table plain (id bigint generated always as identity primary key, v text);
insert into plain (v) values ('before init');
select cloudsync_init('plain');
insert into plain (v) values ('after');
-- Columns have other numbers in a restored table; the scope knows them by their names.
create table scoped (gone text, id integer primary key, lost text, who text, kept boolean default false, n integer);
alter table scoped drop column gone;
select cloudsync_init('scoped'), cloudsync_set_scope('scoped', 'who'), cloudsync_set_filter('scoped', 'not kept');
insert into scoped (id, who) values (1, 'ann'), (2, 'bob'), (3, 'cy');
delete from scoped where id = 3;
alter table scoped drop column lost;
create function my_scopes(claims jsonb) returns setof text language sql as $$ select 'mine' $$;
select cloudsync_set('scopes_function', 'my_scopes');
create table keyless (id integer primary key, v text);
select cloudsync_init('keyless');
alter table keyless drop constraint keyless_pkey;
SQL
# A parallel restore fills tables in any order.
same "foreign keys" "$(query sync_dumped -c "select count(*) from pg_constraint where contype = 'f' and connamespace = 'cloudsync'::regnamespace")" 0
before=$(stamps sync_dumped)
site=$(query sync_dumped -c "select cloudsync_siteid()")
incarnations=$(query sync_dumped -c "select string_agg(incarnation::text, ' ' order by table_id) from cloudsync.tables")
schema=$("$bindir/pg_dump" --schema-only -d "$connection dbname=sync_dumped")

"$bindir/pg_dump" -f "$work/plain" -d "$connection dbname=sync_dumped"
"$bindir/pg_dump" -Fc -f "$work/custom" -d "$connection dbname=sync_dumped"
"$bindir/pg_dump" -Fd -f "$work/directory" -d "$connection dbname=sync_dumped"
made sync_plain
query sync_plain -f "$work/plain" > /dev/null
made sync_custom
"$bindir/pg_restore" --exit-on-error -d "$connection dbname=sync_custom" "$work/custom"
made sync_parallel
"$bindir/pg_restore" --exit-on-error -j 4 -d "$connection dbname=sync_parallel" "$work/directory"

for copy in sync_plain sync_custom sync_parallel; do
    same "$copy: schema" "$("$bindir/pg_dump" --schema-only -d "$connection dbname=$copy" | sed '/^.\(un\)\?restrict/d')" "$(sed '/^.\(un\)\?restrict/d' <<< "$schema")"
    if [[ $copy != sync_plain ]]; then
        # A write comes first: one that is captured under the ids that the columns have here, or one whose capture
        # function was written for those of the source and that makes the row anew.
        mode=origin
        first='t|f|t|t'
        if [[ $copy == sync_parallel ]]; then
            mode=replica
            first='t|t|f|f'
        fi
        query "$copy" -c "set session_replication_role = $mode" -c "update \"App\".\"My todo\" set c = 7 where \"Id\" = 1"
        same "$copy: the first write" "$(query "$copy" -c "
            select m.alive, m.site = s.ordinal, coalesce(m.cols[2 * c.column_id - 1] > m.hlc, false),
              coalesce(m.cols[2 * c.column_id] = s.ordinal, false)
            from cloudsync.meta_1 as m, cloudsync.columns as c, cloudsync.self as s
            where c.table_id = 1 and c.name = 'c' and m.key_2 = 1")" "$first"
        same "$copy: others" "$(stamps "$copy" | grep -v '"key_2": 1}')" "$(grep -v '"key_2": 1}' <<< "$before")"
    else
        query "$copy" -c "select cloudsync_siteid()" > /dev/null
        same "$copy: stamps" "$(stamps "$copy")" "$before"
    fi
    same "$copy: scopes" "$(query "$copy" <<'SQL'
update scoped set kept = true where id = 1;
update scoped set who = 'dan' where id = 2;
delete from scoped;
select string_agg(concat_ws(' ', m.key_1, m.scopes), ', ' order by m.key_1), cloudsync.scopes_of('{}')
from cloudsync.meta_3 as m where not m.alive;
SQL
)" "1 {}, 2 {dan}, 3 {cy}|{mine}"
    same "$copy: ids" "$(unmatched "$copy")" 0
    [[ "$(query "$copy" -c "select cloudsync_siteid()")" != "$site" ]] || { echo "$copy has the site id of its source"; exit 1; }
    same "$copy: incarnations" "$(query "$copy" -c "
        select count(*) from cloudsync.tables where incarnation::text = any (string_to_array('$incarnations', ' '))")" 0
    query "$copy" <<'SQL'
update "App"."My todo" set d = 'f' where "Id" = 2;
insert into "App"."My todo" values (9, 'x', 'nine', 'red', 9, 'd');
alter table "App"."My todo" rename column c to cc;
update "App"."My todo" set cc = 10 where "Id" = 9;
insert into plain (v) values ('later');
alter table keyless add primary key (id);
insert into keyless values (1, 'captured');
SQL
    overrides=2
    [[ $copy == sync_custom ]] && overrides=3
    same "$copy: capture" "$(query "$copy" -c "
        select (select count(*) from cloudsync.meta_1 where alive), (select count(*) from cloudsync.meta_2 where alive),
          (select count(*) from cloudsync.meta_4 where alive),
          (select count(*) from cloudsync.meta_1 as m, cloudsync.columns as c
           where c.table_id = 1 and c.name in ('d', 'cc') and m.cols[2 * c.column_id] = (select ordinal from cloudsync.self))")" \
        "3|2|1|$overrides"
done
