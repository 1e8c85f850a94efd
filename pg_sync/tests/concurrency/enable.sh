#!/bin/sh
# Enabling and disabling wait for transactions that write to the table: what such a transaction wrote under the capture
# functions of before would be told to nobody.
# usage: enable.sh <bindir> <connection without a database>
set -u

bindir=$1
connection=$2
database=pg_sync_enable
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
"$bindir/psql" -X -q -A -t -v VERBOSITY=terse "$connection dbname=$database" > "$results/found" 2>&1 << SQL
create extension pg_sync;
create table t (id integer primary key);
select cloudsync_init('t') is null;
begin;
insert into t values (1);
\! "$bindir/psql" -X -q -v VERBOSITY=terse "$connection dbname=$database" -c "set lock_timeout = '200ms'" -c "select cloudsync_disable('t')" 2>&1
commit;
select cloudsync_disable('t');
begin;
insert into t values (2);
\! "$bindir/psql" -X -q -v VERBOSITY=terse "$connection dbname=$database" -c "set lock_timeout = '200ms'" -c "select cloudsync_enable('t')" 2>&1
commit;
select cloudsync_enable('t'), cloudsync_is_enabled('t');
SQL
cat > "$results/wanted" << 'WANTED'
f
ERROR:  canceling statement due to lock timeout

ERROR:  canceling statement due to lock timeout
|t
WANTED
diff -u "$results/wanted" "$results/found"
