-- Logs a deleted row of one tracked table.
create trigger main.{trigger} {when} delete on {table}{when_key}
begin
  insert into {log} (tbl, cols, ms, {log_key})
  values ({id}, {deleted}, {now}, {old_key});
end
