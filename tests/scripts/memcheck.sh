#!/usr/bin/env bash
# Runs the tests of shared-format and sqlite_sync under valgrind: no invalid access, nothing lost. It takes
# about fifty times as long as the tests alone, so it is no part of `make test`. Arguments name test binaries
# to run; without any it runs all but those that only repeat what others do: the killed and starved processes
# and the generated histories.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
cd "$root"

skipped=' crash disk memory growth histories laws '

list=$(cargo test --package shared-format --package sqlite_sync --lib --tests --no-run --message-format=json \
    2>/dev/null | /usr/bin/python3 -c '
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable") and message.get("profile", {}).get("test"):
        print(message["target"]["name"], message["executable"])')
while read -r name binary; do
    if (($# > 0)); then
        [[ " $* " == *" $name "* ]] || continue
    elif [[ "$skipped" == *" $name "* ]]; then
        continue
    fi
    echo "valgrind: $name"
    # The library keeps some memory until the process ends: still reachable is no loss.
    (cd "$([[ $name == shared_format ]] && echo shared-format || echo sqlite_sync)" &&
        valgrind --quiet --error-exitcode=9 --leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite \
            "$binary" --test-threads=1)
done <<<"$list"
