-- A page of the rows that a central file refused. When that was is not kept.
select coalesce(json_group_array(json(r.told)), '[]')
from (
  select json_object(
    'rejection', f.id,
    'site', lower(hex(f.site)),
    'table', f.tbl,
    'key', json(f.key),
    'sqlstate', f.sqlstate,
    'message', f.message,
    'rejected_at', null
  ) as told
  from main.cloudsync_refusals as f
  where f.id > cast(?1 as integer)
  order by f.id
  limit ?2
) as r
