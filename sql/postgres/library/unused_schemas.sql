-- The schemas of a table and of its partitions in which cloudsync_owner has no right on any relation, and that the user
-- may keep it from using.
select distinct n.nspname::text
from pg_catalog.pg_class as c
join pg_catalog.pg_namespace as n on n.oid operator(pg_catalog.=) c.relnamespace
where c.oid in (
    select $1
    union all
    select p.relid::pg_catalog.oid from pg_catalog.pg_partition_tree($1::pg_catalog.regclass) as p
  )
  and pg_catalog.pg_has_role($2, n.nspowner, 'usage')
  and exists (
    select from pg_catalog.aclexplode(n.nspacl) as a
    where a.grantee operator(pg_catalog.=) 'cloudsync_owner'::pg_catalog.regrole::pg_catalog.oid
  )
  and not exists (
    select
    from pg_catalog.pg_class as other
    cross join lateral pg_catalog.aclexplode(other.relacl) as a
    where other.relnamespace operator(pg_catalog.=) n.oid
      and a.grantee operator(pg_catalog.=) 'cloudsync_owner'::pg_catalog.regrole::pg_catalog.oid
  )
