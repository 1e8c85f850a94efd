-- Takes back that cells of a row are too large: those of these columns, or all, for a row that is gone.
delete from cloudsync.too_large as l
where l.table_id operator(pg_catalog.=) $1
  and l.row_key operator(pg_catalog.=) $2::pg_catalog.jsonb
  and ($3 is null or l.column_id operator(pg_catalog.=) any ($3))
