#!/usr/bin/env bash
# Brings schemathesis, which tries the hub's requests from their OpenAPI document, below the target directory, once.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

version=4.32.5

if [[ ! -e "$tools/schemathesis-$version" ]]; then
    echo "installing schemathesis $version in a virtual environment"
    rm -rf "$tools/schemathesis"
    /usr/bin/python3 -m venv "$tools/schemathesis"
    "$tools/schemathesis/bin/pip" install --quiet "schemathesis==$version"
    touch "$tools/schemathesis-$version"
fi
