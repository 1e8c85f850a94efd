-- The trigger functions of a tracked table: written anew when its definition changes.

-- Whether a capture function still fits its table: not, after a command that was not followed because event triggers
-- were off. A name in the function could then mean something else than at its writing, and a view of that name would run
-- its functions as our owner. Whoever writes to a partition has not locked the table that it belongs to, so that is held
-- here. Raises for a trigger without transition tables while temporary relations have their names.
create function cloudsync.check_trigger(
  tracked cloudsync.tables,
  written regclass,
  table_schema name,
  table_name name,
  trigger_name name,
  operation text
)
returns boolean
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $check$
begin
  if (written = tracked.relation
      and (tracked.schema_name, tracked.table_name) <> (table_schema::text, check_trigger.table_name::text))
     or (written <> tracked.relation
         and not cloudsync.hold_relation(tracked.relation, tracked.schema_name, tracked.table_name))
     or cloudsync.is_behind(tracked.table_id)
  then
    return false;
  end if;
  if operation in ('insert', 'update', 'delete')
     and (to_regclass('pg_temp.cloudsync_old') is not null or to_regclass('pg_temp.cloudsync_new') is not null)
     and not exists (
       select from pg_trigger as g
       where g.tgrelid = written and g.tgname = trigger_name
         and (operation = 'insert' or g.tgoldtable = 'cloudsync_old')
         and (operation = 'delete' or g.tgnewtable = 'cloudsync_new'))
  then
    raise exception 'trigger % of table % has no transition tables', trigger_name, written
      using errcode = 'wrong_object_type';
  end if;
  return true;
end
$check$;

-- Takes over the metadata of the rows of a statement, in a transaction that sees what was there at its beginning.
create function cloudsync.spell_settle(table_id integer, operation text)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
  select $settle$if not v_sees_now then$settle$
    || string_agg(
      format(
        case when spell_settle.operation = 'row'
          then $row$
    if tg_op <> '%4$s' then
      perform cloudsync.settle(%1$s, row(%2$s));
    end if;$row$
          else $rows$
    perform cloudsync.settle(%1$s, row(%2$s)) from %3$s as %5$s;$rows$
        end,
        spell_settle.table_id,
        cloudsync.spell(spell_settle.table_id, true, s.name || '.{name}', ', '),
        s.source, s.without, s.name),
      '' order by s.name)
    || $settle$
  end if;$settle$
  from (
    values
      ('insert', 'n', 'cloudsync_new', null),
      ('update', 'n', 'cloudsync_new', null),
      ('update', 'o', 'cloudsync_old', null),
      ('delete', 'o', 'cloudsync_old', null),
      ('row', 'new', null, 'DELETE'),
      ('row', 'old', null, 'INSERT'),
      ('truncate', 'd', cloudsync.table_scan(spell_settle.table_id), null)
  ) as s (operation, name, source, without)
  where s.operation = spell_settle.operation;
end;

-- The beginning of a capture function: finds the table in the registry, and checks that it is the one which the
-- function was written for. A newer definition was made by the call for our own site, a moment ago. Where the table has
-- changed unnoticed, that this transaction wrote to it is all that is kept.
create function cloudsync.spell_check(table_id integer, operation text)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
  select format(
    $check$v_table := cloudsync.registered(%1$s);
  if v_table.table_id is null then
    -- A dump is being restored, and the registry will come.
    return null;
  elsif v_table.relation is distinct from %3$s then
    raise exception 'function %% captures another table than %%', 'cloudsync.capture_%2$s_%1$s', tg_relid::regclass
      using errcode = 'wrong_object_type';
  end if;
  if v_table.version > %4$s then
    perform cloudsync.capture_late(%1$s);
    return null;
  end if;
  if not cloudsync.check_trigger(v_table, tg_relid, tg_table_schema, tg_table_name, tg_name, '%2$s') then
    insert into cloudsync.uncaptured (table_id) values (%1$s);
    return null;
  end if;
  v_site := cloudsync.self_ordinal();
  %5$s$check$,
    t.table_id,
    spell_check.operation,
    case when c.relkind = 'p' then 'coalesce(pg_partition_root(tg_relid), tg_relid)' else 'tg_relid' end,
    t.version,
    cloudsync.spell_settle(t.table_id, spell_check.operation))
  from cloudsync.tables as t
  join pg_class as c on c.oid = t.relation
  where t.table_id = spell_check.table_id;
