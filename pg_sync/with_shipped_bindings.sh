#!/bin/sh
# Runs cargo on the library for a Postgres major without its headers: the bindings of pgrx ship with it, and are
# used as they are when it believes that it is building its documentation.
# usage: pg_sync/with_shipped_bindings.sh <target directory> <major> <cargo command> [argument ...]
set -eu

here=$(cd "$(dirname "$0")" && pwd)
target=$1
major=$2
command=$3
shift 3

mkdir -p "$target"
wrapper=$target/rustc-with-shipped-bindings
cat > "$wrapper" <<'WRAPPER'
#!/bin/sh
# Called by cargo as: wrapper rustc arguments...
rustc=$1
shift
case " $* " in
    *" --crate-name pgrx_pg_sys "*) exec "$rustc" "$@" --cfg docsrs ;;
    *) exec "$rustc" "$@" ;;
esac
WRAPPER
chmod +x "$wrapper"

DOCS_RS=1 RUSTC_WRAPPER=$wrapper CARGO_TARGET_DIR=$target \
    cargo "$command" --quiet --manifest-path "$here/Cargo.toml" --lib --no-default-features --features "pg$major" "$@"
