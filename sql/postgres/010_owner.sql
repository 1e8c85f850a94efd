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

create schema cloudsync;

-- Trigger functions live here: whoever creates a table must be able to name them.
grant usage on schema cloudsync to public;
