-- Registering a table. Called by the library as the owner; what needs the rights of the
-- table's owner (triggers, the grant) the library does as the caller, by `attach_commands`.

-- The relations whose triggers see the writes to a table: itself, and every partition of every level.
create function cloudsync.members(relation regclass)
returns table (relation regclass, is_leaf boolean)
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
  select members.relation, c.relkind = 'r'
  from pg_class as c
  where c.oid = members.relation
  union all
  select p.relid, p.isleaf
  from pg_partition_tree(members.relation) as p
  where p.relid <> members.relation;
end;

-- Says why writes to a partition cannot be captured, or nothing.
create function cloudsync.partition_refusal(relation regclass)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
  select case when c.relpersistence <> 'p' then 'is unlogged, so its changes are not in the log' end
  from pg_class as c
  where c.oid = partition_refusal.relation;
end;

-- Says why a table cannot be tracked, or nothing.
create function cloudsync.refusal(relation regclass)
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $refusal$
declare
  v_class pg_class;
  v_key record;
begin
  select c.* into strict v_class from pg_class as c where c.oid = refusal.relation;
  if getdatabaseencoding() <> 'UTF8' then
    return format('the database is encoded in %s, only UTF8 can be synced', getdatabaseencoding());
  elsif v_class.relkind in ('v', 'm') then
    return 'it is a view';
  elsif v_class.relispartition then
    return format('it is a partition, track %s as a whole', pg_partition_root(refusal.relation));
  elsif v_class.relkind not in ('r', 'p') then
    return 'it is not a table';
  elsif v_class.relpersistence <> 'p' then
    return 'it is temporary or unlogged, so its changes are not in the log';
  elsif v_class.relnamespace in ('pg_catalog'::regnamespace, 'cloudsync'::regnamespace) then
    return 'it belongs to the system';
  elsif v_class.relkind = 'r'
        and exists (select from pg_inherits as i where refusal.relation in (i.inhrelid, i.inhparent)) then
    return 'it inherits from a table or is inherited from, so its rows and keys are not its own';
  elsif not exists (select from pg_index as i where i.indrelid = refusal.relation and i.indisprimary) then
    return 'it has no primary key';
  elsif (select count(*) from pg_attribute as a
         where a.attrelid = refusal.relation and a.attnum > 0 and not a.attisdropped) > 1000 then
    return 'it has more than 1,000 columns';
  end if;
  select m.relation as name, cloudsync.partition_refusal(m.relation) as refusal into v_key
  from cloudsync.members(refusal.relation) as m
  where cloudsync.partition_refusal(m.relation) is not null
  limit 1;
  if found then
    return format('its partition %s %s', v_key.name, v_key.refusal);
  end if;
  select a.attname as name, format_type(a.atttypid, a.atttypmod) as type_name into v_key
  from cloudsync.key_columns(refusal.relation) as k
  join pg_attribute as a on a.attrelid = refusal.relation and a.attnum = k.attnum
  where not k.bytewise
  limit 1;
  if found then
    return format(
      'key column %I of type %s has values that are equal but not identical', v_key.name, v_key.type_name);
  end if;
  return null;
end
$refusal$;

-- The key columns in order, whether equal values are identical bytes (then the operator
-- family says so, as for deduplication in indexes), and the operator that compares them.
create function cloudsync.key_columns(relation regclass)
returns table (key_position smallint, attnum smallint, bytewise boolean, equality text)
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
  select
    u.place::smallint,
    u.attnum,
    exists (
      select from pg_amproc as p
      where p.amprocfamily = o.opcfamily and p.amprocnum = 4
        and p.amproclefttype = o.opcintype and p.amprocrighttype = o.opcintype
    ) and o.opcintype <> 'bpchar'::regtype
      and not exists (select from pg_collation as l where l.oid = u.collation_oid and not l.collisdeterministic),
    (
      select format('operator(%I.%s)', n.nspname, e.oprname)
      from pg_amop as a
      join pg_operator as e on e.oid = a.amopopr
      join pg_namespace as n on n.oid = e.oprnamespace
      where a.amopfamily = o.opcfamily and a.amopstrategy = 3
        and a.amoplefttype = o.opcintype and a.amoprighttype = o.opcintype
    )
  from pg_index as i
  cross join unnest(i.indkey::smallint[], i.indclass::oid[], i.indcollation::oid[])
    with ordinality as u (attnum, opclass_oid, collation_oid, place)
  join pg_opclass as o on o.oid = u.opclass_oid
  where i.indrelid = key_columns.relation and i.indisprimary and u.place <= i.indnkeyatts;
