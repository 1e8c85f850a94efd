-- The newest cells of a site that lost and that it may be told of, as an answer to an upload names them.
select
  coalesce(
    pg_catalog.jsonb_agg(
      pg_catalog.jsonb_build_object(
        'table', f.table_name,
        'key', f.key,
        'column', f.column_name,
        'hlc', f.won_hlc,
        'site', pg_catalog.encode(f.won_site, 'hex')
      ) order by f.conflict_id),
    '[]'::pg_catalog.jsonb)::pg_catalog.text
from (
  select kept.*
  from cloudsync.conflicts as kept
  where kept.lost_site operator(pg_catalog.=) $1 and kept.is_told
  order by kept.conflict_id desc
  limit $2
) as f
