-- Where our replication slot stands. A slot without a confirmed place is still being made.
select
  s.plugin::text as plugin,
  coalesce(s.confirmed_flush_lsn, '0/0')::text as confirmed,
  coalesce(s.wal_status = 'lost', false) as lost
from pg_catalog.pg_replication_slots as s
where s.slot_name = $1
