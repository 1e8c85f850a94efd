-- Where our replication slot stands. One without a confirmed place is still being made; one that is not of this
-- database has no plugin of ours.
select
  case when s.database = pg_catalog.current_database() then s.plugin::text else '' end as plugin,
  coalesce(s.confirmed_flush_lsn, '0/0')::text as confirmed,
  coalesce(s.wal_status = 'lost', false) as lost
from pg_catalog.pg_replication_slots as s
where s.slot_name = $1
