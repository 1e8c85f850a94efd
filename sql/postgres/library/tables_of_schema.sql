-- Tables of a schema that are not tracked yet. Parts of other tables and of extensions are no tables of a user.
select c.oid
from pg_catalog.pg_class as c
where c.relnamespace operator(pg_catalog.=) (
    select n.oid from pg_catalog.pg_namespace as n where n.nspname operator(pg_catalog.=) $1::pg_catalog.name)
  and c.relkind in ('r', 'p') and not c.relispartition
  and not exists (
    select from pg_catalog.pg_depend as d
    where d.classid operator(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass::pg_catalog.oid
      and d.objid operator(pg_catalog.=) c.oid and d.deptype operator(pg_catalog.=) 'e')
  and not exists (
    select from cloudsync.tables as t where t.relation::pg_catalog.oid operator(pg_catalog.=) c.oid)
order by c.relname
