-- Takes a site's word for its token, once in each generation: what this database knew of the site may be older than
-- what the site was told, or nothing. After a restore on purpose its numbers are taken too, so that it does not
-- send again what was undone; otherwise the number stays and tells the site where to begin. A row that
-- was made just now belongs to no generation yet, and its upload is not taken yet.
update cloudsync.sites as s
set token = $2,
    upload_id = case when $4 then '' else s.upload_id end,
    generation = now.generation,
    acked = case
      when exists (
        select from cloudsync.generations as g
        where g.cause operator(pg_catalog.=) 'restore'
          and (g.generation operator(pg_catalog.=) now.generation
            or (not $4 and g.generation operator(pg_catalog.>) s.generation))
      ) then greatest(s.acked, $3 operator(pg_catalog.-) 1)
      else s.acked
    end
from (select pg_catalog.max(g.generation) as generation from cloudsync.generations as g) as now
where s.site operator(pg_catalog.=) $1
  and ($4 or s.generation operator(pg_catalog.<) now.generation)
  and now.generation is not null
returning s.acked
