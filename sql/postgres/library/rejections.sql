-- All rejections of a site that it has not confirmed.
select coalesce(
  pg_catalog.jsonb_agg(
    pg_catalog.jsonb_build_object(
      'id', r.rejection_id,
      'table', r.table_name,
      'key', r.key,
      'sqlstate', r.sqlstate,
      'message', r.message,
      'first', r.first_number,
      'last', r.last_number
    ) order by r.rejection_id),
  '[]'::pg_catalog.jsonb)::pg_catalog.text
from cloudsync.rejected as r
where r.site operator(pg_catalog.=) $1
