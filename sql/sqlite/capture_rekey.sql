-- Logs a change of the row key as a deletion and a creation.
create trigger main.{trigger} after update of {key_columns} on {table}
when {key_changed}
begin
  insert into {log} (tbl, cols, ms, {log_key})
  select {id}, {deleted}, {now}, {old_key}
  where {old_key_whole};
  insert into {log} (tbl, cols, ms, {log_key})
  select {id}, {inserted}, {now}, {new_key}
  where {new_key_whole};
end
