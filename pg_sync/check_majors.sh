#!/bin/sh
# Type-checks the library against every Postgres major that it supports, without their headers: the bindings of
# pgrx ship with it, and are used as they are when it believes that it is building its documentation.
# usage: pg_sync/check_majors.sh [target directory] [major ...]
set -eu

here=$(cd "$(dirname "$0")" && pwd)
target=${1:-$here/../target/majors}
[ $# -gt 0 ] && shift
[ $# -gt 0 ] || set -- 14 15 16 17 18

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

for major in "$@"; do
    echo "Postgres $major"
    DOCS_RS=1 RUSTC_WRAPPER=$wrapper CARGO_TARGET_DIR=$target \
        cargo check --quiet --manifest-path "$here/Cargo.toml" --lib --no-default-features --features "pg$major"
done
