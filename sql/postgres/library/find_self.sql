-- The ordinal of this database's site, if it was made for this very database.
select s.ordinal
from cloudsync.self as s
where s.system_identifier operator(pg_catalog.=) $1
  and s.timeline operator(pg_catalog.=) $2
  and s.database_oid operator(pg_catalog.=) $3
