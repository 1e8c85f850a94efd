-- Whether cells of a table are noted as too large to travel.
select exists (select from cloudsync.too_large as l where l.table_id operator(pg_catalog.=) $1)
