-- Capture of ruled tables: those whose rows or columns merge by another algorithm than the default one. The library
-- stamps their rows one by one, by the rules that SQLite has too; their metadata has the registers of their columns.

-- Codes as in payloads: 1 gos, 2 dws, 3 aws.
create function cloudsync.table_algorithm_code(name text)
returns smallint
language sql immutable
set search_path = pg_catalog, pg_temp
begin atomic
  select array_position(array['cls', 'gos', 'dws', 'aws'], lower(table_algorithm_code.name))::smallint - 1::smallint;
end;

-- Codes as in payloads: 1 counter, 2 max, 3 min, 4 block: these are registers. 5 group.
create function cloudsync.column_algorithm_code(name text)
returns smallint
language sql immutable
set search_path = pg_catalog, pg_temp
begin atomic
  select array_position(
    array['lww', 'counter', 'max', 'min', 'block', 'group'],
    lower(split_part(column_algorithm_code.name, ':', 1)))::smallint - 1::smallint
  where (lower(split_part(column_algorithm_code.name, ':', 1)) = 'group')
    = (strpos(column_algorithm_code.name, ':') > 0)
    and column_algorithm_code.name not like '%:';
end;

create function cloudsync.is_ruled(table_id integer)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
  select exists (
    select from cloudsync.tables as t where t.table_id = is_ruled.table_id and t.algorithm <> 0
  ) or exists (
    select from cloudsync.columns as c where c.table_id = is_ruled.table_id and c.algorithm <> 0
  );
end;

create function cloudsync.has_registers(table_id integer)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
  select exists (
    select from cloudsync.columns as c
    where c.table_id = has_registers.table_id and c.algorithm between 1 and 4
  );
end;

create function cloudsync.capture_ruled_step(
  state internal,
  table_id integer,
  was boolean,
  now boolean,
  changed boolean[],
  row_key record,
  image record
) returns internal
language c volatile parallel unsafe
as 'MODULE_PATHNAME', 'capture_ruled_step';

create function cloudsync.capture_ruled_finish(state internal) returns bigint
language c volatile parallel unsafe
as 'MODULE_PATHNAME', 'capture_ruled_finish';

-- Stamps rows, writes their metadata and emits them. Returns how many staged rows have other metadata by now than
-- the one that merge saw.
create aggregate cloudsync.capture_ruled(
  table_id integer,
  was boolean,
  now boolean,
  changed boolean[],
  row_key record,
  image record
) (
  sfunc = cloudsync.capture_ruled_step,
  stype = internal,
  sspace = 65536,
  finalfunc = cloudsync.capture_ruled_finish,
  finalfunc_modify = read_write
);

-- The same for a table with an audience: see `emit_scoped`.
create function cloudsync.capture_ruled_scoped_step(
  state internal,
  table_id integer,
  was boolean,
  now boolean,
  changed boolean[],
  row_key record,
  image record,
  was_in boolean,
  was_out boolean,
  from_scopes text[],
  now_in boolean,
  to_scopes text[]
) returns internal
language c volatile parallel unsafe
as 'MODULE_PATHNAME', 'capture_ruled_scoped_step';

create aggregate cloudsync.capture_ruled_scoped(
  table_id integer,
  was boolean,
  now boolean,
  changed boolean[],
  row_key record,
  image record,
  was_in boolean,
  was_out boolean,
  from_scopes text[],
  now_in boolean,
  to_scopes text[]
) (
  sfunc = cloudsync.capture_ruled_scoped_step,
  stype = internal,
  sspace = 65536,
  finalfunc = cloudsync.capture_ruled_finish,
  finalfunc_modify = read_write
);

-- The registers of a row that nobody wrote since it is tracked.
create function cloudsync.first_registers(table_id integer, image record) returns bytea
language c volatile parallel unsafe
as 'MODULE_PATHNAME', 'first_registers';

-- What a grow-only table refuses, in front of the slow path of an operation.
create function cloudsync.spell_guard(table_id integer, operation text)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
  select case when t.algorithm = 1 and spell_guard.operation <> 'insert' then format(
    $guard$if exists (select from (%1$s) as x where x.was and not cloudsync.is_staged(%2$s, row(%3$s))) then
      raise exception 'cloudsync: table "%%" only grows (gos): %% is not allowed', %4$L, tg_op
        using errcode = 'restrict_violation';
    end if;
    $guard$,
    cloudsync.spell_source(t.table_id, spell_guard.operation, true),
    t.table_id,
    cloudsync.spell(t.table_id, true, 'x.key_{n}', ', '),
    t.table_name)
    else ''
  end
  from cloudsync.tables as t
  where t.table_id = spell_guard.table_id;
end;

