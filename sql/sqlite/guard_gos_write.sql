-- Refuses an UPDATE or DELETE of a grow-only table, unless apply itself writes.
create trigger main.{trigger} before {event} on {table}
when not exists (select 1 from cloudsync_settings where key = '{open}')
begin
  select raise(abort, {message});
end
