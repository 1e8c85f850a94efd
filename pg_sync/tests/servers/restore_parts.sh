#!/usr/bin/env bash
# A synced database is restored in other ways than whole: without owners, without rights, its rows into a schema that is
# there already, and on another server. Writes never fail, what belonged to cloudsync_owner does again, and parked cells
# are found under the ids that their columns have there.
# usage: pg_sync/tests/servers/restore_parts.sh [<directory with the dumps> elsewhere] <bindir> <connection>
set -euo pipefail

if [[ ${2:-} == elsewhere ]]; then
    # Called by itself, with another server.
    dumps=$1
    shift 2
fi
bindir=$1
connection=$2
here=$(cd "$(dirname "$0")" && pwd)

query() {
    "$bindir/psql" -X -q -A -t -v ON_ERROR_STOP=1 "$connection dbname=$1 options='-c client_min_messages=error'" "${@:2}"
}

made() {
    query postgres -c "create database $1 template template0 encoding 'UTF8' locale 'C'"
}

same() { # same WHAT FOUND WANTED
    if [[ "$2" != "$3" ]]; then
        printf '%s: found\n%s\nwanted\n%s\n' "$1" "$2" "$3"
        exit 1
    fi
}

# Writes in each way of capture, and an older creation for which cells are parked.
used() {
    query "$1" > /dev/null <<'SQL'
update t set a = 'changed' where id = 1;
begin;
insert into t (id, a) values (9, 'new');
update t set a = 'newer' where id = 9;
delete from t where id = 2;
commit;
insert into app.w values (7, 'later');
select cloudsync_payload_apply(payload) from payloads where name = 'created';
SQL
}

# What metadata says of the rows that were written there, whoever wrote before.
state() {
    query "$1" -c "
        select string_agg(concat_ws(' ', m.key_1, case when m.alive then 'alive' else 'dead' end, case when m.site = s.ordinal then 'here' end,
            case when m.cols[2 * c.column_id] = s.ordinal then 'changed here' end), ', ' order by m.key_1)
        from cloudsync.meta_2 as m, cloudsync.columns as c, cloudsync.self as s where c.table_id = 2 and c.name = 'a'" \
        -c "select id, x from t where id = 5"
}

owners() {
    query "$1" -c "
        select count(*) from pg_class where relname ~ '^meta_[0-9]+\$' and relowner = 'cloudsync_owner'::regrole
        union all
        select count(*) from pg_proc where proname ~ '^capture_.*_[0-9]+\$' and proowner = 'cloudsync_owner'::regrole"
}

# restore DATABASE DUMP OPTION ...
restore() {
    "$bindir/pg_restore" "${@:3}" --exit-on-error -d "$connection dbname=$1" "$2"
}

if [[ -n ${dumps:-} ]]; then
    # Another server, on which nobody is known by name.
    made sync_elsewhere
    restore sync_elsewhere "$dumps/whole" --no-owner --no-privileges
    same "another server: owners" "$(owners sync_elsewhere)" $'2\n10'
    query sync_elsewhere -c "grant select on t, app.w to cloudsync_owner; grant usage on schema app to cloudsync_owner"
    used sync_elsewhere
    same "another server" "$(state sync_elsewhere)" $'1 alive changed here, 2 dead here, 3 dead, 5 alive, 9 alive here changed here\n5|parked'
    exit 0
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
made sync_parts
query sync_parts > /dev/null <<SQL
\i $here/../include/metadata.psql
\i $here/../include/author.psql
create table payloads (name text, payload bytea);
create table author.t (id integer primary key, a text, x text);
select cloudsync_init('author.t');
insert into author.t values (5, 'created', 'parked');
select author.stamp(5, 1000, 'aa', '{"x": 3000}');
insert into payloads select 'updated', author.payload();
update author.t set x = 'old';
select author.stamp(5, 2700, 'cc');
insert into payloads select 'created', author.payload();
delete from author.t;
select author.stamp(5, 2500, 'bb');
insert into payloads select 'deleted', author.payload(true);
select cloudsync_cleanup('author.t');
create role sync_part_owner;
create schema app authorization sync_part_owner;
create table t (gone text, id integer primary key, lost text, a text, x text);
alter table t drop column gone;
alter table t owner to sync_part_owner;
create table app.w (id integer primary key, a text);
alter table app.w owner to sync_part_owner;
select cloudsync_init('t'), cloudsync_init('app.w');
select cloudsync_payload_apply(payload) from payloads where name = 'deleted';
select cloudsync_payload_apply(payload) from payloads where name = 'updated';
insert into t (id, a) values (1, 'x'), (2, 'y'), (3, 'z');
delete from t where id = 3;
insert into app.w values (1, 'w');
alter table t drop column lost;
SQL
same "parked" "$(query sync_parts -c "select count(*) from cloudsync.parked")" 1
"$bindir/pg_dump" -Fc -f "$work/whole" -d "$connection dbname=sync_parts"
"$bindir/pg_dump" -Fc --schema-only -f "$work/schema" -d "$connection dbname=sync_parts"
"$bindir/pg_dump" -Fc --data-only -f "$work/rows" -d "$connection dbname=sync_parts"
chmod 644 "$work"/*

written='1 alive changed here, 2 dead here, 3 dead, 5 alive, 9 alive here changed here
5|parked'
made sync_ownerless
restore sync_ownerless "$work/whole" --no-owner
same "without owners: owners" "$(owners sync_ownerless)" $'2\n10'
used sync_ownerless
same "without owners" "$(state sync_ownerless)" "$written"

made sync_rightless
restore sync_rightless "$work/whole" --no-owner --no-privileges
query sync_rightless -c "begin" -c "insert into t (id, a) values (11, 'new')" -c "update t set a = 'newer' where id = 11" -c "commit"
same "without rights: noted" "$(query sync_rightless -c "select count(*) > 0 from cloudsync.uncaptured")" t
query sync_rightless -c "alter table t add column later text" -c "update t set later = 'x' where id = 11"
query sync_rightless -c "select cloudsync_init('t')" > /dev/null
same "without rights: made up for" "$(query sync_rightless -c "select count(*) from cloudsync.uncaptured")" 0

# Rows come by COPY, which is captured: they are writes of the restored database. The registry comes between them.
made sync_rows
restore sync_rows "$work/schema"
restore sync_rows "$work/rows"
used sync_rows
same "rows alone" "$(state sync_rows | sed 's/1 alive here/1 alive/')" "$written"

"$here/../with_server.sh" "$here/restore_parts.sh" "$work" elsewhere
