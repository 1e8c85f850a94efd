-- What a hub needs of a server and a database, as `hub check` asks it; $1 are the roles that keys and tokens act as.
-- Nothing of the extension is named directly, since it may be missing.
with
wanted(kind, name) as (
  values
    ('function', 'definitions'), ('function', 'snapshot_part'), ('function', 'message_key'),
    ('function', 'apply_upload'), ('function', 'replay'), ('function', 'begin_generation'), ('function', 'restored'),
    ('function', 'standbys_flushed'), ('function', 'catch_up'), ('function', 'add_chunk'),
    ('function', 'follow_upload'),
    ('function', 'site_acked'), ('function', 'note_site'), ('function', 'collect_tombstones'),
    ('function', 'scopes_of'), ('function', 'make_job'), ('function', 'claim_job'), ('function', 'extend_job'),
    ('function', 'end_job'), ('function', 'bury_job'), ('function', 'revive_job'), ('function', 'forget_job'),
    ('relation', 'tracked_tables'), ('relation', 'job_states'), ('sequence', 'fence')
),
found as (
  select w.name,
    p.oid is not null or c.oid is not null as is_there,
    coalesce(
      has_function_privilege(p.oid, 'execute'),
      case w.kind
        when 'relation' then has_table_privilege(c.oid, 'select')
        when 'sequence' then has_sequence_privilege(c.oid, 'usage') and has_sequence_privilege(c.oid, 'select')
      end
    ) as is_granted
  from wanted as w
  cross join pg_namespace as n
  left join pg_proc as p on w.kind = 'function' and p.pronamespace = n.oid and p.proname = w.name
  left join pg_class as c on w.kind <> 'function' and c.relnamespace = n.oid and c.relname = w.name
  where n.nspname = 'cloudsync'
)
select jsonb_build_object(
  'user', current_user,
  'database', current_database(),
  'database_oid', (select d.oid::bigint from pg_database as d where d.datname = current_database()),
  'version', current_setting('server_version'),
  'standby', pg_is_in_recovery(),
  'wal_level', current_setting('wal_level'),
  'wal_senders_max', current_setting('max_wal_senders')::integer,
  'slots_max', current_setting('max_replication_slots')::integer,
  'slots', (select count(*) from pg_replication_slots),
  'plugins', (select s.setting from pg_settings as s where s.name = 'output_plugin_libraries'),
  'extension', (select e.extversion from pg_extension as e where e.extname = 'pg_sync'),
  'available', (select a.default_version from pg_available_extensions as a where a.name = 'pg_sync'),
  'missing', (select coalesce(jsonb_agg(f.name order by f.name), '[]') from found as f where not f.is_there),
  'denied', (
    select coalesce(jsonb_agg(f.name order by f.name), '[]')
    from found as f
    where f.is_there and not f.is_granted
  ),
  'enters', (select has_schema_privilege(n.oid, 'usage') from pg_namespace as n where n.nspname = 'cloudsync'),
  'owns', (select pg_has_role(r.oid, 'member') from pg_roles as r where r.rolname = 'cloudsync_owner'),
  'slot', (
    select jsonb_build_object(
      'name', s.slot_name,
      'plugin', s.plugin,
      'active', s.active,
      'wal_status', s.wal_status,
      'retained_bytes', case when not pg_is_in_recovery() then
        pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn)::bigint
      end
    )
    from pg_replication_slots as s
    join pg_database as d on s.slot_name = 'cloudsync_' || d.oid
    where d.datname = current_database()
  ),
  'roles', (
    select coalesce(jsonb_agg(jsonb_build_object(
      'name', w.name,
      'is_there', r.oid is not null,
      'may_act', coalesce(pg_has_role(r.oid, case
        when current_setting('server_version_num')::integer >= 160000 then 'set' else 'member'
      end), false)
    ) order by w.name), '[]')
    from unnest($1) as w(name)
    left join pg_roles as r on r.rolname = w.name
  )
)::text
