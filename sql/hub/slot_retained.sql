-- Bytes of WAL that the server keeps for our replication slot; 0 when there is none.
select coalesce(max(pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), s.restart_lsn)), 0)::bigint
from pg_catalog.pg_replication_slots as s
where s.slot_name = $1
