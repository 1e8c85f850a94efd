#!/bin/sh
# How far synchronous standbys are: cloudsync.standbys_flushed() for the ways to name them, with receivers of WAL in
# their place, and a reader of a logical slot that is counted for none.
# usage: with_server.sh standbys.sh (<bindir> <connection> come from there)
set -u

bindir=$1
connection="$2 dbname=standbys"
work=$PG_SYNC_DATA/work
failed=0
receivers=

sql() {
    # Nothing here waits for standbys itself.
    PGOPTIONS='-c synchronous_commit=local' "$bindir/psql" -X -q -A -t -v ON_ERROR_STOP=1 "$connection" "$@"
}

expect() {
    if [ "$2" != "$3" ]; then
        echo "$1: found '$2', wanted '$3'"
        failed=1
    fi
}

# Waits until a condition holds: until_true WHAT CONDITION
until_true() {
    tries=0
    until [ "$(sql -c "select $2")" = t ]; do
        tries=$((tries + 1))
        if [ "$tries" -ge 3000 ]; then
            echo "never: $1"
            sql -c "select application_name, sync_state, flush_lsn, cloudsync.standbys_flushed() from pg_stat_replication"
            exit 1
        fi
    done
}

names() { # names SYNCHRONOUS_STANDBY_NAMES
    sql -c "alter system set synchronous_standby_names = '$1'"
    sql -c "select pg_reload_conf()" > /dev/null
    until_true "the setting is read" "current_setting('synchronous_standby_names') = '$1'"
}

standby() { # standby NAME
    mkdir "$work/$1"
    "$bindir/pg_receivewal" --synchronous --no-loop --directory="$work/$1" -d "$2 application_name=$1" > "$work/$1.log" 2>&1 &
    last=$!
    receivers="$receivers $last"
    until_true "$1 streams" "exists (select from pg_stat_replication
        where application_name = '$1' and state = 'streaming' and flush_lsn is not null)"
}

flushed="cloudsync.standbys_flushed()"
has_all="$flushed >= pg_current_wal_flush_lsn()"

mkdir "$work"
"$bindir/psql" -X -q "$2 dbname=postgres" -c "create database standbys" || exit 1
sql -c "create extension pg_sync"
sql -c "create role hub login replication" -c "select cloudsync_grant_hub('hub')" > /dev/null

expect "no standby is asked for" "$(sql -c "select $flushed is null")" t
names 'one'
expect "one that is not there" "$(sql -c "select $flushed")" 0/0
expect "the hub may ask" "$(sql -c "set role hub; select $flushed")" 0/0
expect "others may not" "$(sql -c "create role stranger; set role stranger; select $flushed" 2>&1 | grep -c 'permission denied')" 1

standby one "$2"
one=$last
until_true "one has all" "$has_all"

names 'FIRST 2 (one, two)'
expect "one of two is there" "$(sql -c "select $flushed")" 0/0
standby two "$2"
two=$last
until_true "both have all" "$has_all"

kill -STOP "$two"
sql -c "select pg_logical_emit_message(false, 'standbys', 'on'), pg_switch_wal()" > /dev/null
# The position of one that is stopped stays, and both are asked for.
until_true "one got on alone" "(select flush_lsn from pg_stat_replication where application_name = 'one')
    > (select flush_lsn from pg_stat_replication where application_name = 'two')"
expect "the slower of two counts" \
    "$(sql -c "select $flushed = (select flush_lsn from pg_stat_replication where application_name = 'two')")" t
names 'ANY 1 (one, two)'
until_true "the faster of two counts" "$flushed = (select flush_lsn from pg_stat_replication where application_name = 'one')"
names 'one, two'
until_true "the first of two counts" "$flushed = (select flush_lsn from pg_stat_replication where application_name = 'one')"
names 'two'
expect "only the slower is asked for" "$(sql -c "select $has_all")" f
kill -CONT "$two"
until_true "it has all" "$has_all"

# A reader of a logical slot matches every pattern, and cannot take the place of a server.
kill "$one" "$two"
until_true "no standby is there" "not exists (select from pg_stat_replication)"
sql -c "select pg_create_logical_replication_slot('reader', 'pg_sync')" > /dev/null
"$bindir/pg_recvlogical" -d "$connection" --slot=reader --start --no-loop --status-interval=1 --file="$work/frames" \
    > "$work/reader.log" 2>&1 &
receivers="$receivers $!"
names '*'
until_true "the reader is synchronous" "exists (select from pg_stat_replication where sync_state = 'sync')"
expect "nobody else is asked for" "$(sql -c "select $flushed is null")" t
names 'ANY 2 (*)'
until_true "a standby is missing" "$flushed = '0/0'"
standby three "$2"
until_true "the standby has all" "$has_all"

sql -c "revoke pg_read_all_stats from cloudsync_owner"
expect "whoever may not look says so" \
    "$(sql -c "select $flushed" 2>&1 | grep -c 'cloudsync_owner may not see how far synchronous standbys are')" 1

names ''
# shellcheck disable=SC2086 # A list of numbers.
kill $receivers 2> /dev/null
exit "$failed"
