#!/bin/sh
# Lays out what a Postgres server loads: <outdir>/lib/pg_sync.so and <outdir>/extension/*.
# usage: pg_sync/package.sh <outdir> <path of the built libpg_sync.so>
set -eu

outdir=$1
library=$2
here=$(cd "$(dirname "$0")" && pwd)
version=$(sed -n "s/^default_version = '\(.*\)'$/\1/p" "$here/pg_sync.control")

mkdir -p "$outdir/lib" "$outdir/extension"
# A running server may have the old file mapped: replace it, never write into it.
cp "$library" "$outdir/lib/pg_sync.so.new"
mv "$outdir/lib/pg_sync.so.new" "$outdir/lib/pg_sync.so"
cp "$here/pg_sync.control" "$outdir/extension/pg_sync.control"
cat "$here"/../sql/postgres/[0-9]*.sql > "$outdir/extension/pg_sync--$version.sql"
