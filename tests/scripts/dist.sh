#!/usr/bin/env bash
# Builds the artefacts and lays them out in dist/. With DESTDIR it also installs them at their places in the
# system below that root.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
cd "$root"

cargo build --release --package hub
cargo build --release --package pg_sync --no-default-features --features "pg$PG_MAJOR"
"$root/tests/scripts/dist_sqlite.sh"

# `install` puts a new file in place, so that a process which has the old one mapped is not disturbed.
install -D -m 755 "$target/release/hub" dist/bin/hub
postgres=dist/postgres/$PG_MAJOR
rm -rf "$postgres/extension"
pg_sync/package.sh "$postgres" "$target/release/libpg_sync.so"

if [[ -n "${DESTDIR:-}" ]]; then
    install -D -m 755 dist/bin/hub "$DESTDIR/usr/local/bin/hub"
    install -D -m 755 dist/sqlite/cloudsync.so "$DESTDIR/usr/local/lib/cloudsync.so"
    library_dir=$DESTDIR$("$pg_config" --pkglibdir)
    extension_dir=$DESTDIR$("$pg_config" --sharedir)/extension
    install -D -m 755 "$postgres/lib/pg_sync.so" "$library_dir/pg_sync.so"
    install -d "$extension_dir"
    install -m 644 "$postgres"/extension/* "$extension_dir/"
    echo "installed below $DESTDIR"
fi
