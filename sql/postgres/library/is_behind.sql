-- Whether a table has changed without the registry. Of one that is suspended nothing is captured anyway.
select cloudsync.is_reshaped(t)
from cloudsync.tables as t
where t.table_id operator(pg_catalog.=) $1
  and t.suspended is null
