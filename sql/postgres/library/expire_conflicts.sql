-- Forgets conflicts that are older than 30 days, and all but the newest 100,000: see DESIGN section 15.
delete from cloudsync.conflicts as f
where f.lost_at operator(pg_catalog.<) (pg_catalog.clock_timestamp() operator(pg_catalog.-) interval '30 days')
  or f.conflict_id operator(pg_catalog.<=) (
    (select pg_catalog.max(g.conflict_id) from cloudsync.conflicts as g) operator(pg_catalog.-) 100000::bigint)
