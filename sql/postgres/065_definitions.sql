-- Follows changes of tracked tables: the registry, metadata and the capture functions are brought to the new
-- definition by the command that changes it, so that no write fails later for a column or a name that is gone.

-- Whether a relation has another name than the registry says.
create function cloudsync.is_renamed(relation oid, tracked cloudsync.tables)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
  select (n.nspname::text, c.relname::text) <> ((is_renamed.tracked).schema_name, (is_renamed.tracked).table_name)
  from pg_class as c
  join pg_namespace as n on n.oid = c.relnamespace
  where c.oid = is_renamed.relation;
end;

-- Whether the columns or the key of a relation are others than the registry says.
create function cloudsync.has_other_columns(relation oid, tracked cloudsync.tables)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
  select exists (
    select
    from (
      select a.attnum, a.attname::text as name, a.atttypid, format_type(a.atttypid, a.atttypmod) as type_name,
        a.attcollation, k.key_position, k.equality
      from pg_attribute as a
      left join cloudsync.key_columns(has_other_columns.relation) as k on k.attnum = a.attnum
      where a.attrelid = has_other_columns.relation and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
    ) as found
    full join (
      select k.* from cloudsync.columns as k where k.table_id = (has_other_columns.tracked).table_id
    ) as known on known.column_id = found.attnum
    where (found.name, found.atttypid, found.type_name, found.key_position, found.equality)
      is distinct from (known.name, known.type_oid::oid, known.type_name, known.key_position, known.equality));
end;

-- Whether capture functions do not fit a table any more.
create function cloudsync.is_reshaped(tracked cloudsync.tables)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
  select cloudsync.is_renamed((is_reshaped.tracked).relation, is_reshaped.tracked)
    or cloudsync.has_other_columns((is_reshaped.tracked).relation, is_reshaped.tracked);
end;

-- Whether a table may differ from what the registry has.
create function cloudsync.is_changed(tracked cloudsync.tables)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
  select
    cloudsync.is_renamed(c.oid, is_changed.tracked)
    or c.relnatts <> (is_changed.tracked).attributes
    or c.relrowsecurity <> (is_changed.tracked).row_security
    or (is_changed.tracked).suspended is null and (
      cloudsync.renamed_expression(c.oid, (is_changed.tracked).scope_tree),
      cloudsync.renamed_expression(c.oid, (is_changed.tracked).filter_tree)
    ) is distinct from ((is_changed.tracked).scope_expression, (is_changed.tracked).filter_expression)
    or cloudsync.refusal(c.oid) is distinct from (is_changed.tracked).suspended
    or (is_changed.tracked).suspended is null and cloudsync.has_other_columns(c.oid, is_changed.tracked)
  from pg_class as c
  where c.oid = (is_changed.tracked).relation;
end;

-- Brings the registry's columns to what the table has now. What was set for a column stays.
create function cloudsync.refresh_columns(table_id integer)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $refresh$
#variable_conflict use_column
begin
  delete from cloudsync.columns as k
  using cloudsync.tables as t
  where t.table_id = refresh_columns.table_id and k.table_id = t.table_id
    and not exists (select from pg_attribute as a
                    where a.attrelid = t.relation and a.attnum = k.column_id and not a.attisdropped
                      and a.attgenerated = '');
  delete from cloudsync.too_large as l
  where l.table_id = refresh_columns.table_id
    and not exists (select from cloudsync.columns as k where k.table_id = l.table_id and k.column_id = l.column_id);
  update cloudsync.table_settings as s
  set column_name = a.attname
  from cloudsync.columns as k
  join cloudsync.tables as t on t.table_id = k.table_id
  join pg_attribute as a on a.attrelid = t.relation and a.attnum = k.column_id and a.attname <> k.name
  where k.table_id = refresh_columns.table_id and s.table_id = k.table_id and s.column_name = k.name;
  insert into cloudsync.columns (table_id, column_id, name, type_name, type_oid, key_position, equality)
  select t.table_id, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod), a.atttypid, k.key_position, k.equality
  from cloudsync.tables as t
  join pg_attribute as a on a.attrelid = t.relation
  left join cloudsync.key_columns(t.relation) as k on k.attnum = a.attnum
  where t.table_id = refresh_columns.table_id
    and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
  on conflict (table_id, column_id) do update
  set name = excluded.name, type_name = excluded.type_name, type_oid = excluded.type_oid,
    key_position = excluded.key_position, equality = excluded.equality;
  update cloudsync.tables as t
  set attributes = c.relnatts, row_security = c.relrowsecurity
  from pg_class as c
  where t.table_id = refresh_columns.table_id and c.oid = t.relation;