-- The rows of a statement that apply wrote, or the others, through the library.
create function cloudsync.spell_ruled(table_id integer, operation text, staged boolean)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
  select format(
    $statement$%5$s%1$s
    select cloudsync.capture_ruled%6$s(
      %2$s, r.was, r.now, r.changed, row(%3$s), case when r.present then r.image end%7$s)
    into v_left
    from r
    where %4$s cloudsync.is_staged(%2$s, row(%3$s));
    v_left := coalesce(v_left, 0);$statement$,
    cloudsync.spell_current(spell_ruled.table_id, spell_ruled.operation, true),
    spell_ruled.table_id,
    cloudsync.spell(spell_ruled.table_id, true, 'r.key_{n}', ', '),
    case when spell_ruled.staged then '' else 'not' end,
    case when spell_ruled.staged then ''
      else cloudsync.spell_guard(spell_ruled.table_id, spell_ruled.operation) end,
    cloudsync.where_audience(spell_ruled.table_id, '_scoped'),
    cloudsync.where_audience(
      spell_ruled.table_id, ', r.was_in, r.was_out, r.from_scopes, r.now_in, r.to_scopes'));
end;

-- Makes room for registers in a table's metadata, and gives them to the rows that are there: what a register
-- starts from has to be known when it is first written. The only part of a setup that looks at every row.
create function cloudsync.make_registers(table_id integer)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $registers$
begin
  if not cloudsync.is_ruled(make_registers.table_id) then
    return;
  end if;
  if not exists (
    select from pg_attribute as a
    where a.attrelid = format('cloudsync.meta_%s', make_registers.table_id)::regclass
      and a.attname = 'registers' and not a.attisdropped
  ) then
    execute format('alter table cloudsync.meta_%s add column registers bytea', make_registers.table_id);
  end if;
  if not cloudsync.has_registers(make_registers.table_id) then
    return;
  end if;
  execute format(
    $insert$insert into cloudsync.meta_%1$s as m (%2$s, alive, hlc, site, registers)
    select %3$s, true, 1, cloudsync.self_ordinal(), cloudsync.first_registers(%1$s, d.*)
    from %4$s as d
    on conflict (%2$s) do update set registers = excluded.registers
    where m.alive and m.hlc = 1 and m.cols is null$insert$,
    make_registers.table_id,
    cloudsync.spell(make_registers.table_id, true, 'key_{n}', ', '),
    cloudsync.spell(make_registers.table_id, true, 'd.{name}', ', '),
    cloudsync.table_scan(make_registers.table_id));
end
$registers$;

-- Whether rows of a table were written or received since it is tracked.
create function cloudsync.has_history(table_id integer)
returns boolean
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $history$
declare
  v_found boolean;
begin
  execute format(
    'select exists (select from cloudsync.meta_%s as m where not m.alive or m.hlc <> 1 or m.cols is not null)',
    has_history.table_id)
  into v_found;
  return v_found;
end
$history$;

-- A row of a grow-only table never changes, and one of an aws table is one register: neither has columns with
-- registers of their own.
create function cloudsync.check_rules(table_id integer)
returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $check$
declare
  v_found record;
begin
  select t.table_name, t.algorithm, c.algorithm as column_algorithm into v_found
  from cloudsync.tables as t
  join cloudsync.columns as c on c.table_id = t.table_id and c.algorithm between 1 and 4
  where t.table_id = check_rules.table_id and t.algorithm in (1, 3)
  limit 1;
  if found then
    raise exception 'table % is %, so its columns cannot be %', quote_ident(v_found.table_name),
      (array['gos', 'dws', 'aws'])[v_found.algorithm],
      (array['counter', 'max', 'min', 'block'])[v_found.column_algorithm]
      using errcode = 'feature_not_supported';
  end if;
end
$check$;

-- Brings metadata and capture to new rules, and tells the clients.
create function cloudsync.follow_rules(table_id integer)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $follow$
begin
  perform cloudsync.check_rules(follow_rules.table_id);
  perform cloudsync.make_registers(follow_rules.table_id);
  update cloudsync.tables as t set version = t.version + 1 where t.table_id = follow_rules.table_id;
  perform cloudsync.announce_table(follow_rules.table_id);
end
$follow$;

