#!/usr/bin/env bash
# Prints the major version of Postgres to build for: $PG_MAJOR, else the newest installed server, else what
# pg_config says, else what apt would install. Prints nothing where apt has no lists yet.
set -euo pipefail

if [[ -n "${PG_MAJOR:-}" ]]; then
    echo "$PG_MAJOR"
    exit
fi
installed=$(for server in /usr/lib/postgresql/*/bin/postgres; do
    [[ -x "$server" ]] && basename "$(dirname "$(dirname "$server")")"
done | sort -n | tail -1) || true
if [[ -z "$installed" ]] && command -v pg_config >/dev/null; then
    installed=$(pg_config --version | sed -E 's/^[^0-9]*([0-9]+).*/\1/') || true
fi
if [[ -z "$installed" ]] && command -v apt-cache >/dev/null; then
    installed=$(apt-cache show postgresql 2>/dev/null | sed -nE 's/^Version: ([0-9]+).*/\1/p' | sort -n | tail -1) || true
fi
echo "$installed"
