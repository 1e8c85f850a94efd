-- Makes this database a site of its own: at installation, and when it turns out to be a copy.
-- The conflict clause takes the row lock, so of two sessions that notice, one waits and then
-- finds the work done. A dump may have brought sites, and their sequence not yet.
with added as (
  insert into cloudsync.site_dictionary (ordinal, site)
  values (
    greatest(
      pg_catalog.nextval('cloudsync.site_ordinal')::integer,
      (select 1 operator(pg_catalog.+) pg_catalog.max(d.ordinal) from cloudsync.site_dictionary as d)
    ),
    $4
  )
  returning ordinal
)
insert into cloudsync.self as s (ordinal, system_identifier, timeline, database_oid)
select a.ordinal, $1, $2, $3
from added as a
on conflict (only_row) do update
set ordinal = excluded.ordinal,
    system_identifier = excluded.system_identifier,
    timeline = excluded.timeline,
    database_oid = excluded.database_oid
where (s.system_identifier, s.timeline, s.database_oid)
  is distinct from (excluded.system_identifier, excluded.timeline, excluded.database_oid)
returning s.xmax operator(pg_catalog.<>) '0'::pg_catalog.xid as is_copy
