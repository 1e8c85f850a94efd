#!/usr/bin/env bash
# Installs from npm the peers that `make bench-sqlite` measures beside our library, outside the repository.
# Says which of them it cannot get; the others are measured all the same.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

if ! command -v npm >/dev/null; then
    echo "no npm on this machine: peers are not measured"
    exit
fi
peers=$tools/peers
mkdir -p "$peers"
# Install scripts stay off: they would fetch binaries from elsewhere.
npm install --prefix "$peers" --ignore-scripts --no-audit --no-fund --loglevel=error \
    @sqliteai/sqlite-sync-linux-x86_64@1.1.4 @vlcn.io/crsqlite@0.16.3 >/dev/null ||
    echo "npm could not install the peers: those that are missing are not measured"
if [[ -z "$(find "$peers/node_modules/@vlcn.io" -name '*.so' 2>/dev/null)" ]]; then
    echo "cr-sqlite: its package @vlcn.io/crsqlite 0.16.3 carries no library: not measured"
fi