end;

-- Makes the metadata table: the key as the table has it, and one row of stamps.
create function cloudsync.create_metadata(table_id integer)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $metadata$
declare
  v_keys text;
begin
  select string_agg(
    format(
      'key_%s %s%s not null', k.key_position, format_type(a.atttypid, a.atttypmod),
      case when a.attcollation <> 0 then
        (select format(' collate %I.%I', n.nspname, l.collname)
         from pg_collation as l
         join pg_namespace as n on n.oid = l.collnamespace
         where l.oid = a.attcollation)
      end),
    ', ' order by k.key_position) into v_keys
  from cloudsync.tables as t
  cross join lateral cloudsync.key_columns(t.relation) as k
  join pg_attribute as a on a.attrelid = t.relation and a.attnum = k.attnum
  where t.table_id = create_metadata.table_id;
  execute format(
    'create table cloudsync.meta_%1$s (%2$s, alive boolean not null, hlc bigint not null, '
    'site integer not null, cols bigint[]%4$s%5$s, primary key (%3$s)) with (fillfactor = 80)',
    create_metadata.table_id, v_keys,
    cloudsync.spell(create_metadata.table_id, true, 'key_{n}', ', '),
    case when cloudsync.is_ruled(create_metadata.table_id) then ', registers bytea' else '' end,
    -- Of rows that are gone: who read them last.
    cloudsync.where_audience(create_metadata.table_id, ', scopes text[]'));
end
$metadata$;

-- The functions that were written for a table.
create function cloudsync.capture_functions(table_id integer)
returns setof regprocedure
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
  select p.oid::regprocedure
  from pg_proc as p
  where p.pronamespace = 'cloudsync'::regnamespace and p.prorettype = 'trigger'::regtype
    and p.proname ~ format('^capture_.*_%s$', capture_functions.table_id);
end;

-- Names one registration of a table among all that ever had its number.
create function cloudsync.new_incarnation()
returns bigint
language sql volatile
set search_path = pg_catalog, pg_temp
begin atomic
  select ('x' || encode(substr(sha256(uuid_send(gen_random_uuid())), 1, 8), 'hex'))::bit(64)::bigint;
end;

-- One change of the registry at a time.
create function cloudsync.lock_registry()
returns void
language sql volatile
set search_path = pg_catalog, pg_temp
begin atomic
  select pg_advisory_xact_lock(hashtextextended('cloudsync registry', 0));
end;

-- Takes a table out of the registry, with what was made for it.
create function cloudsync.forget_table(table_id integer)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $forget$
declare
  v_function regprocedure;
begin
  delete from cloudsync.tables as t where t.table_id = forget_table.table_id;
  if not found then
    -- Event triggers saw the command that dropped another one, and were faster.
    return;
  end if;
  delete from cloudsync.columns as k where k.table_id = forget_table.table_id;
  delete from cloudsync.partitions as p where p.table_id = forget_table.table_id;
  delete from cloudsync.parked as p where p.table_id = forget_table.table_id;
  delete from cloudsync.conflicts as c where c.table_id = forget_table.table_id;
  delete from cloudsync.table_settings as s where s.table_id = forget_table.table_id;
  delete from cloudsync.too_large as l where l.table_id = forget_table.table_id;
  delete from cloudsync.horizons as h where h.table_id = forget_table.table_id;
  delete from cloudsync.uncaptured as u where u.table_id = forget_table.table_id;
  for v_function in select f from cloudsync.capture_functions(forget_table.table_id) as f loop
    execute format('drop function %s', v_function);
  end loop;
  execute format('drop table cloudsync.meta_%s', forget_table.table_id);
end
$forget$;

-- Takes tables out of the registry that were dropped, and tells the clients: what comes after this is without them.
create function cloudsync.forget_dropped_tables()
returns void
language sql
set search_path = pg_catalog, pg_temp
begin atomic
  select cloudsync.emit_reload(t.table_id, 'dropped')
  from cloudsync.tables as t
  where t.enabled and not exists (select from pg_class as c where c.oid = t.relation);
  select cloudsync.forget_table(t.table_id)
  from cloudsync.tables as t
  where not exists (select from pg_class as c where c.oid = t.relation);
