-- Ends whoever reads from our slot: the one who asks holds the lock, so that it is a hub that led before.
select count(*)
from pg_catalog.pg_replication_slots as s
where s.slot_name = $1
  and s.active_pid is not null
  and pg_catalog.pg_terminate_backend(s.active_pid)
