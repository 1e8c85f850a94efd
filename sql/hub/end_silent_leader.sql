-- Ends the hub that holds the lock of this database, where it has said nothing for so many seconds though Postgres
-- waits for it: its machine may be gone without a word. Both its connections end, so that lock and slot are free.
-- Counts the connections.
with here as (
  select d.oid
  from pg_catalog.pg_database as d
  where d.datname = pg_catalog.current_database()
),
silent as (
  select a.pid, a.usesysid
  from here as h
  join pg_catalog.pg_locks as l
    on l.database = h.oid
    and l.locktype = 'advisory'
    and l.granted
    and l.objsubid = 1
    and l.classid::bigint = ($1::bigint >> 32)
    and l.objid::bigint = ($1::bigint & 4294967295)
  join pg_catalog.pg_stat_activity as a on a.pid = l.pid
  join pg_catalog.pg_roles as r on r.oid = a.usesysid
  where r.rolname = session_user
    and a.state = 'idle'
    and a.state_change < pg_catalog.clock_timestamp() - pg_catalog.make_interval(secs => $2)
),
reading as (
  select s.active_pid as pid
  from here as h
  join pg_catalog.pg_replication_slots as s on s.slot_name = 'cloudsync_' || h.oid
  join pg_catalog.pg_stat_activity as a on a.pid = s.active_pid
  join silent as i on i.usesysid = a.usesysid
)
select count(*)
from (select pid from reading union all select pid from silent) as gone
where pg_catalog.pg_terminate_backend(gone.pid)
