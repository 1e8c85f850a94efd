-- Keeps the parked cells of a row, in place of those that were kept before.
insert into cloudsync.parked as p (table_id, row_key, payload)
values ($1, $2, $3)
on conflict (table_id, row_key) do update set payload = excluded.payload
