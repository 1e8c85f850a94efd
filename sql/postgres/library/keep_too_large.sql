-- Notes a cell that does not travel, and gives back the names of its column and of its table.
insert into cloudsync.too_large as l (table_id, row_key, column_id, bytes)
values ($1, $2::pg_catalog.jsonb, $3, $4)
on conflict (table_id, row_key, column_id) do update set bytes = excluded.bytes, seen_at = excluded.seen_at
returning
  (select c.name from cloudsync.columns as c
   where c.table_id operator(pg_catalog.=) l.table_id and c.column_id operator(pg_catalog.=) l.column_id),
  (select t.table_name from cloudsync.tables as t where t.table_id operator(pg_catalog.=) l.table_id)
