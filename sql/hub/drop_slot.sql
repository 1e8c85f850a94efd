-- Removes our slot, if nobody reads from it; whoever does is ended, and the slot goes at the next try. Counts the
-- slots that are left.
with slot as (
  select s.slot_name, s.active_pid
  from pg_catalog.pg_replication_slots as s
  where s.slot_name = $1
),
ended as (
  select pg_catalog.pg_terminate_backend(s.active_pid)
  from slot as s
  where s.active_pid is not null
),
dropped as (
  select pg_catalog.pg_drop_replication_slot(s.slot_name)
  from slot as s
  where s.active_pid is null
)
select (select count(*) from slot) - (select count(*) from dropped) + 0 * (select count(*) from ended)