end
$refresh$;

-- Whether a table has rows.
create function cloudsync.has_rows(table_id integer)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $rows$
declare
  v_found boolean;
begin
  execute format('select exists (select from %s as d)', cloudsync.table_scan(has_rows.table_id)) into v_found;
  return v_found;
end
$rows$;

-- Stops, with the reason, where one of our preconditions went away that the table's owner has to give.
create function cloudsync.check_reach(relation regclass)
returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $reach$
begin
  if not has_schema_privilege('cloudsync_owner', c.relnamespace, 'usage')
  from pg_class as c where c.oid = check_reach.relation then
    raise exception 'cloudsync_owner may not use the schema of table %', check_reach.relation
      using errcode = 'insufficient_privilege', hint = 'Grant it USAGE on that schema before.';
  end if;
end
$reach$;

-- Takes the notes of transactions whose writes to a table were not captured: the oldest of them. Those that are still
-- running made theirs for the next time.
create function cloudsync.uncaptured_since(table_id integer)
returns xid8
language sql volatile
set search_path = pg_catalog, pg_temp
begin atomic
  with noted as (
    delete from cloudsync.uncaptured as u where u.table_id = uncaptured_since.table_id returning u.written_by
  )
  select n.written_by from noted as n order by n.written_by limit 1;
end;

-- Makes up for them. A suspended table is looked at when it is back.
create function cloudsync.make_up(table_id integer, since xid8)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $make$
begin
  if since is null or exists (
    select from cloudsync.tables as t where t.table_id = make_up.table_id and t.suspended is not null
  ) then
    return;
  end if;
  perform cloudsync.resync_table(make_up.table_id, since);
  perform cloudsync.emit_reload(t.table_id, 'capture was suspended')
  from cloudsync.tables as t where t.table_id = make_up.table_id and t.enabled;
end
$make$;

-- Brings one table's registration to its present definition. `rewritten` says why the table was rewritten (0: it was
-- not), `cast` and `computed` which columns were given another type, by a cast or by an expression.
create function cloudsync.follow_definition(table_id integer, rewritten integer, "cast" smallint[], computed smallint[])
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $follow$
#variable_conflict use_column
declare
  v_table cloudsync.tables;
  v_refusal text;
  v_types jsonb;
  v_key smallint[] := cloudsync.known_key(follow_definition.table_id);
  v_operators text[];
  v_stamped smallint[];
  v_reason text;
  v_since xid8 := cloudsync.uncaptured_since(follow_definition.table_id);
