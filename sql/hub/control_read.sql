-- Everything that the control database holds.
select jsonb_build_object(
  'databases', (
    select coalesce(jsonb_agg(jsonb_build_object('name', d.name, 'settings', d.settings) order by d.name), '[]')
    from cloudsync_control.databases as d),
  'keys', (
    select coalesce(jsonb_agg(jsonb_build_object(
      'id', k.key_id,
      'database', k.database,
      'hash', encode(k.hash, 'hex'),
      'role', k.role,
      'label', k.label,
      'created_at', to_char(k.created_at at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
      'expires_at', to_char(k.expires_at at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
      'expires_ms', floor(extract(epoch from k.expires_at) * 1000)::bigint
    ) order by k.created_at, k.key_id), '[]')
    from cloudsync_control.keys as k),
  'nodes', (select count(*) from cloudsync_control.nodes)
)::text
