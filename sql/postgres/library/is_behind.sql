-- Whether a table has changed without the registry, or may not be read, as after a dump was restored without rights. Of
-- one that is suspended nothing is captured anyway.
select cloudsync.is_reshaped(t)
  or not pg_catalog.has_table_privilege('cloudsync_owner', t.relation::pg_catalog.oid, 'select')
from cloudsync.tables as t
where t.table_id operator(pg_catalog.=) $1
  and t.suspended is null
