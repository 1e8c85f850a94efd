-- Refusals of one row, for the owner of its table and for the hub.
select coalesce(
  pg_catalog.jsonb_agg(
    pg_catalog.jsonb_build_object(
      'site', pg_catalog.encode(r.site, 'hex'),
      'sqlstate', r.sqlstate,
      'message', r.message
    ) order by r.rejection_id),
  '[]'::pg_catalog.jsonb)::pg_catalog.text
from cloudsync.rejected as r
where r.table_name operator(pg_catalog.=) $1
  and r.row_key operator(pg_catalog.=) $2
  and (
    pg_catalog.pg_has_role($3, 'cloudsync_owner', 'usage')
    or exists (
      select from pg_catalog.pg_class as c
      where c.oid operator(pg_catalog.=) $4 and pg_catalog.pg_has_role($3, c.relowner, 'usage')))
