-- The role that owns everything of ours. It cannot log in; it passes row-level security
-- because metadata is kept for every row, also for those that a policy hides.
do $owner$
begin
  if not exists (select from pg_catalog.pg_roles as r where r.rolname = 'cloudsync_owner') then
    create role cloudsync_owner nologin bypassrls;
  end if;
exception
  -- Roles belong to the whole server: another database made it at the same moment.
  when duplicate_object or unique_violation then
    null;
end
$owner$;

-- Only who may read it is told by pg_stat_replication how far standbys are: see cloudsync.standbys_flushed.
do $stats$
begin
  if not pg_catalog.pg_has_role('cloudsync_owner', 'pg_read_all_stats', 'usage') then
    grant pg_read_all_stats to cloudsync_owner;
  end if;
exception
  when unique_violation then
    null;
end
$stats$;

create schema cloudsync;

-- Trigger functions live here: whoever creates a table must be able to name them.
grant usage on schema cloudsync to public;
