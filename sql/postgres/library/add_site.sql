-- Gives a site an ordinal; another transaction may do the same at this moment. A dump may have brought sites, and their
-- sequence not yet.
insert into cloudsync.site_dictionary (ordinal, site)
values (
  greatest(
    pg_catalog.nextval('cloudsync.site_ordinal')::integer,
    (select 1 operator(pg_catalog.+) pg_catalog.max(d.ordinal) from cloudsync.site_dictionary as d)
  ),
  $1
)
on conflict (site) do nothing
