-- What users set: whether a table takes part, and values under keys. Called by the library as the owner, after it
-- has checked whose table it is.

-- The registration of a table, locked against other changes of the registry.
create function cloudsync.tracked(relation regclass)
returns cloudsync.tables
language plpgsql
set search_path = pg_catalog, pg_temp
as $tracked$
declare
  v_table cloudsync.tables;
begin
  perform pg_advisory_xact_lock(hashtextextended('cloudsync registry', 0));
  select t.* into v_table from cloudsync.tables as t where t.relation = tracked.relation;
  if not found then
    raise exception 'table % is not tracked', tracked.relation using errcode = 'undefined_table';
  end if;
  return v_table;
end
$tracked$;

-- Makes a table take part, or no more. The caller holds a lock that lets nobody write to it: a transaction that
-- wrote under the other functions would be told to nobody.
create function cloudsync.enable_table(relation regclass, enabled boolean)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $enable$
#variable_conflict use_column
declare
  v_table cloudsync.tables := cloudsync.tracked(enable_table.relation);
begin
  if v_table.enabled = enable_table.enabled then
    return;
  end if;
  update cloudsync.tables as t set enabled = enable_table.enabled where t.table_id = v_table.table_id;
  -- The functions of a table that is not captured for now are written when it is again.
  if v_table.suspended is null then
    perform cloudsync.announce_table(v_table.table_id);
  end if;
  if enable_table.enabled then
    perform cloudsync.emit_reload(v_table.table_id, 'enable');
  end if;
end
$enable$;

-- Whether tombstones may be kept so long.
create function cloudsync.is_retention(value text)
returns boolean
language plpgsql stable strict
set search_path = pg_catalog, pg_temp
as $retention$
begin
  return is_retention.value::interval >= interval '1 minute';
exception when data_exception then
  return false;
end
$retention$;

-- Keeps a value for the database.
create function cloudsync.set_value(key text, value text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $set$
#variable_conflict use_column
begin
  if set_value.key = 'schema' or set_value.key = 'scopes_function' and set_value.value is not null then
    raise exception 'cloudsync_set: key % is the extension''s own, wanted another key', quote_literal(set_value.key)
      using errcode = 'invalid_parameter_value';
  end if;
  if set_value.key = 'payload_max_chunk_size' and set_value.value !~ '^[0-9]{1,9}$' then
    raise exception 'cloudsync_set: payload_max_chunk_size is %, wanted a number of bytes',
      quote_literal(set_value.value) using errcode = 'invalid_parameter_value';
  end if;
  if set_value.key = 'tombstone_retention' and not coalesce(cloudsync.is_retention(set_value.value), true) then
    raise exception 'cloudsync_set: tombstone_retention is %, wanted an interval of at least a minute',
      quote_literal(set_value.value) using errcode = 'invalid_parameter_value';
  end if;
  delete from cloudsync.settings as s where s.key = set_value.key;
  insert into cloudsync.settings (key, value)
  select set_value.key, set_value.value where set_value.value is not null;
end
$set$;

-- Keeps a value for a table, or for a column of it ('' for none).
create function cloudsync.set_table_value(relation regclass, column_name text, key text, value text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $set$
#variable_conflict use_column
declare
  v_table cloudsync.tables := cloudsync.tracked(set_table_value.relation);
begin
  if set_table_value.column_name = '' then
    if set_table_value.key in ('enabled', 'filter', 'schema', 'scope') then
      raise exception 'cloudsync_set_table: key % is the extension''s own, wanted another key',
        quote_literal(set_table_value.key) using errcode = 'invalid_parameter_value';
    elsif set_table_value.key = 'algo' then
      perform cloudsync.change_table_algorithm(v_table.table_id, set_table_value.value);
      return;
    end if;
  else
    if not exists (
      select from cloudsync.columns as c
      where c.table_id = v_table.table_id and c.name = set_table_value.column_name
    ) then
      raise exception 'table % has no column %', set_table_value.relation, quote_ident(set_table_value.column_name)
        using errcode = 'undefined_column';
    end if;
    if set_table_value.key in ('algo', 'delimiter') then
      perform cloudsync.change_column_algorithm(
        v_table.table_id, set_table_value.column_name, set_table_value.key, set_table_value.value);
      return;
    end if;
  end if;
  delete from cloudsync.table_settings as s
  where s.table_id = v_table.table_id and s.column_name = set_table_value.column_name
    and s.key = set_table_value.key;
  insert into cloudsync.table_settings (table_id, column_name, key, value)
  select v_table.table_id, set_table_value.column_name, set_table_value.key, set_table_value.value
  where set_table_value.value is not null;
end
$set$;
