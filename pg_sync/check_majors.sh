#!/bin/sh
# Type-checks the library against every Postgres major that it supports, without their headers.
# usage: pg_sync/check_majors.sh [target directory] [major ...]
set -eu

here=$(cd "$(dirname "$0")" && pwd)
target=${1:-$here/../target/majors}
[ $# -gt 0 ] && shift
[ $# -gt 0 ] || set -- 14 15 16 17 18

for major in "$@"; do
    echo "Postgres $major"
    "$here/with_shipped_bindings.sh" "$target" "$major" check
done