end;

-- Writes the capture functions for the definition in the registry, and tells the clients of it.
create function cloudsync.announce_table(table_id integer)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $announce$
declare
  v_operation text;
begin
  -- Nothing is captured of a suspended table: its functions stay empty.
  if not exists (
    select from cloudsync.tables as t where t.table_id = announce_table.table_id and t.suspended is not null
  ) then
    foreach v_operation in array array['insert', 'update', 'delete', 'row'] loop
      perform cloudsync.create_capture_function(announce_table.table_id, v_operation);
    end loop;
    perform cloudsync.create_truncate_function(announce_table.table_id);
  end if;
  perform cloudsync.emit_definition(announce_table.table_id);
end
$announce$;

-- Registers a table, or brings the registration to its present definition. Returns its id.
create function cloudsync.register_table(relation regclass, algorithm text)
returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
as $register$
#variable_conflict use_column
declare
  v_refusal text := cloudsync.refusal(register_table.relation);
  v_table cloudsync.tables;
  v_name name;
  v_schema name;
  v_new boolean;
begin
  if register_table.algorithm is not null and cloudsync.table_algorithm_code(register_table.algorithm) is null then
    raise exception 'table algorithm % is not known, use cls, gos, dws or aws', quote_literal(register_table.algorithm)
      using errcode = 'invalid_parameter_value';
  end if;
  if v_refusal is not null then
    raise exception 'table % cannot be tracked: %', register_table.relation, v_refusal
      using errcode = 'feature_not_supported';
  end if;
  select c.relname, n.nspname into strict v_name, v_schema
  from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
  where c.oid = register_table.relation;
  perform cloudsync.lock_registry();
  perform cloudsync.forget_dropped_tables();
  -- Whose database this is, so that a restored one is told from it.
  perform cloudsync.self_ordinal();
  select t.* into v_table from cloudsync.tables as t where t.relation = register_table.relation;
  v_new := not found;
  if exists (select from cloudsync.tables as t
             where t.client_name = cloudsync.client_name(v_schema, v_name) and t.relation <> register_table.relation) then
    raise exception 'table % cannot be tracked: another tracked table has the name %', register_table.relation, v_name
      using errcode = 'duplicate_table',
        hint = 'Say which of them clients mean, by cloudsync_set_schema or cloudsync_set_table_schema.';
  end if;
  if not v_new then
    if register_table.algorithm is not null then
      perform cloudsync.change_table_algorithm(v_table.table_id, register_table.algorithm);
      select t.* into v_table from cloudsync.tables as t where t.table_id = v_table.table_id;
    end if;
    if cloudsync.is_changed(v_table) then
      perform cloudsync.follow_late(v_table.table_id);
    end if;
    perform cloudsync.catch_up();
    return v_table.table_id;
  end if;
  insert into cloudsync.tables (relation, schema_name, table_name, client_name, incarnation, version, algorithm)
  values (register_table.relation, v_schema, v_name, cloudsync.client_name(v_schema, v_name),
    cloudsync.new_incarnation(), 1,
    coalesce(cloudsync.table_algorithm_code(register_table.algorithm), 0::smallint))
  returning * into v_table;
  insert into cloudsync.partitions (relation, table_id)
  select m.relation, v_table.table_id
  from cloudsync.members(register_table.relation) as m
  where m.relation <> register_table.relation
  on conflict (relation) do update set table_id = excluded.table_id;
  perform cloudsync.refresh_columns(v_table.table_id);
  perform cloudsync.create_metadata(v_table.table_id);
  perform cloudsync.make_registers(v_table.table_id);
  perform cloudsync.announce_table(v_table.table_id);
  if cloudsync.has_rows(v_table.table_id) then
    perform cloudsync.emit_reload(v_table.table_id, 'init');
  end if;
  return v_table.table_id;
end
$register$;

