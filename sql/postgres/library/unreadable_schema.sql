-- The schema of a relation, if cloudsync_owner (who runs this) may not use it.
select n.nspname::text
from pg_catalog.pg_class as c
join pg_catalog.pg_namespace as n on n.oid operator(pg_catalog.=) c.relnamespace
where c.oid operator(pg_catalog.=) $1
  and not pg_catalog.has_schema_privilege(n.oid, 'usage')
