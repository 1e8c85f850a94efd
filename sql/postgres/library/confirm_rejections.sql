-- Forgets the rejections that their site has stored.
delete from cloudsync.rejected as r
where r.site operator(pg_catalog.=) $1 and r.rejection_id operator(pg_catalog.<=) $2
