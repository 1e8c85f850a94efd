-- Logs which rows hold the values of a UNIQUE index, or the rowid, that are about to be written: REPLACE deletes
-- those rows without firing any trigger, so fold looks whether they are still there.
create trigger main.{trigger} before {event} on {table}{when_written}
begin
  insert into {log} (tbl, cols, ms, {log_key})
  select {id}, {look}, {now}, {held_key}
  from {table} as held
  where {held_equal}{held_shared};
end
