-- A key that changes is a deletion of the former key, and must not be one that was deleted.
create trigger main.{trigger} after update of {key_columns} on {table}
when {key_changed}
begin
  select raise(abort, {message}) where {is_dead};
  insert or ignore into cloudsync_dead (tbl, key)
  select {id}, {old_quoted} where {old_key_whole};
end
