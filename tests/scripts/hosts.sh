#!/usr/bin/env bash
# Brings the programs that tests/tests/hosts.rs loads the library into, below the target directory, once:
# apsw and better-sqlite3 from their registries, SQLite as old as we take it and older from crates that carry
# its source, and our own static library.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

apsw_version=3.54.1.0
better_sqlite3_version=11.10.0
hosts=$tools/hosts
mkdir -p "$hosts"

if [[ ! -e "$hosts/apsw-$apsw_version" ]]; then
    echo "installing apsw $apsw_version in a virtual environment"
    rm -rf "$hosts/apsw"
    /usr/bin/python3 -m venv "$hosts/apsw"
    "$hosts/apsw/bin/pip" install --quiet --disable-pip-version-check "apsw==$apsw_version"
    touch "$hosts/apsw-$apsw_version"
fi

if [[ ! -e "$hosts/better-sqlite3-$better_sqlite3_version" ]]; then
    echo "building better-sqlite3 $better_sqlite3_version"
    rm -rf "$hosts/node"
    mkdir "$hosts/node"
    echo '{ "private": true }' >"$hosts/node/package.json"
    # Built here against the headers of the system: its own way is to fetch a binary from elsewhere.
    npm_config_nodedir=/usr npm install --prefix "$hosts/node" --build-from-source \
        --no-audit --no-fund --loglevel=error "better-sqlite3@$better_sqlite3_version"
    touch "$hosts/better-sqlite3-$better_sqlite3_version"
fi

# sqlite VERSION CRATE_VERSION: compiles the SQLite that this libsqlite3-sys carries.
sqlite() {
    local dir=$hosts/sqlite-$1
    [[ ! -e "$dir/sqlite3.o" ]] || return 0
    echo "compiling SQLite $1"
    rm -rf "$dir"
    mkdir -p "$dir/fetch/src"
    touch "$dir/fetch/src/lib.rs"
    printf '[package]\nname = "fetch"\nversion = "0.0.0"\n[workspace]\n[dependencies]\nlibsqlite3-sys = "=%s"\n' \
        "$2" >"$dir/fetch/Cargo.toml"
    (cd "$dir/fetch" && cargo fetch --quiet)
    cp "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/libsqlite3-sys-"$2"/sqlite3/sqlite3.[ch] "$dir/"
    cc -O1 -w -DSQLITE_THREADSAFE=1 -c "$dir/sqlite3.c" -o "$dir/sqlite3.part"
    mv "$dir/sqlite3.part" "$dir/sqlite3.o"
}
sqlite 3.17.0 0.8.0
sqlite 3.33.0 0.20.1
sqlite 3.35.4 0.22.2

# The static library calls SQLite by its own names: a program links both. It is copied at once, because the
# tests of the crate build one that carries a SQLite under the same name.
cd "$root"
SQLITE3_NO_PKG_CONFIG=1 cargo rustc --quiet --package sqlite_sync --lib --crate-type staticlib
cp "$target/debug/libcloudsync.a" "$hosts/"