end;

-- Writes the capture function of one operation, for each statement or, as operation row, for each row of any. A
-- key that occurs twice in a transition table, or whose metadata this transaction has written already, takes the
-- slow path, and so does each row for itself. Values that travel as text are printed alike whatever the session
-- has set. The names of a user's columns stand in the body, so it is quoted as a literal: a dollar quote could be ended
-- by one of them.
create function cloudsync.create_capture_function(table_id integer, operation text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $create$
declare
  v_ruled boolean := cloudsync.is_ruled(create_capture_function.table_id);
  v_plain boolean := not (v_ruled or cloudsync.has_audience(create_capture_function.table_id));
begin
  execute format(
    $head$create or replace function cloudsync.capture_%1$s_%2$s() returns trigger
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres'
set timezone = 'UTC'
set extra_float_digits = 1$head$,
    create_capture_function.operation,
    create_capture_function.table_id) || ' as ' || quote_literal(format(
    $body$
#variable_conflict use_variable
declare
  v_table cloudsync.tables;
  v_site integer;
  v_start bigint := floor(extract(epoch from transaction_timestamp()) * 1000)::bigint << 16;
  v_wall bigint := floor(extract(epoch from clock_timestamp()) * 1000)::bigint << 16;
  v_sees_now boolean := current_setting('transaction_isolation') not in ('repeatable read', 'serializable');
  v_emitted bigint;
  v_left bigint := 1;
begin
  %3$s%4$s
  if cloudsync.staging(%2$s) then
    %5$s
    if v_left > 0 then
      raise exception 'metadata of %% changed while apply was writing', tg_relid::regclass
        using errcode = 'CS001';
    end if;
    v_left := 1;
  %6$s
  end if;
  if v_left > 0 then
    %7$s
  end if;
  return null;
end
$body$,
    create_capture_function.operation,
    create_capture_function.table_id,
    cloudsync.spell_check(create_capture_function.table_id, create_capture_function.operation),
    case create_capture_function.operation
      when 'row' then format(
        $level$
  if tg_level <> 'ROW' then
    raise exception 'function %% is for triggers of each row', 'cloudsync.capture_row_%s'
      using errcode = 'wrong_object_type';
  end if;$level$, create_capture_function.table_id)
    end,
    case when v_ruled
      then cloudsync.spell_ruled(create_capture_function.table_id, create_capture_function.operation, true)
      else cloudsync.spell_staged(create_capture_function.table_id, create_capture_function.operation)
    end,
    case when not v_plain then '' else case create_capture_function.operation
      when 'row' then ''
      when 'update' then format(
        'elsif not exists (select from cloudsync_new as n group by %1$s having count(*) > 1 '
        'union all select from cloudsync_old as n group by %1$s having count(*) > 1) then ',
        cloudsync.spell(create_capture_function.table_id, true, 'n.{name}', ', '))
      else 'else '
    end || case create_capture_function.operation
      when 'row' then ''
      else cloudsync.spell_direct(create_capture_function.table_id, create_capture_function.operation)
    end end,
    case when v_ruled
      then cloudsync.spell_ruled(create_capture_function.table_id, create_capture_function.operation, false)
      else cloudsync.spell_slow(create_capture_function.table_id, create_capture_function.operation)
    end));
end
$create$;

-- Writes the capture function of TRUNCATE, which runs before the rows are gone: afterwards
-- nothing tells which rows without metadata there were. Above 100,000 rows the clients are
-- told to fetch the table again instead of being sent every deletion. The name of the table, or
-- of the partition, is put in when it runs: TRUNCATE holds it.
create function cloudsync.create_truncate_function(table_id integer)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $create$
begin
  execute format(
    $head$create or replace function cloudsync.capture_truncate_%1$s() returns trigger
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp$head$,
    create_truncate_function.table_id) || ' as ' || quote_literal(format(
    $body$
#variable_conflict use_variable
declare
  v_table cloudsync.tables;
  v_site integer;
  v_rows text := format('only %%I.%%I as d', tg_table_schema, tg_table_name);
  v_sees_now boolean := current_setting('transaction_isolation') not in ('repeatable read', 'serializable');
  v_few boolean;
begin
  %2$s
  %5$s
  execute 'select count(*) <= 100000 from (select from ' || v_rows || ' limit 100001) as few' into v_few;
  execute %3$L || v_rows || %4$L
  using v_site, floor(extract(epoch from clock_timestamp()) * 1000)::bigint << 16,
    v_table.incarnation, v_table.version, v_few;
  if not v_sees_now then
    -- Rows go that this transaction does not see.
    insert into cloudsync.uncaptured (table_id) values (%1$s);
  end if;
  if not v_few then
    if tg_relid = v_table.relation then
      delete from cloudsync.too_large as l where l.table_id = %1$s;
    end if;
    perform cloudsync.emit_reload(%1$s, 'truncate');
  end if;
  return null;
end
$body$,
    create_truncate_function.table_id,
    cloudsync.spell_check(create_truncate_function.table_id, 'truncate'),
    format(
      'with c as ( insert into cloudsync.meta_%1$s as m (%2$s, alive, hlc, site%4$s) select %3$s, false, $2, $1%5$s from ',
      create_truncate_function.table_id,
      cloudsync.spell(create_truncate_function.table_id, true, 'key_{n}', ', '),
      cloudsync.spell(create_truncate_function.table_id, true, 'd.{name}', ', '),
      cloudsync.where_audience(create_truncate_function.table_id, ', scopes'),
      cloudsync.spell_audience(
        create_truncate_function.table_id, 'd', $last$, case when %1$s then %2$s else '{}' end$last$)),
    format(
      cloudsync.spell_emit(create_truncate_function.table_id, $statement$
      on conflict (%2$s) do update
      set alive = false, hlc = greatest(excluded.hlc, 1 + %3$s), site = excluded.site, cols = null%7$s
      returning %4$s, m.hlc%8$s
    )
    select {emit}(
      %1$s, $3, $4, %5$L::smallint[], 2, c.hlc, $1, null, null, row(%6$s), null{audience}
    ) filter (where $5)
    from c$statement$),
      create_truncate_function.table_id,
      cloudsync.spell(create_truncate_function.table_id, true, 'key_{n}', ', '),
      cloudsync.spell_greatest(create_truncate_function.table_id),
      cloudsync.spell(create_truncate_function.table_id, true, 'm.key_{n}', ', '),
      '{' || cloudsync.spell(create_truncate_function.table_id, false, '{id}', ',') || '}',
      cloudsync.spell(create_truncate_function.table_id, true, 'c.key_{n}', ', '),
      cloudsync.where_audience(create_truncate_function.table_id, ', scopes = excluded.scopes'),
      cloudsync.where_audience(
        create_truncate_function.table_id,
        $audience$, m.scopes <> '{}' as was_in, false as was_out, m.scopes as from_scopes, false as now_in,
          null::text[] as to_scopes$audience$)),
    (select case when t.algorithm = 1 then format(
       'raise exception ''cloudsync: table "%%" only grows (gos): TRUNCATE is not allowed'', %L '
       'using errcode = ''restrict_violation'';', t.table_name) else '' end
     from cloudsync.tables as t
     where t.table_id = create_truncate_function.table_id)));
end
$create$;
