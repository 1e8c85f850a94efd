# Sourced by the other scripts: where things are, and what the builds need to know.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
tools=$target/tools
PG_MAJOR=${PG_MAJOR:-$("$root/tests/scripts/postgres_major.sh")}
pg_config=/usr/lib/postgresql/$PG_MAJOR/bin/pg_config
if [[ ! -x "$pg_config" ]]; then
    pg_config=$(command -v pg_config || echo pg_config)
fi
export CARGO_TARGET_DIR=$target PG_MAJOR
export PGRX_PG_CONFIG_PATH=$pg_config
