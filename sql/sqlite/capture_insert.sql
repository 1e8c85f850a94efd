-- Logs a created row of one tracked table.
create trigger main.{trigger} after insert on {table}{when_key}
begin
  insert into {log} (tbl, cols, ms, {log_key})
  values ({id}, {inserted}, {now}, {new_key});
end
