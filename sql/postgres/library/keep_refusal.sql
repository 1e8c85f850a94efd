-- Keeps a refused row until its site has confirmed it. A newer refusal of the same row takes
-- the place of the older one, under a new number, so that the site sees it.
insert into cloudsync.rejected as r
  (site, table_name, row_key, key, sqlstate, message, first_number, last_number)
values ($1, $2, $3, $4::pg_catalog.jsonb, $5, $6, $7, $8)
on conflict (site, table_name, row_key) do update
set rejection_id = default,
    key = excluded.key,
    sqlstate = excluded.sqlstate,
    message = excluded.message,
    first_number = excluded.first_number,
    last_number = excluded.last_number,
    rejected_at = pg_catalog.clock_timestamp()
