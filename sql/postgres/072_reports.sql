-- What the centre says of itself: status, and what is kept beside the users' tables. Table owners see what concerns
-- their tables, members of cloudsync_owner (the hub) everything: a condition of a caller is asked of those rows alone.

-- The status as one user may see it. Counts of rows are estimates of the planner: counting would read every row.
create function cloudsync.status_for(user_oid oid, version text)
returns jsonb
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
  with may as (
    select
      pg_has_role(user_oid, 'cloudsync_owner', 'usage') or pg_has_role(user_oid, 'pg_monitor', 'usage')
        or pg_has_role(user_oid, d.datdba, 'usage') as see_all
    from pg_database as d
    where d.datname = current_database()
  ), wal as (
    select case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end as newest
  ), seen as (
    select t.*
    from cloudsync.tables as t
    join pg_class as c on c.oid = t.relation
    where has_any_column_privilege(user_oid, t.relation, 'select')
  )
  select jsonb_build_object(
    'version', status_for.version,
    'siteId', (
      select encode(d.site, 'hex')
      from cloudsync.self as s
      join cloudsync.site_dictionary as d on d.ordinal = s.ordinal),
    'dbVersion', pg_snapshot_xmin(pg_current_snapshot())::text::bigint - 1,
    'tables', (
      select coalesce(jsonb_agg(jsonb_build_object(
        'schema', s.schema_name,
        'name', s.table_name,
        'clientName', s.client_name,
        'algorithm', (array['cls', 'gos', 'dws', 'aws'])[s.algorithm + 1],
        'enabled', s.enabled,
        'scope', s.scope_expression,
        'filter', s.filter_expression,
        'rowSecurity', s.row_security,
        'metadata', greatest(m.reltuples, 0)::bigint,
        'metadataBytes', pg_total_relation_size(m.oid)
      ) order by s.schema_name, s.table_name), '[]')
      from seen as s
      join pg_class as m
        on m.relnamespace = 'cloudsync'::regnamespace and m.relname = format('meta_%s', s.table_id)),
    'slots', case when may.see_all then (
      select coalesce(jsonb_agg(jsonb_build_object(
        'name', r.slot_name,
        'active', r.active,
        'status', r.wal_status,
        'confirmedLsn', r.confirmed_flush_lsn,
        'lagBytes', pg_wal_lsn_diff(wal.newest, r.confirmed_flush_lsn)::bigint,
        'retainedBytes', pg_wal_lsn_diff(wal.newest, r.restart_lsn)::bigint
      ) order by r.slot_name), '[]')
      from pg_replication_slots as r
      where r.database = current_database() and r.plugin = 'pg_sync') end,
    'tooLarge', (select count(*) from cloudsync.too_large as l join seen as s on s.table_id = l.table_id),
    'sites', case when may.see_all then (select count(*) from cloudsync.sites) end,
    'oldestSite', case when may.see_all then (
      select jsonb_build_object('site', encode(o.site, 'hex'), 'acknowledged', o.acked, 'seenAt', o.seen_at)
      from cloudsync.sites as o
      order by o.seen_at
      limit 1) end,
    'rejected', case when may.see_all then (select count(*) from cloudsync.rejected) end,
    'conflicts', case when may.see_all then (select count(*) from cloudsync.conflicts) end,
    'parked', case when may.see_all then (select count(*) from cloudsync.parked) end,
    'skipped', case when may.see_all then (select count(*) from cloudsync.skipped_columns) end
  )
  from may
  cross join wal;
end;

-- Lag of slots, bytes retained, sites, what was refused. What the caller may not see is null or left out.
create function @extschema@.cloudsync_status() returns jsonb
language c volatile strict parallel unsafe
as 'MODULE_PATHNAME', 'status_wrapper';

-- Rows that the database refused, until their site knows.
create view @extschema@.cloudsync_rejected with (security_barrier) as
select r.table_name as tbl, r.row_key as pk, r.key, r.sqlstate, r.message, r.first_number as first,
  r.last_number as last, r.rejected_at as at, r.site as site_id
from cloudsync.rejected as r
where pg_catalog.pg_has_role('cloudsync_owner', 'usage')
  or exists (
    select from cloudsync.tables as t
    join pg_catalog.pg_class as c on c.oid = t.relation
    where t.client_name = r.table_name and pg_catalog.pg_has_role(c.relowner, 'usage'));

-- Values of uploads that lost to what was here.
create view @extschema@.cloudsync_conflicts with (security_barrier) as
select f.table_name as tbl, f.key, f.column_name as col, f.lost_value, f.lost_hlc, f.lost_site, f.won_hlc,
  f.won_site, f.reason, f.lost_at as at
from cloudsync.conflicts as f
where pg_catalog.pg_has_role('cloudsync_owner', 'usage')
  or exists (
    select from cloudsync.tables as t
    join pg_catalog.pg_class as c on c.oid = t.relation
    where t.table_id = f.table_id and pg_catalog.pg_has_role(c.relowner, 'usage'));

-- Cells that are newer than the deletion of their row, as a payload.
create view @extschema@.cloudsync_parked with (security_barrier) as
select t.client_name as tbl, p.row_key as pk, p.payload as change
from cloudsync.parked as p
join cloudsync.tables as t on t.table_id = p.table_id
left join pg_catalog.pg_class as c on c.oid = t.relation
where pg_catalog.pg_has_role('cloudsync_owner', 'usage') or pg_catalog.pg_has_role(c.relowner, 'usage');

alter view @extschema@.cloudsync_rejected owner to cloudsync_owner;
alter view @extschema@.cloudsync_conflicts owner to cloudsync_owner;
alter view @extschema@.cloudsync_parked owner to cloudsync_owner;
grant select on @extschema@.cloudsync_rejected, @extschema@.cloudsync_conflicts, @extschema@.cloudsync_parked
to public;
