-- Logs a deleted row of one tracked table.
create trigger main.{trigger} after delete on {table}{when_key}
begin
  insert into cloudsync_log (tbl, cols, ms, {log_key})
  values ({id}, {deleted}, {now}, {old_key});
end
