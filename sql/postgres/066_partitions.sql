-- Follows the partitions of tracked tables: a new one gets our triggers by the command that makes or attaches it, one
-- that goes loses them. Rows that come or go with a partition were told by no trigger, so they are stamped here, and
-- clients fetch the table again.

-- What the role has to run: triggers that are missing on partitions, and triggers that stand on former ones; also the
-- right to read that our owner lacks where a dump was restored without rights, but not while it is being restored. Where
-- the role is not the owner, nothing is said: its own commands shall not fail for the tables of others. ALTER TABLE
-- comes last, because it sets off this event trigger again.
create function cloudsync.partition_commands(for_role name)
returns setof text
language sql stable security definer
set search_path = pg_catalog, pg_temp
begin atomic
  select w.command
  from (
    select m.relation, c.place, c.command
    from cloudsync.tables as t
    join pg_class as r on r.oid = t.relation and r.relkind = 'p'
    cross join lateral cloudsync.members(t.relation) as m
    cross join lateral cloudsync.trigger_commands(t.table_id, m.relation, m.is_leaf) as c
    where cloudsync.partition_refusal(m.relation) is null
      and not exists (
        select
        from pg_trigger as g
        join pg_proc as p on p.oid = g.tgfoid
        where g.tgrelid = m.relation and g.tgname = 'cloudsync_insert'
          and p.proname = 'capture' and p.pronamespace = 'cloudsync'::regnamespace
          and g.tgargs = convert_to(t.table_id::text, 'UTF8') || '\x00'::bytea)
    union all
    select f.relation, 0, d.command
    from (
      select distinct g.tgrelid as relation
      from pg_trigger as g
      join pg_proc as p on p.oid = g.tgfoid
      where p.pronamespace = 'cloudsync'::regnamespace and g.tgname = 'cloudsync_insert'
        and exists (select from cloudsync.partitions)
        and not exists (select from cloudsync.tables as t where t.relation = coalesce(pg_partition_root(g.tgrelid), g.tgrelid))
    ) as f
    cross join lateral cloudsync.release_commands(f.relation) as d (command)
    union all
    select t.relation, c.place, c.command
    from cloudsync.tables as t
    join pg_class as r on r.oid = t.relation
    join pg_namespace as n on n.oid = r.relnamespace
    cross join lateral cloudsync.trigger_commands(t.table_id, t.relation, false) as c
    where c.place = 0 and not cloudsync.is_restored()
      and has_schema_privilege('cloudsync_owner', n.oid, 'usage')
  ) as w
  join pg_class as r on r.oid = w.relation
  where pg_has_role(partition_commands.for_role, r.relowner, 'usage')
  order by w.place, w.relation;
end;

-- Runs as whoever changes a table: only its owner may put triggers on it.
create function cloudsync.attach_partitions()
returns event_trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $attach$
declare
  v_command text;
begin
  for v_command in select c from cloudsync.partition_commands(current_user) as c loop
    execute v_command;
  end loop;
end
$attach$;

-- Stamps the rows of a partition that came, where there is metadata of them: deleted or changed since, they are as
-- created now. Returns whether it has rows.
create function cloudsync.stamp_partition(table_id integer, relation regclass)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $stamp$
declare
  v_schema name;
  v_name name;
  v_filled boolean;
begin
  select n.nspname, c.relname into strict v_schema, v_name
  from pg_class as c
  join pg_namespace as n on n.oid = c.relnamespace
  where c.oid = stamp_partition.relation;
  if not cloudsync.hold_relation(stamp_partition.relation, v_schema, v_name) then
    raise exception 'partition % was renamed meanwhile', stamp_partition.relation
      using errcode = 'serialization_failure';
  end if;
  execute format('select exists (select from only %I.%I)', v_schema, v_name) into v_filled;
  if v_filled then
    execute format(
      'update cloudsync.meta_%1$s as m set alive = true, hlc = greatest($1, 1 + %2$s), site = $2, cols = null '
      'from only %3$I.%4$I as d where %5$s',
      stamp_partition.table_id,
      cloudsync.spell_greatest(stamp_partition.table_id),
      v_schema,
      v_name,
      cloudsync.spell(stamp_partition.table_id, true, 'd.{name} {eq} m.key_{n}', ' and '))
    using cloudsync.wall(), cloudsync.self_ordinal();
  end if;
  return v_filled;
end
$stamp$;

-- Makes deletions of the rows that went with partitions of a table. A suspended one is looked at when it is back.
create function cloudsync.bury_partitions(table_id integer)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $bury$
declare
  v_table cloudsync.tables;
begin
  select t.* into v_table
  from cloudsync.tables as t
  join pg_class as c on c.oid = t.relation
  where t.table_id = bury_partitions.table_id and t.suspended is null;
  if not found then
    return;
  end if;
  if not cloudsync.hold_relation(v_table.relation, v_table.schema_name, v_table.table_name) then
    raise exception 'table % was renamed while event triggers were off, call cloudsync_init again', v_table.relation
      using errcode = 'object_not_in_prerequisite_state';
  end if;
  perform cloudsync.bury_missing(bury_partitions.table_id);
end
$bury$;

-- Compares the partitions with those that are known, after their triggers were put up.
create function cloudsync.follow_partitions()
returns event_trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $follow$
declare
  v_changed record;
  v_refusal text;
  v_tables integer[] := '{}';
  v_shrunk integer[] := '{}';
begin
  -- A dump is being restored: the registry is brought to it at its first use.
  if not exists (select from cloudsync.partitions union all
                 select from cloudsync.tables as t join pg_class as c on c.oid = t.relation where c.relkind = 'p')
     or cloudsync.is_restored() then
    return;
  end if;
  for v_changed in
    select coalesce(f.table_id, k.table_id) as table_id, f.relation as found, k.relation as known, f.is_leaf,
      f.suspended
    from (
      select t.table_id, m.relation, m.is_leaf, t.suspended is not null as suspended
      from cloudsync.tables as t
      join pg_class as c on c.oid = t.relation and c.relkind = 'p'
      cross join lateral cloudsync.members(t.relation) as m
      where m.relation <> t.relation
    ) as f
    full join cloudsync.partitions as k on k.relation = f.relation and k.table_id = f.table_id
    where f.relation is null or k.relation is null
  loop
    if v_changed.found is null then
      delete from cloudsync.partitions as p where p.relation = v_changed.known;
      v_shrunk := v_shrunk || v_changed.table_id;
      continue;
    end if;
    v_refusal := cloudsync.partition_refusal(v_changed.found);
    if v_refusal is not null then
      raise exception '% cannot be a partition of a synced table: it %', v_changed.found, v_refusal
        using errcode = 'feature_not_supported';
    end if;
    insert into cloudsync.partitions as p (relation, table_id)
    values (v_changed.found, v_changed.table_id)
    on conflict (relation) do update set table_id = excluded.table_id;
    if v_changed.is_leaf and not v_changed.suspended and cloudsync.stamp_partition(v_changed.table_id, v_changed.found) then
      v_tables := v_tables || v_changed.table_id;
    end if;
  end loop;
  perform cloudsync.bury_partitions(s.table_id) from (select distinct unnest(v_shrunk) as table_id) as s;
  perform cloudsync.emit_reload(t.table_id, 'partition')
  from cloudsync.tables as t
  where t.table_id = any (v_tables || v_shrunk) and t.enabled and t.suspended is null and exists (select from pg_class as c where c.oid = t.relation);
end
$follow$;
