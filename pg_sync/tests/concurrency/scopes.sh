#!/bin/sh
# A scope that is set holds for every session at once, also for one that has captured the table before, and for a
# transaction that sees the database as it was before; it waits for transactions that write to the table.
# usage: scopes.sh <bindir> <connection without a database>
set -u

bindir=$1
connection=$2
database=pg_sync_scope_sessions
results=$(mktemp -d)

query() {
    "$bindir/psql" -X -q -v ON_ERROR_STOP=1 "$connection dbname=$1" -c "$2"
}

finish() {
    query postgres "drop database if exists $database" 2> /dev/null
    rm -rf "$results"
}
trap finish EXIT

query postgres "drop database if exists $database" 2> /dev/null
query postgres "create database $database template template0 encoding 'UTF8' locale 'C'" || exit 1
other="$bindir/psql -X -q -A -t -v VERBOSITY=terse '$connection dbname=$database'"
"$bindir/psql" -X -q -A -t -v VERBOSITY=terse "$connection dbname=$database" > "$results/found" 2>&1 << SQL
create extension pg_sync;
create table t (id integer primary key, owner text, reader text);
select cloudsync_init('t') is null;
insert into t select n, 'ann', 'bob' from generate_series(1, 8) as n;
prepare gone(integer) as delete from t where id = \$1;
execute gone(8);
begin;
update t set owner = 'ann' where id = 1;
\! $other -c "set lock_timeout = '200ms'" -c "select cloudsync_set_scope('t', 'owner')" 2>&1
commit;
\! $other -c "select cloudsync_set_scope('t', 'owner')"
execute gone(1);
delete from t where id = 2;
begin isolation level repeatable read;
select count(*) from t;
\! $other -c "select cloudsync_set_scope('t', 'reader')"
delete from t where id = 3;
update t set owner = 'x' where id = 4;
update t set reader = 'cy' where id = 4;
delete from t where id = 4;
select m.key_1, m.scopes from cloudsync.meta_1 as m where m.key_1 in (3, 4) order by 1;
rollback;
delete from t where id = 3;
\! $other -c "alter table t rename reader to who"
execute gone(4);
\! $other -c "select cloudsync_set_filter('t', 'id <> 5')"
execute gone(5);
execute gone(6);
\! $other -c "select cloudsync_set_scope('t', null)" -c "select cloudsync_clear_filter('t')"
execute gone(7);
select m.key_1, m.scopes from cloudsync.meta_1 as m where not m.alive order by 1;
SQL
cat > "$results/wanted" << 'WANTED'
f
ERROR:  canceling statement due to lock timeout

5

3|{bob}
4|{cy}
t

t
1|{ann}
2|{ann}
3|{bob}
4|{bob}
5|{}
6|{bob}
7|
8|
WANTED
diff -u "$results/wanted" "$results/found"
