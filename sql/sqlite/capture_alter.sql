-- Logs an assignment to one column while the table is being altered. It names the column in no expression, so
-- that the column can be dropped; whether the value changed is not asked.
create trigger main.{trigger} after update of {column} on {table}{when_key}
begin
  insert into {log} (tbl, cols, ms, {log_key})
  values ({id}, {column_set}, {now}, {new_key});
end
