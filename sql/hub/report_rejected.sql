-- A page of the rows that the database refused.
select coalesce(jsonb_agg(jsonb_build_object(
  'rejection', r.rejection_id,
  'site', encode(r.site, 'hex'),
  'table', r.table_name,
  'key', r.key,
  'sqlstate', r.sqlstate,
  'message', r.message,
  'rejected_at', to_char(r.rejected_at at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
) order by r.rejection_id), '[]')::text
from (
  select f.*
  from cloudsync.rejected as f
  where f.rejection_id > $1::bigint
  order by f.rejection_id
  limit $2
) as r
