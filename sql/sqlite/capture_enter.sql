-- Of a table with a filter, logs a row that was not shared before it is updated: if it matches afterwards it
-- travels whole, if not nothing of it does.
create trigger main.{trigger} before update on {table}
when {not_shared}
begin
  insert into {log} (tbl, cols, ms, {log_key})
  values ({id}, {inserted}, {now}, {old_key});
end
