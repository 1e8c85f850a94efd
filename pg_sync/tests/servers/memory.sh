#!/usr/bin/env bash
# A session that writes statement by statement, for long: its memory does not grow, whichever way its writes are captured.
# usage: pg_sync/tests/servers/memory.sh <bindir> <connection> [<statements of each kind>]
set -euo pipefail

bindir=$1
connection=$2
statements=${3:-1000}

"$bindir/psql" -X -q -A -t -v ON_ERROR_STOP=1 -v statements="$statements" \
    "$connection dbname=postgres options='-c client_min_messages=error -c synchronous_commit=off'" <<'SQL'
create extension pg_sync;
create table direct (id integer primary key, a text, n integer);
create table ruled (id integer primary key, a text, n bigint not null default 0);
create table scoped (id integer primary key, a text, who text);
select cloudsync_init('direct'), cloudsync_init('ruled'), cloudsync_init('scoped') \g /dev/null
select cloudsync_set_column('ruled', 'n', 'algo', 'counter'), cloudsync_set_scope('scoped', 'who') \g /dev/null

create procedure work(first integer, count integer) language plpgsql as $$
begin
  for i in first .. first + count - 1 loop
    insert into direct values (i, 'a', i);
    commit;
    update direct set n = n + 1 where id = i;
    commit;
    -- In one transaction: captured by the general functions.
    update direct set a = 'b' where id = i;
    update direct set a = 'c' where id = i;
    delete from direct where id = i;
    commit;
    insert into ruled values (i % 10, 'a', i) on conflict (id) do update set n = ruled.n + 1;
    commit;
    insert into scoped values (i % 10, 'a', 'ann') on conflict (id) do update set a = i::text;
    commit;
    begin
      insert into direct values (-1, 'rolled back', i);
      raise exception 'rolled back';
    exception when raise_exception then
      null;
    end;
    commit;
  end loop;
end
$$;

-- What the process holds of its own, in KiB: also what the server's contexts do not know.
create function held() returns bigint language sql volatile as $$
  select (regexp_match(pg_read_file('/proc/' || pg_backend_pid() || '/status'), 'RssAnon:\s+([0-9]+) kB'))[1]::bigint
$$;

call work(1, :statements);
select held() as before \gset
call work(1 + :statements, :statements);
call work(1 + 2 * :statements, :statements);
select held() as after \gset
\echo before :before KiB, after :after KiB
select :after - :before < 1024 as is_flat \gset
\if :is_flat
\else
  \warn memory grew from :before to :after KiB over 2 * :statements rounds
  select 1 / 0;
\endif
SQL
