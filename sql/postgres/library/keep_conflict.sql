-- Keeps a value that lost to what is here, or that was put back.
insert into cloudsync.conflicts
  (table_id, table_name, key, column_name, lost_value, lost_hlc, lost_site, won_hlc, won_site, reason,
    is_told)
values ($1, $2, $3::pg_catalog.jsonb, $4, $5, $6, $7, $8, $9, $10, $11)
returning conflict_id
