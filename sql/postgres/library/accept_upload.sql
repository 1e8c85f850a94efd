-- Notes an upload as taken.
update cloudsync.sites
set acked = $2, token = $3, upload_id = $4, accepted_hlc = $5, seen_at = pg_catalog.clock_timestamp(),
    generation = coalesce(
      (select pg_catalog.max(g.generation) from cloudsync.generations as g), 0)
where site operator(pg_catalog.=) $1
