#!/usr/bin/env bash
# Installs by apt what the build and the tests need and this machine lacks. Says what it installs; does
# nothing on a machine that has everything.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

as_root=()
if ((EUID != 0)); then
    as_root=(sudo)
fi
lists_are_fresh=
update_lists() {
    if [[ -z "$lists_are_fresh" ]]; then
        echo "updating the lists of apt"
        "${as_root[@]}" apt-get update -qq
        lists_are_fresh=yes
    fi
}

wanted=()
need() { # need PACKAGE TEST...: the package is wanted when the test fails
    local package=$1
    shift
    "$@" >/dev/null 2>&1 || wanted+=("$package")
}
has_libclang() {
    compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' || compgen -G '/usr/lib/*/libclang*.so*'
}
has_server_headers() {
    [[ -e "$("$pg_config" --includedir-server)/postgres.h" ]]
}
has_faketime() {
    compgen -G '/usr/lib/*/faketime/libfaketime.so.1'
}
has_venv() {
    /usr/bin/python3 -c 'import ensurepip, venv'
}

if ! command -v cargo >/dev/null; then
    echo "cargo is missing: install Rust with rustup (https://rustup.rs), then run make again" >&2
    exit 1
fi
for component in fmt clippy; do
    command -v "cargo-$component" >/dev/null || rustup component add "${component/fmt/rustfmt}"
done

if [[ -z "$PG_MAJOR" ]]; then
    # Only the lists tell which Postgres this system brings.
    update_lists
    source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
fi

need build-essential command -v cc
need make command -v make
need git command -v git
need clang command -v clang
need libclang-dev has_libclang
need postgresql-"$PG_MAJOR" test -x /usr/lib/postgresql/"$PG_MAJOR"/bin/postgres -o -x "$("$pg_config" --bindir 2>/dev/null)/postgres"
need postgresql-server-dev-"$PG_MAJOR" has_server_headers
need sqlite3 command -v sqlite3
need prometheus command -v prometheus
need openssl command -v openssl
need python3 test -x /usr/bin/python3
need python3-venv has_venv
need nodejs command -v node
need npm command -v npm
need libnode-dev test -e /usr/include/node/node.h
need curl command -v curl
need cmake command -v cmake
need util-linux command -v setpriv
need libfaketime has_faketime

if ((${#wanted[@]} == 0)); then
    exit
fi
if ! command -v apt-get >/dev/null; then
    echo "missing, and there is no apt-get to install it: ${wanted[*]}" >&2
    exit 1
fi
echo "installing by apt: ${wanted[*]}"
update_lists
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${wanted[@]}"
