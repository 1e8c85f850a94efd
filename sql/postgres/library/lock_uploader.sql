-- Locks the row of a site: its uploads are applied one after the other.
select s.acked, s.token, s.upload_id, s.accepted_hlc
from cloudsync.sites as s
where s.site operator(pg_catalog.=) $1
for update
