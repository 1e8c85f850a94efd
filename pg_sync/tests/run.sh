#!/bin/sh
# Runs the SQL tests: each file in a database of its own; its output must be as expected. Without arguments on a
# private server; else on a running one with the extension installed, wal_level = logical and pg_sync among its
# output_plugin_libraries. The id that cloudsync_init returns is another one each time, so it is taken out.
# Tests that stop servers or change their settings stand in servers/: each is a program that with_server.sh runs
# with a server of its own, and they are left out on a running server.
# usage: pg_sync/tests/run.sh [<bindir> <connection without a database, e.g. "host=/tmp port=5432 user=postgres">]
set -u

here=$(cd "$(dirname "$0")" && pwd)
if [ $# -eq 0 ]; then
    exec "$here/with_server.sh" "$here/run.sh"
fi
bindir=$1
connection=$2
results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT
passed=0
failed=0

query() {
    "$bindir/psql" -X -q -v ON_ERROR_STOP=1 "$connection dbname=$1" -c "$2"
}

outcome() {
    if [ "$2" -eq 0 ]; then
        passed=$((passed + 1))
        echo "ok      $1"
    else
        failed=$((failed + 1))
        echo "FAILED  $1"
    fi
}

for test in "$here"/*.sql; do
    name=$(basename "$test" .sql)
    database="pg_sync_$name"
    query postgres "drop database if exists $database" 2> /dev/null
    query postgres "create database $database template template0 encoding 'UTF8' locale 'C'" || exit 1
    "$bindir/psql" -X -q -A -t -v VERBOSITY=terse -v database="$database" \
        "$connection dbname=$database options='-c client_min_messages=warning -c timezone=UTC'" \
        -f "$test" 2>&1 | sed -e 's/^psql:[^ ]*: //' -e 's,at [0-9A-F]*/[0-9A-F]*:,at LSN:,' \
        -e '/^[0-9a-f|]*$/s/[0-9a-f]\{32\}//g' > "$results/$name.out"
    diff -u "$here/$name.out" "$results/$name.out"
    outcome "$name" $?
    query postgres "drop database $database" 2> /dev/null
done

for test in "$here"/concurrency/*.sh; do
    sh "$test" "$bindir" "$connection"
    outcome "concurrency/$(basename "$test" .sh)" $?
done

sh "$here/reference.sh" "$bindir" "$connection"
outcome reference $?

if [ -n "${PG_SYNC_SERVER:-}" ]; then
    for test in "$here"/servers/*.sh; do
        "$here/with_server.sh" "$test"
        outcome "servers/$(basename "$test" .sh)" $?
    done
fi

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