-- Gives a table another algorithm, while no row was written under the former one.
create function cloudsync.change_table_algorithm(table_id integer, value text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $change$
declare
  v_code smallint := cloudsync.table_algorithm_code(change_table_algorithm.value);
  v_table cloudsync.tables;
begin
  if v_code is null then
    raise exception 'table algorithm % is not known, use cls, gos, dws or aws',
      quote_nullable(change_table_algorithm.value) using errcode = 'invalid_parameter_value';
  end if;
  select t.* into strict v_table from cloudsync.tables as t where t.table_id = change_table_algorithm.table_id;
  if v_table.algorithm = v_code then
    return;
  end if;
  if cloudsync.has_history(v_table.table_id) then
    raise exception 'algorithm of table % cannot change from % to %', quote_ident(v_table.table_name),
      (array['cls', 'gos', 'dws', 'aws'])[v_table.algorithm + 1], lower(change_table_algorithm.value)
      using errcode = 'object_not_in_prerequisite_state',
        detail = 'Rows were written under the former one.',
        hint = 'cloudsync_cleanup and cloudsync_init begin anew.';
  end if;
  update cloudsync.tables as t set algorithm = v_code where t.table_id = v_table.table_id;
  perform cloudsync.follow_rules(v_table.table_id);
end
$change$;

-- Why a column cannot hold what an algorithm merges, or nothing. Values have to order and add up alike on SQLite.
create function cloudsync.column_refusal(type_oid oid, algorithm smallint)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
  select case
    when column_refusal.algorithm = 1 and b.base not in ('int2', 'int4', 'int8')
      then 'a counter holds smallint, integer or bigint'
    when column_refusal.algorithm in (2, 3) and b.base not in (
      'int2', 'int4', 'int8', 'float4', 'float8', 'text', 'varchar', 'bytea', 'bool', 'uuid', 'timestamptz',
      'timestamp', 'date', 'time')
      then 'values of this type order otherwise on SQLite'
    when column_refusal.algorithm = 4 and b.base not in ('text', 'varchar')
      then 'blocks are parts of text'
  end
  from (
    select case when y.typtype = 'd' and y.typbasetype <> 0
        then (select d.typname from pg_type as d where d.oid = y.typbasetype and d.typnamespace = 'pg_catalog'::regnamespace)
        else y.typname end as base
    from pg_type as y
    where y.oid = column_refusal.type_oid
  ) as b;
end;

-- Gives a column another algorithm, or its blocks another delimiter. What is more than a group only while no row
-- was written.
create function cloudsync.change_column_algorithm(table_id integer, column_name text, key text, value text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $change$
declare
  v_column cloudsync.columns;
  v_before cloudsync.columns;
  v_refusal text;
begin
  select c.* into v_before from cloudsync.columns as c
  where c.table_id = change_column_algorithm.table_id and c.name = change_column_algorithm.column_name;
  if not found then
    raise exception 'column % is not tracked', quote_ident(change_column_algorithm.column_name)
      using errcode = 'undefined_column';
  elsif v_before.key_position is not null then
    raise exception 'column % is part of the key, wanted one that is not', quote_ident(v_before.name)
      using errcode = 'invalid_parameter_value';
  end if;
  v_column := v_before;
  if change_column_algorithm.key = 'delimiter' then
    if change_column_algorithm.value = '' then
      raise exception 'the delimiter of column % is empty, wanted text or null', quote_ident(v_before.name)
        using errcode = 'invalid_parameter_value';
    end if;
    v_column.delimiter := nullif(change_column_algorithm.value, e'\n');
  else
    v_column.algorithm := cloudsync.column_algorithm_code(coalesce(change_column_algorithm.value, 'lww'));
    if v_column.algorithm is null then
      raise exception 'column algorithm % is not known, use lww, counter, max, min, block or group:<name>',
        quote_literal(change_column_algorithm.value) using errcode = 'invalid_parameter_value';
    end if;
    v_column.column_group := case when v_column.algorithm = 5
      then substr(change_column_algorithm.value, strpos(change_column_algorithm.value, ':') + 1) end;
    v_refusal := cloudsync.column_refusal(v_column.type_oid, v_column.algorithm);
    if v_refusal is not null then
      raise exception 'column % of type % cannot be %: %', quote_ident(v_before.name), v_before.type_name,
        lower(change_column_algorithm.value), v_refusal using errcode = 'datatype_mismatch';
    end if;
  end if;
  update cloudsync.columns as c
  set algorithm = v_column.algorithm, column_group = v_column.column_group, delimiter = v_column.delimiter
  where c.table_id = v_column.table_id and c.column_id = v_column.column_id;
  if (v_column.algorithm, v_column.column_group, case when v_column.algorithm = 4 then v_column.delimiter end)
     is not distinct from
     (v_before.algorithm, v_before.column_group, case when v_before.algorithm = 4 then v_before.delimiter end)
  then
    return;
  end if;
  if (v_column.algorithm between 1 and 4 or v_before.algorithm between 1 and 4)
     and cloudsync.has_history(v_column.table_id)
  then
    raise exception 'algorithm of column % cannot change from % to %', quote_ident(v_before.name),
      (array['lww', 'counter', 'max', 'min', 'block', 'group'])[v_before.algorithm + 1],
      (array['lww', 'counter', 'max', 'min', 'block', 'group'])[v_column.algorithm + 1]
      using errcode = 'object_not_in_prerequisite_state',
        detail = 'Rows were written under the former one.',
        hint = 'cloudsync_cleanup and cloudsync_init begin anew.';
  end if;
  perform cloudsync.follow_rules(v_column.table_id);
end
$change$;