-- What the owner of a table or of one of its partitions has to run so that writes to it are captured. Statements are
-- told from their transition tables. The worker of a subscription and a restore write in replica mode, where such
-- triggers do not fire: there, each row is told. TRUNCATE is told in every mode.
create function cloudsync.trigger_commands(table_id integer, relation regclass, is_leaf boolean)
returns table (place integer, command text)
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
  select c.place, format(c.command, trigger_commands.table_id, n.nspname, r.relname)
  from pg_class as r
  join pg_namespace as n on n.oid = r.relnamespace
  cross join (
    values
      (1, true, 'create or replace trigger cloudsync_insert after insert on %2$I.%3$I '
          'referencing new table as cloudsync_new '
          'for each statement execute function cloudsync.capture(%1$s)'),
      (2, true, 'create or replace trigger cloudsync_update after update on %2$I.%3$I '
          'referencing old table as cloudsync_old new table as cloudsync_new '
          'for each statement execute function cloudsync.capture(%1$s)'),
      (3, true, 'create or replace trigger cloudsync_delete after delete on %2$I.%3$I '
          'referencing old table as cloudsync_old '
          'for each statement execute function cloudsync.capture(%1$s)'),
      (4, false, 'create or replace trigger cloudsync_row after insert or update or delete on %2$I.%3$I '
          'for each row execute function cloudsync.capture_row_%1$s()'),
      (5, false, 'create or replace trigger cloudsync_truncate before truncate on %2$I.%3$I '
          'for each statement execute function cloudsync.capture_truncate_%1$s()'),
      (6, false, 'alter table %2$I.%3$I enable replica trigger cloudsync_row, '
          'enable always trigger cloudsync_truncate')
  ) as c (place, everywhere, command)
  where r.oid = trigger_commands.relation
    and (c.everywhere or trigger_commands.is_leaf)
  union all
  select 0, format('grant usage on schema %I to cloudsync_owner', n.nspname)
  from pg_class as r
  join pg_namespace as n on n.oid = r.relnamespace
  where r.oid = trigger_commands.relation and not has_schema_privilege('cloudsync_owner', n.oid, 'usage')
  union all
  select 0, format('grant select on table %I.%I to cloudsync_owner', n.nspname, r.relname)
  from pg_class as r
  join pg_namespace as n on n.oid = r.relnamespace
  where r.oid = trigger_commands.relation and not has_table_privilege('cloudsync_owner', r.oid, 'select');
end;

-- The commands for a tracked table with all its partitions. ALTER TABLE comes last: it sets off event triggers of
-- ours, which then find nothing left to do.
create function cloudsync.attach_commands(table_id integer)
returns setof text
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
  select c.command
  from cloudsync.tables as t
  cross join lateral cloudsync.members(t.relation) as m
  cross join lateral cloudsync.trigger_commands(t.table_id, m.relation, m.is_leaf) as c
  where t.table_id = attach_commands.table_id
  order by c.place, m.relation;
end;

-- What takes our triggers and our right from a relation.
create function cloudsync.release_commands(relation regclass)
returns setof text
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
  select format('drop trigger %I on %I.%I', g.tgname, n.nspname, r.relname)
  from pg_class as r
  join pg_namespace as n on n.oid = r.relnamespace
  join pg_trigger as g on g.tgrelid = r.oid
  join pg_proc as p on p.oid = g.tgfoid
  where r.oid = release_commands.relation
    and p.pronamespace = 'cloudsync'::regnamespace
    and g.tgname in ('cloudsync_insert', 'cloudsync_update', 'cloudsync_delete', 'cloudsync_row', 'cloudsync_truncate')
  union all
  select format('revoke select on table %I.%I from cloudsync_owner', n.nspname, r.relname)
  from pg_class as r
  join pg_namespace as n on n.oid = r.relnamespace
  where r.oid = release_commands.relation;
end;

-- The same for a table with all its partitions.
create function cloudsync.detach_commands(relation regclass)
returns setof text
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
  select c.command
  from cloudsync.members(detach_commands.relation) as m
  cross join lateral cloudsync.release_commands(m.relation) as c (command);
end;

-- Forgets a table, after its triggers are gone, and tells the clients: what comes after this is without it.
create function cloudsync.unregister_table(relation regclass)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $unregister$
#variable_conflict use_column
declare
  v_table_id integer;
begin
  select t.table_id into v_table_id from cloudsync.tables as t where t.relation = unregister_table.relation;
  if not found then
    raise exception 'table % is not tracked', unregister_table.relation using errcode = 'undefined_table';
  end if;
  perform cloudsync.emit_reload(t.table_id, 'dropped')
  from cloudsync.tables as t where t.table_id = v_table_id and t.enabled;
  perform cloudsync.forget_table(v_table_id);
end
$unregister$;
