-- Logs which columns of a row really changed.
create trigger main.{trigger} after update of {columns} on {table}
when {key_kept} and ({changed})
begin
  insert into {log} (tbl, cols, ms, {log_key})
  values ({id}, {column_set}, {now}, {new_key});
end
