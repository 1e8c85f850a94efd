-- Refuses a row of a grow-only table that took the place of another.
create trigger main.{trigger} after insert on {table}
when exists (select 1 from cloudsync_guards where tbl = {id} and present <> 0)
  and not exists (select 1 from cloudsync_settings where key = '{open}')
begin
  select raise(abort, {message});
end
