#!/usr/bin/env bash
# Runs a command against a private server that has the extension of dist/, and stops the server again. The
# command gets two arguments more: the server's bindir and a connection string. Nothing of the system changes:
# the server runs from a tree of its own, in which its files stand at their usual places.
# PG_SYNC_DIST names another directory of artefacts, as package.sh lays them out.
# The command finds in PG_SYNC_DATA the server's data directory, and in PG_SYNC_SERVER a program that stops and
# starts it: pg_ctl, which knows the server and waits (`"$PG_SYNC_SERVER" stop -m immediate`).
# usage: pg_sync/tests/with_server.sh <command> [argument ...]
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
source "$root/tests/scripts/environment.sh"
dist=${PG_SYNC_DIST:-$root/dist/postgres/$PG_MAJOR}
bindir=$("$pg_config" --bindir)
pkglibdir=$("$pg_config" --pkglibdir)
sharedir=$("$pg_config" --sharedir)

work=$(mktemp -d)
tree=$work/tree
as_owner=()
if ((EUID == 0)); then
    # Postgres refuses to run as root.
    as_owner=(setpriv --reuid=postgres --regid=postgres --init-groups)
fi

stop() {
    if [[ -e "$work/data/postmaster.pid" ]]; then
        "$PG_SYNC_SERVER" stop -m immediate || true
    fi
    rm -rf "$work"
}
trap stop EXIT

link_all() { # link_all DIRECTORY: every entry that is not there yet
    local entry
    mkdir -p "$tree$1"
    for entry in "$1"/*; do
        [[ -e "$tree$1/${entry##*/}" ]] || ln -s "$entry" "$tree$1/${entry##*/}"
    done
}

mkdir -p "$tree$bindir" "$tree$pkglibdir" "$tree$sharedir/extension" "$work/socket"
cp "$dist/lib/pg_sync.so" "$tree$pkglibdir/"
cp "$dist"/extension/* "$tree$sharedir/extension/"
cp "$bindir"/* "$tree$bindir/"
link_all "$pkglibdir"
if [[ -d "${bindir%/bin}/lib" ]]; then
    # A server from another package looks there for libraries that it brings along.
    link_all "${bindir%/bin}/lib"
fi
link_all "$sharedir/extension"
link_all "$sharedir"
chmod -R a+rX "$work"
mkdir "$work/data"
if ((EUID == 0)); then
    chown postgres: "$work/data" "$work/socket"
fi

"${as_owner[@]}" "$tree$bindir/initdb" -D "$work/data" -U postgres -A trust -E UTF8 --no-locale --no-sync >"$work/initdb.log" ||
    { cat "$work/initdb.log"; exit 1; }
cat >>"$work/data/postgresql.conf" <<SETTINGS
listen_addresses = ''
unix_socket_directories = '$work/socket'
wal_level = logical
max_prepared_transactions = 10
fsync = off
max_prepared_transactions = 10
SETTINGS
cat >"$work/server" <<CONTROL
#!/bin/sh
exec ${as_owner[*]} env -u RUST_BACKTRACE "$tree$bindir/pg_ctl" -D "$work/data" -l "$work/socket/log" -w "\$@" >/dev/null
CONTROL
chmod +x "$work/server"
export PG_SYNC_SERVER=$work/server PG_SYNC_DATA=$work/data
start() {
    "$PG_SYNC_SERVER" "$1" || { cat "$work/socket/log"; exit 1; }
}
start start
connection="host=$work/socket port=5432 user=postgres"
known=$("$tree$bindir/psql" -X -A -t "$connection dbname=postgres" \
    -c "select count(*) from pg_settings where name = 'output_plugin_libraries'")
if [[ "$known" == 1 ]]; then
    echo "output_plugin_libraries = 'pgoutput, test_decoding, pg_sync'" >>"$work/data/postgresql.conf"
    start restart
fi

"$@" "$tree$bindir" "$connection"
