#!/usr/bin/env bash
# Fuzzes everything that reads bytes from outside, one target after the other, FUZZ_SECONDS each (default
# 1800). A finding stops it; the input that did it then lies in fuzz/artifacts/ beside the corpus.
# Needs a nightly compiler, so it is no part of `make test`.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

cargo_fuzz_version=0.13.2
seconds=${FUZZ_SECONDS:-1800}

if [[ ! -e "$tools/cargo-fuzz-$cargo_fuzz_version" ]]; then
    echo "building cargo-fuzz $cargo_fuzz_version"
    cargo install --quiet --locked --root "$tools" --version "$cargo_fuzz_version" cargo-fuzz
    touch "$tools/cargo-fuzz-$cargo_fuzz_version"
fi
rustup toolchain list | grep -q '^nightly' || rustup toolchain install nightly --profile minimal

export PATH=$tools/bin:$PATH
export CARGO_TARGET_DIR=$target/fuzz
for crate in shared-format sqlite_sync; do
    cd "$root/$crate"
    for name in $(cargo +nightly fuzz list); do
        echo "fuzzing $crate: $name for $seconds s"
        # What it finds new stays below the target directory; the seeds in the repository stay as they are.
        found=$target/fuzz/corpus/$name
        mkdir -p "$found" "fuzz/corpus/$name"
        cargo +nightly fuzz run -O "$name" "$found" "fuzz/corpus/$name" -- \
            -max_total_time="$seconds" -max_len=4096 -rss_limit_mb=2500 -timeout=60 -print_final_stats=1
    done
done
