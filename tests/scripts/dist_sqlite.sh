#!/usr/bin/env bash
# Builds the SQLite library and lays it out in dist/.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
cd "$root"

# Without the variable, the library would be linked against the SQLite of this machine.
SQLITE3_NO_PKG_CONFIG=1 cargo build --profile loadable --package sqlite_sync \
    --no-default-features --features loadable,http

# `install` puts a new file in place, so that a process which has the old one mapped is not disturbed.
install -D -m 755 "$target/loadable/libcloudsync.so" dist/sqlite/cloudsync.so
