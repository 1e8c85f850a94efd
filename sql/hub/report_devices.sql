-- A page of the sites that have uploaded, in the order of their ids.
select coalesce(jsonb_agg(jsonb_build_object(
  'site', encode(d.site, 'hex'),
  'acknowledged', d.acked,
  'seen_at', to_char(d.seen_at at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
  'rejected', (select count(*) from cloudsync.rejected as r where r.site = d.site)
) order by d.site), '[]')::text
from (
  select s.site, s.acked, s.seen_at
  from cloudsync.sites as s
  where s.site > decode($1, 'hex')
  order by s.site
  limit $2
) as d
