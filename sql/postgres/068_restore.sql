-- A database that was restored from a dump: attribute numbers, and with them column ids, are others where columns had
-- been dropped, and numbers of transactions mean nothing. Brought in line at the first use, by what has lasted: names.

-- What was written for tracked tables belongs to our owner also where a dump is restored without owners. Runs as whoever
-- restores: what he may not give away stays his.
create function cloudsync.take_over()
returns event_trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $take$
declare
  v_command text;
begin
  for v_command in
    select format('alter %s %s owner to cloudsync_owner', d.object_type, d.object_identity)
    from pg_event_trigger_ddl_commands() as d
    left join pg_class as c on d.classid = 'pg_class'::regclass and c.oid = d.objid
    left join pg_proc as p on d.classid = 'pg_proc'::regclass and p.oid = d.objid
    where d.schema_name = 'cloudsync' and not d.in_extension
      and coalesce(c.relowner, p.proowner) <> 'cloudsync_owner'::regrole
      and (c.relname ~ '^meta_[0-9]+$' and c.relkind = 'r' or p.proname ~ '^capture_[a-z]+_[0-9]+$')
  loop
    begin
      execute v_command;
    exception when insufficient_privilege then
      null;
    end;
  end loop;
end
$take$;

-- Overrides, each moved to the place of its column's new id; those of columns that are gone go.
create function cloudsync.moved(cols bigint[], "from" smallint[], "to" smallint[])
returns bigint[]
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $moved$
declare
  v_cols bigint[] := array_fill(null::bigint, array[2 * (select max(c) from unnest("to") as c)]);
  v_found boolean := false;
begin
  for v_at in 1 .. cardinality("from") loop
    if "to"[v_at] is not null and cols[2 * "from"[v_at] - 1] is not null then
      v_cols[2 * "to"[v_at] - 1] := cols[2 * "from"[v_at] - 1];
      v_cols[2 * "to"[v_at]] := cols[2 * "from"[v_at]];
      v_found := true;
    end if;
  end loop;
  return case when v_found then v_cols end;
end
$moved$;

-- Gives the columns of a table the ids that they have here. Returns whether one has another.
create function cloudsync.move_columns(table_id integer)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $move$
#variable_conflict use_column
declare
  v_from smallint[];
  v_to smallint[];
begin
  select array_agg(k.column_id order by k.column_id), array_agg(a.attnum order by k.column_id)
  into v_from, v_to
  from cloudsync.columns as k
  join cloudsync.tables as t on t.table_id = k.table_id
  left join pg_attribute as a on a.attrelid = t.relation and a.attname = k.name and a.attnum > 0 and not a.attisdropped
  where k.table_id = move_columns.table_id;
  if v_from = v_to then
    return false;
  end if;
  execute format(
    'update cloudsync.meta_%s as m set cols = cloudsync.moved(m.cols, $1, $2) where m.cols is not null',
    move_columns.table_id)
  using v_from, v_to;
  update cloudsync.parked as p
  set payload = cloudsync.move_parked(p.payload, v_from, v_to)
  where p.table_id = move_columns.table_id;
  delete from cloudsync.columns as k
  using unnest(v_from, v_to) as u (before, after)
  where k.table_id = move_columns.table_id and k.column_id = u.before and u.after is null;
  -- In two steps: an id may be that of another column until this one has moved as well.
  update cloudsync.columns as k set column_id = -k.column_id where k.table_id = move_columns.table_id;
  update cloudsync.columns as k
  set column_id = u.after
  from unnest(v_from, v_to) as u (before, after)
  where k.table_id = move_columns.table_id and k.column_id = -u.before;
  return true;
end
$move$;

-- Makes the registry this database's own. Tables that were not restored are forgotten.
create function cloudsync.adopt_registry()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $adopt$
declare
  v_table cloudsync.tables;
  v_moved boolean;
begin
  perform cloudsync.lock_registry();
  perform cloudsync.forget_dropped_tables();
  for v_table in select t.* from cloudsync.tables as t order by t.table_id loop
    v_moved := cloudsync.move_columns(v_table.table_id);
    if v_moved and cloudsync.is_ruled(v_table.table_id) then
      -- Registers name columns by their ids as well: such rows begin anew.
      perform cloudsync.resync_table(v_table.table_id, null);
    end if;
    update cloudsync.tables as t
    set incarnation = cloudsync.new_incarnation(),
      version = t.version + v_moved::integer,
      tracked_from = pg_current_xact_id()::text::bigint,
      suspended_since = null,
      attributes = c.relnatts,
      row_security = c.relrowsecurity
    from pg_class as c
    where t.table_id = v_table.table_id and c.oid = t.relation;
    perform cloudsync.recheck_expressions(v_table.table_id);
    if v_table.suspended is null then
      perform cloudsync.announce_table(v_table.table_id);
    end if;
  end loop;
  perform cloudsync.follow_definition(t.table_id, 0, '{}', '{}')
  from cloudsync.tables as t where cloudsync.is_changed(t);
end
$adopt$;

-- A capture function that was written for an earlier definition runs: this very statement made the registry this
-- database's own. What it wrote is found by its transaction.
create function cloudsync.capture_late(table_id integer)
returns void
language sql volatile
set search_path = pg_catalog, pg_temp
begin atomic
  select cloudsync.reload_table(capture_late.table_id, 'restored');
end;
