-- A row if an INSERT of a key that is in the table fails at once: the primary key is not deferrable, and nothing of the
-- user's stands before the row. $1: the table.
select true
from pg_catalog.pg_class as c
join pg_catalog.pg_index as i on i.indrelid operator(pg_catalog.=) c.oid
where c.oid operator(pg_catalog.=) $1
  and c.relkind operator(pg_catalog.=) 'r'
  and not c.relhasrules
  and i.indisprimary and i.indimmediate and i.indisvalid
  -- Row-level (1), before (2), on INSERT (4).
  and not exists (
    select
    from pg_catalog.pg_trigger as t
    where t.tgrelid operator(pg_catalog.=) c.oid
      and (t.tgtype operator(pg_catalog.&) 7::smallint) operator(pg_catalog.=) 7::smallint
  )
