-- Whether this database's site was made for this very database, on any timeline of it.
select true
from cloudsync.self as s
where s.system_identifier operator(pg_catalog.=) $1
  and s.database_oid operator(pg_catalog.=) $2
