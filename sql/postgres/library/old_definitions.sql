-- Definitions that are not in force any more.
select a.definition
from cloudsync.announced_definitions as a
where not exists (
  select
  from cloudsync.tables as t
  where t.table_id operator(pg_catalog.=) a.table_id
    and t.incarnation operator(pg_catalog.=) a.incarnation
    and t.version operator(pg_catalog.=) a.version
)
order by a.table_id, a.incarnation, a.version
