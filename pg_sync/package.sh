#!/bin/sh
# Lays out what a Postgres server loads: <outdir>/lib/pg_sync.so and <outdir>/extension/*, with a script that upgrades
# from each released version. sql/postgres/released/ has the frozen scripts that installed them.
# usage: pg_sync/package.sh <outdir> <path of the built libpg_sync.so>
set -eu

outdir=$1
library=$2
here=$(cd "$(dirname "$0")" && pwd)
sql=$here/../sql/postgres
version=$(sed -n "s/^default_version = '\(.*\)'$/\1/p" "$here/pg_sync.control")

# Statements that make something, as statements that leave or replace what is there. Rows, types and the role are
# left alone: what an upgrade has to do about those, and about tables that changed, stands in sql/postgres/upgrades/.
replayed() {
    sed -e '/^insert into/,/;$/d' -e '/^create type/,/;$/d' \
        -e 's/^create table /create table if not exists /' \
        -e 's/^create sequence /create sequence if not exists /' \
        -e 's/^create \(function\|aggregate\|view\|trigger\) /create or replace \1 /' \
        -e 's/^create event trigger \([a-z_]*\) /drop event trigger if exists \1;\n&/' \
        "$sql"/0[2-9]*.sql
}

mkdir -p "$outdir/lib" "$outdir/extension"
# A running server may have the old file mapped: replace it, never write into it.
cp "$library" "$outdir/lib/pg_sync.so.new"
mv "$outdir/lib/pg_sync.so.new" "$outdir/lib/pg_sync.so"
cp "$here/pg_sync.control" "$outdir/extension/pg_sync.control"
cat "$sql"/[0-9]*.sql > "$outdir/extension/pg_sync--$version.sql"
steps=
for released in $(ls "$sql/released" | sed 's/\.sql$//' | sort -rV); do
    # What changed since an older release is what changed since it, then since the next, up to now.
    steps="$sql/upgrades/$released.sql $steps"
    cp "$sql/released/$released.sql" "$outdir/extension/pg_sync--$released.sql"
    # shellcheck disable=SC2086 # A list of files.
    { cat $steps "$sql/upgrades/first.sql"; replayed; cat "$sql/upgrades/last.sql"; } > "$outdir/extension/pg_sync--$released--$version.sql"
done