begin
  select t.* into strict v_table from cloudsync.tables as t where t.table_id = follow_definition.table_id;
  perform cloudsync.check_reach(v_table.relation);
  v_refusal := cloudsync.refusal(v_table.relation);
  -- The registry comes first: our own commands below are looked at too, and then find nothing to follow.
  update cloudsync.tables as t
  set version = t.version + 1, schema_name = n.nspname, table_name = c.relname,
    client_name = cloudsync.client_name(n.nspname, c.relname),
    suspended = v_refusal, suspended_since = case when v_refusal is not null then coalesce(t.suspended_since, v_since) end
  from pg_class as c
  join pg_namespace as n on n.oid = c.relnamespace
  where t.table_id = v_table.table_id and c.oid = v_table.relation;
  if v_refusal is not null then
    perform cloudsync.suspend_table(v_table.table_id, v_refusal);
    if v_refusal is distinct from v_table.suspended then
      raise warning 'changes of table % are not synced any more: %', v_table.relation, v_refusal
        using hint = 'Capture goes on by itself when that has changed.';
    end if;
    return;
  end if;
  select jsonb_object_agg(k.column_id, k.type_oid::oid::bigint),
    array_agg(k.equality order by k.key_position) filter (where k.key_position is not null)
  into v_types, v_operators
  from cloudsync.columns as k where k.table_id = v_table.table_id;
  perform cloudsync.refresh_columns(v_table.table_id);
  perform cloudsync.follow_expressions(v_table.table_id);
  if v_key is distinct from cloudsync.known_key(v_table.table_id) or not cloudsync.key_fits(v_table.table_id)
     or v_key && follow_definition.computed then
    v_reason := 'primary key';
    update cloudsync.tables as t set incarnation = cloudsync.new_incarnation() where t.table_id = v_table.table_id;
    perform cloudsync.rekey_table(
      v_table.table_id, case when v_key && follow_definition.computed then null else v_key end, v_operators);
  end if;
  if v_table.suspended is not null then
    perform cloudsync.recapture_table(
      v_table.table_id, v_table.suspended_since, coalesce(v_reason, 'capture was suspended'));
    return;
  end if;
  perform cloudsync.announce_table(v_table.table_id);
  if follow_definition.rewritten & 4 <> 0 then
    v_stamped := cloudsync.changed_values(
      v_table.table_id, v_types, follow_definition."cast", follow_definition.computed);
    if cardinality(v_stamped) > 0 then
      v_reason := coalesce(v_reason, 'type');
      perform cloudsync.restamp_columns(v_table.table_id, v_stamped);
    end if;
  end if;
  if v_reason is null
     and cloudsync.has_new_values(v_table.table_id, v_types, v_table.attributes, follow_definition.rewritten) then
    v_reason := 'new column';
  end if;
  -- Who may be served has changed, unless scopes say it.
  if v_reason is null and v_table.scope_expression is null and exists (
    select from cloudsync.tables as t
    where t.table_id = v_table.table_id and t.row_security <> v_table.row_security
  ) then
    v_reason := 'row security';
  end if;
  if v_since is not null then
    perform cloudsync.make_up(v_table.table_id, v_since);
  elsif v_reason is not null and v_table.enabled and cloudsync.has_rows(v_table.table_id) then
    perform cloudsync.emit_reload(v_table.table_id, v_reason);
  end if;
exception when unique_violation then
  raise exception 'table % cannot have this name: another tracked table has it', v_table.relation
    using errcode = 'duplicate_table';
end
$follow$;

-- The same for a change that no event trigger told of: what it did to values is told from the types.
create function cloudsync.follow_late(table_id integer)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $follow$
declare
  v_cast smallint[] := (
    select coalesce(array_agg(k.column_id order by k.column_id), '{}')
    from cloudsync.columns as k
    join cloudsync.tables as t on t.table_id = k.table_id
    join pg_attribute as a on a.attrelid = t.relation and a.attnum = k.column_id and not a.attisdropped
    where k.table_id = follow_late.table_id
      and (
        a.atttypid <> k.type_oid::oid
        -- Another length or precision, and not another name of the type.
        or format_type(a.atttypid, a.atttypmod) <> k.type_name
          and format_type(a.atttypid, null) = regexp_replace(k.type_name, '\([^)]*\)', '')
      ));
begin
  perform cloudsync.follow_definition(
    follow_late.table_id, 2 | case when cardinality(v_cast) > 0 then 4 else 0 end, v_cast, '{}');
end
$follow$;

-- Follows the tables whose writes were not captured, and makes up for those. Returns how many there were.
create function cloudsync.catch_up()
returns integer
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $catch$
declare
  v_table cloudsync.tables;
  v_count integer := 0;
begin
  if not exists (select from cloudsync.uncaptured) then
    return 0;
  end if;
  perform cloudsync.lock_registry();
  for v_table in
    select t.* from cloudsync.tables as t
    where exists (select from cloudsync.uncaptured as u where u.table_id = t.table_id)
      and exists (select from pg_class as c where c.oid = t.relation)
    order by t.table_id
  loop
    if cloudsync.is_changed(v_table) then
      perform cloudsync.follow_late(v_table.table_id);
    else
      perform cloudsync.make_up(v_table.table_id, cloudsync.uncaptured_since(v_table.table_id));
    end if;
    v_count := v_count + 1;
  end loop;
  return v_count;
end
$catch$;

