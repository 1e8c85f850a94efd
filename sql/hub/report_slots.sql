-- The replication slots of our plugin in this database.
select coalesce(jsonb_agg(jsonb_build_object(
  'name', s.slot_name,
  'active', s.active,
  'wal_status', s.wal_status,
  'confirmed_lsn', s.confirmed_flush_lsn,
  'lag_bytes', pg_wal_lsn_diff(w.newest, s.confirmed_flush_lsn)::bigint,
  'retained_bytes', pg_wal_lsn_diff(w.newest, s.restart_lsn)::bigint
) order by s.slot_name), '[]')::text
from pg_replication_slots as s
cross join (
  select case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end as newest
) as w
where s.database = current_database() and s.plugin = 'pg_sync'
