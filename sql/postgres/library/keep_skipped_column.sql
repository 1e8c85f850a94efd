-- Notes that a site sends a column which its table does not have here.
insert into cloudsync.skipped_columns (table_name, column_name, site)
values ($1, $2, $3)
on conflict (table_name, column_name, site) do nothing
