#!/bin/sh
# docs/sql-api-postgres.md names everything that the extension adds, with its arguments, and what its examples show is
# what happens.
# usage: pg_sync/tests/reference.sh <bindir> <connection without a database>
set -u

here=$(cd "$(dirname "$0")" && pwd)
document=$here/../../docs/sql-api-postgres.md
bindir=$1
connection=$2
database=pg_sync_reference
results=$(mktemp -d)

query() {
    "$bindir/psql" -X -q -v ON_ERROR_STOP=1 "$connection dbname=$1" -c "$2"
}

finish() {
    query postgres "drop database if exists $database" 2> /dev/null
    query postgres "drop role if exists hub_login" 2> /dev/null
    rm -rf "$results"
}
trap finish EXIT

query postgres "drop database if exists $database" 2> /dev/null
query postgres "create database $database template template0 encoding 'UTF8' locale 'C'" || exit 1

# Examples: what is in the code blocks, the results on lines of their own, each statement under the number of its line.
awk -v script="$results/script.sql" -v wanted="$results/wanted" -v place="$results/todos.payload" '
    /^```/ { in_sql = ($0 == "```sql"); is_open = 0; next }
    !in_sql { next }
    /^-- (=>|!!)/ { print > wanted; next }
    {
        gsub("/tmp/todos.payload", place)
        if (!is_open) {
            print "\\echo @ line " NR > script
            print "@ line " NR > wanted
        }
        print > script
        is_open = ($0 !~ /;$/)
    }' "$document"
chmod a+rwx "$results"
"$bindir/psql" -X -q -A -t -F ' | ' -P null=NULL -v VERBOSITY=terse \
    "$connection dbname=$database options='-c client_min_messages=warning'" -f "$results/script.sql" 2>&1 |
    sed -e 's/^psql:[^ ]*: //' -e '/^@ line /!s/^/-- => /' -e 's/^-- => ERROR:  /-- !! /' -e 's/ *$//' > "$results/found"
if ! diff -u "$results/wanted" "$results/found"; then
    echo "docs/sql-api-postgres.md shows something else than what happens" >&2
    exit 1
fi
[ "$(grep -c '^@ line' "$results/wanted")" -gt 40 ] || { echo "the reference has examples" >&2; exit 1; }

# Functions with the numbers of arguments that they take, -1 for any; views.
awk '
    /^### / {
        name = $0; sub(/^### /, "", name); sub(/\(.*/, "", name)
        arguments = $0; sub(/^[^(]*\(/, "", arguments); sub(/\)$/, "", arguments)
        if (arguments ~ /\.\.\./) { print name, -1, -1; next }
        required = arguments; sub(/\[.*/, "", required)
        print name, count(required), count(arguments)
    }
    function count(text,   parts, number, at, found) {
        number = split(text, parts, ",")
        for (at = 1; at <= number; at++) if (parts[at] ~ /[a-z]/) found++
        return found + 0
    }' "$document" | sort -u > "$results/described"
"$bindir/psql" -X -q -A -t -F ' ' "$connection dbname=$database" -c "
    select distinct p.proname, case when p.provariadic = 0 then p.pronargs - p.pronargdefaults else -1 end,
        case when p.provariadic = 0 then p.pronargs else -1 end
    from pg_proc as p
    where p.pronamespace = 'public'::regnamespace" | sort -u > "$results/added"
if ! diff -u "$results/added" "$results/described"; then
    echo "docs/sql-api-postgres.md does not describe the functions that there are" >&2
    exit 1
fi
for view in $("$bindir/psql" -X -q -A -t "$connection dbname=$database" \
    -c "select c.relname from pg_class as c where c.relnamespace = 'public'::regnamespace and c.relkind = 'v'"); do
    grep -q -e "^## $view\$" -e "^| \`$view\` |" "$document" || { echo "$view is not described" >&2; exit 1; }
done