-- Columns beside the key whose values a command computed anew. Wider integers are the same values; a rewrite without
-- a column that has another type is one that we know nothing of.
create function cloudsync.changed_values(table_id integer, types jsonb, "cast" smallint[], computed smallint[])
returns smallint[]
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
  select coalesce(array_agg(k.column_id order by k.column_id), '{}')
  from cloudsync.columns as k
  where k.table_id = changed_values.table_id and k.key_position is null
    and changed_values.types ? k.column_id::text
    and (
      k.column_id = any (changed_values.computed)
      or cardinality(changed_values.computed || changed_values."cast") = 0
      or k.column_id = any (changed_values."cast")
        and ((changed_values.types ->> k.column_id::text)::oid, k.type_oid::oid) not in (
          ('int2'::regtype, 'int4'::regtype), ('int2'::regtype, 'int8'::regtype), ('int4'::regtype, 'int8'::regtype))
    );
end;

-- Whether columns that were not there before may have values: a default without rewriting, one with it, or a
-- generated column that became a plain one.
create function cloudsync.has_new_values(table_id integer, types jsonb, attributes smallint, rewritten integer)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
  select exists (
    select
    from cloudsync.columns as k
    join cloudsync.tables as t on t.table_id = k.table_id
    join pg_attribute as a on a.attrelid = t.relation and a.attnum = k.column_id
    where k.table_id = has_new_values.table_id and not has_new_values.types ? k.column_id::text
      and (a.atthasmissing or has_new_values.rewritten <> 0 or k.column_id <= has_new_values.attributes)
  );
end;

-- Notes that the running command rewrites a tracked table.
create function cloudsync.note_rewrite()
returns event_trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $note$
begin
  insert into cloudsync.rewritten (table_id, reason)
  select t.table_id, pg_event_trigger_table_rewrite_reason()
  from cloudsync.tables as t
  where t.relation in (
    select pg_event_trigger_table_rewrite_oid()
    union all
    select a.relid from pg_partition_ancestors(pg_event_trigger_table_rewrite_oid()) as a (relid));
end
$note$;

create function cloudsync.follow_definitions()
returns event_trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $follow$
declare
  v_done integer[] := '{}';
  v_rewritten jsonb;
  v_table record;
begin
  -- A dump is being restored: the registry is brought to it at its first use.
  if not exists (select from cloudsync.tables) or cloudsync.is_restored() then
    return;
  end if;
  with noted as (
    delete from cloudsync.rewritten as r returning r.table_id, r.reason
  )
  select jsonb_object_agg(n.table_id, n.reason) into v_rewritten
  from (select noted.table_id, bit_or(noted.reason) as reason from noted group by noted.table_id) as n;
  if exists (select from cloudsync.tables as t where not exists (select from pg_class as c where c.oid = t.relation)) then
    perform cloudsync.lock_registry();
    perform cloudsync.forget_dropped_tables();
  end if;
  -- One at a time: our own commands come here too, and may have followed the next one already.
  loop
    select t.table_id, coalesce((v_rewritten ->> t.table_id::text)::integer, 0) as rewritten,
      coalesce(array_agg(c.number) filter (where not c.computed), '{}') as "cast",
      coalesce(array_agg(c.number) filter (where c.computed), '{}') as computed,
      v_rewritten ? t.table_id::text or t.relation in (
        select d.objid from pg_event_trigger_ddl_commands() as d where d.command_tag = 'ALTER TABLE') as is_named
    into v_table
    from cloudsync.tables as t
    left join (
      select d.objid, false as computed, unnest(cloudsync.retyped_columns(d.command, false)) as number
      from pg_event_trigger_ddl_commands() as d where d.command_tag = 'ALTER TABLE'
      union all
      select d.objid, true, unnest(cloudsync.retyped_columns(d.command, true))
      from pg_event_trigger_ddl_commands() as d where d.command_tag = 'ALTER TABLE'
    ) as c on c.objid = t.relation
    where t.table_id <> all (v_done)
      and (v_rewritten ? t.table_id::text or cloudsync.is_changed(t))
    group by t.table_id
    order by t.table_id
    limit 1;
    exit when not found;
    v_done := v_done || v_table.table_id;
    perform cloudsync.lock_registry();
    if v_table.is_named then
      perform cloudsync.follow_definition(v_table.table_id, v_table.rewritten, v_table."cast", v_table.computed);
    else
      perform cloudsync.follow_late(v_table.table_id);
    end if;
  end loop;
  perform cloudsync.catch_up();
end
$follow$;
