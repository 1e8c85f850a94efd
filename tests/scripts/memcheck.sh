#!/usr/bin/env bash
# Runs the tests of shared-format and sqlite_sync, SQLite itself included, under AddressSanitizer: no invalid
# access, nothing lost. It takes several times as long as the tests alone and needs a nightly compiler, so it
# is no part of `make test`. Arguments are passed to `cargo test` (`--test apply`).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
cd "$root"

rustup toolchain list | grep -q '^nightly' || rustup toolchain install nightly --profile minimal
(($# > 0)) || set -- --lib --tests

export CC=clang CFLAGS="-fsanitize=address -fno-omit-frame-pointer"
export RUSTFLAGS="-Zsanitizer=address"
# Freed memory that is held back to find its later use would count as growth.
export ASAN_OPTIONS=detect_leaks=1:detect_stack_use_after_return=1:quarantine_size_mb=8
export CARGO_TARGET_DIR=$target/address-sanitizer
# Naming the target keeps the sanitizer out of build scripts and macros.
cargo +nightly test --target "$(rustc -vV | sed -n 's/^host: //p')" --package shared-format --package sqlite_sync \
    --no-fail-fast "$@"
