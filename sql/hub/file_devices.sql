-- A page of the sites that have uploaded to a central file, in the order of their ids. When that was is not kept.
select coalesce(json_group_array(json(d.told)), '[]')
from (
  select json_object(
    'site', lower(hex(u.site)),
    'acknowledged', u.acked,
    'seen_at', null,
    'rejected', (select count(*) from main.cloudsync_refusals as r where r.site = u.site)
  ) as told
  from main.cloudsync_uploaders as u
  where u.site > unhex(?1)
  order by u.site
  limit ?2
) as d
