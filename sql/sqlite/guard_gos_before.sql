-- Notes whether the row that is inserted takes the place of another: REPLACE deletes without firing a trigger.
create trigger main.{trigger} before insert on {table}
begin
  update cloudsync_guards
  set present = exists (select 1 from {table} as held where {held_equal})
  where tbl = {id};
end
