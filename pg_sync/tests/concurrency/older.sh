#!/bin/sh
# Transactions that see what was there at their beginning, which is older than the extension, than cloudsync_init, than a
# definition, or than what others have written to metadata since: none of their statements fails for that, and what they
# write is captured.
# usage: older.sh <bindir> <connection>
set -u

bindir=$1
connection=$2
database=pg_sync_older
failed=0

expect() {
    if [ "$2" != "$3" ]; then
        echo "$1: found '$2', wanted '$3'"
        failed=1
    fi
}

# A line of a script that runs a statement in another session.
meanwhile() {
    echo "\\! \"$bindir/psql\" -X -q -A -t -o /dev/null \"$connection dbname=$database options='-c client_min_messages=error'\" -c \"$1\""
}

for level in "repeatable read" serializable; do
    "$bindir/psql" -X -q "$connection dbname=postgres" -c "drop database if exists $database" 2> /dev/null
    "$bindir/psql" -X -q "$connection dbname=postgres" -c "create database $database template template0 encoding 'UTF8' locale 'C'" || exit 1
    # Notices name objects; what is left is the answer to questions.
    answer=$("$bindir/psql" -X -q -A -t "$connection dbname=$database options='-c client_min_messages=error'" 2>&1 <<SQL
create table t (id integer primary key, a text);
create table r (id integer primary key, a text, n bigint);
create table p (id integer primary key, a text) partition by range (id);
create table p_1 partition of p for values from (0) to (100);
insert into t values (1, 'x'), (3, 'x'), (5, 'five'), (6, 'six');
insert into r values (1, 'x', 1), (5, 'five', 5);
insert into p values (1, 'x'), (5, 'five');
begin isolation level $level;
select count(*) from t;
$(meanwhile "create extension pg_sync; select cloudsync_init('t'); select cloudsync_init('r'); select cloudsync_init('p'); select cloudsync_set_column('r', 'n', 'algo', 'counter')")
$(meanwhile "delete from t where id in (3, 5); delete from r where id = 5; delete from p where id = 5")
select 'the first write';
insert into t values (2, 'y');
update t set a = 'z' where id = 1;
savepoint later;
update t set a = 'never' where id = 2;
rollback to later;
update t set a = 'z2' where id = 2;
select 'keys that others have deleted since';
update t set id = 7 where id = 1;
update t set id = 5 where id = 2;
insert into t values (3, 'again');
update t set a = 'once more' where a = 'again';
update t set id = 4 where a = 'once more';
select 'other algorithms, and partitions';
insert into r values (2, 'y', 2), (5, 'again', 1);
update r set n = n + 4 where a in ('x', 'y');
insert into p_1 values (2, 'y');
insert into p values (5, 'again');
update p set id = id + 10 where a = 'again';
select 'a definition that came since';
$(meanwhile "create table late (id integer primary key, a text); insert into late values (1, 'x'), (2, 'x'); select cloudsync_init('late')")
$(meanwhile "alter table late add column b text")
insert into late values (3, 'y', 'new');
update late set b = 'newer' where id = 3;
delete from late where id = 3;
set session_replication_role = replica;
insert into late values (4, 'replica', 'row');
reset session_replication_role;
commit;
select 't', key_1, alive from cloudsync.meta_1 order by key_1;
select 'r', m.key_1, m.alive, d.n, m.registers is not null from cloudsync.meta_2 as m left join r as d on d.id = m.key_1 order by m.key_1;
select 'p', key_1, alive from cloudsync.meta_3 order by key_1;
select 'late', key_1, alive from cloudsync.meta_4 order by key_1;
select count(*) from cloudsync.uncaptured;
select 'rows that it does not see';
begin isolation level $level;
select count(*) from late;
$(meanwhile "insert into late values (5, 'unseen')")
truncate late;
commit;
select cloudsync.catch_up();
select 'late', key_1, alive from cloudsync.meta_4 order by key_1;
select count(*) from cloudsync.uncaptured;
SQL
    )
    expect "$level" "$answer" "4
the first write
keys that others have deleted since
other algorithms, and partitions
a definition that came since
t|1|f
t|2|f
t|3|f
t|4|t
t|5|t
t|7|t
r|1|t|5|t
r|2|t|6|t
r|5|t|1|t
p|2|t
p|5|f
p|15|t
late|3|f
late|4|t
0
rows that it does not see
3
1
late|1|f
late|2|f
late|3|f
late|4|f
late|5|f
0"
done

"$bindir/psql" -X -q "$connection dbname=postgres" -c "drop database $database" 2> /dev/null
[ "$failed" -eq 0 ]
