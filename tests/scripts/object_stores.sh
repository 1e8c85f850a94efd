#!/usr/bin/env bash
# Brings the two S3 servers that the tests start: moto for the semantics of the API, s3s-fs for signatures.
# Both go below the target directory, once.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

moto_version=5.2.5
s3s_version=0.14.1

if [[ ! -e "$tools/moto-$moto_version" ]]; then
    echo "installing moto $moto_version in a virtual environment"
    rm -rf "$tools/moto"
    /usr/bin/python3 -m venv "$tools/moto"
    "$tools/moto/bin/pip" install --quiet "moto[server,s3]==$moto_version"
    touch "$tools/moto-$moto_version"
fi
if [[ ! -e "$tools/s3s-fs-$s3s_version" ]]; then
    echo "building s3s-fs $s3s_version"
    cargo install --quiet --locked --root "$tools" --version "$s3s_version" --features binary s3s-fs
    touch "$tools/s3s-fs-$s3s_version"
fi
