-- Remembers a deleted key until fold has it in the metadata.
create trigger main.{trigger} after delete on {table}{when_key}
begin
  insert or ignore into cloudsync_dead (tbl, key) values ({id}, {old_quoted});
end
