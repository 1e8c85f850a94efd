-- The oldest rejections of a site that it has not confirmed, and how many more there are.
select
  coalesce(
    pg_catalog.jsonb_agg(
      pg_catalog.jsonb_build_object(
        'id', r.rejection_id,
        'table', r.table_name,
        'key', r.key,
        'sqlstate', r.sqlstate,
        'message', r.message,
        'first', r.first_number,
        'last', r.last_number
      ) order by r.rejection_id)
      filter (where r.place operator(pg_catalog.<=) $2),
    '[]'::pg_catalog.jsonb)::pg_catalog.text,
  pg_catalog.count(*) filter (where r.place operator(pg_catalog.>) $2)
from (
  select kept.*, pg_catalog.row_number() over (order by kept.rejection_id) as place
  from cloudsync.rejected as kept
  where kept.site operator(pg_catalog.=) $1
) as r
