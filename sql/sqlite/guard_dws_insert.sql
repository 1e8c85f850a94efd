-- Refuses a row whose key was deleted.
create trigger main.{trigger} after insert on {table}
when {is_dead}
begin
  select raise(abort, {message});
end
