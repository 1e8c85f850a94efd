-- What clients call tables. Their names have no schema: where none is set, a table has its own name with every client,
-- and only one table of a name can be tracked. Where a schema is set, for a name or for all, a name means the table in
-- that schema; tables elsewhere are called with their schema in front.

-- What clients call a table.
create function cloudsync.client_name(schema_name text, table_name text)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
  select case
    when coalesce(client_name.schema_name = n.meant, true) then client_name.table_name
    else format('%s.%s', client_name.schema_name, client_name.table_name)
  end
  from (
    select coalesce(
      (select m.schema_name from cloudsync.table_schemas as m where m.table_name = client_name.table_name),
      (select s.value from cloudsync.settings as s where s.key = 'schema')) as meant
  ) as n;
end;

-- Stops where a schema is not there.
create function cloudsync.check_schema(schema_name text)
returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $check$
begin
  if check_schema.schema_name is not null and not exists (
    select from pg_namespace as n where n.nspname = check_schema.schema_name::name
  ) then
    raise exception 'schema % does not exist', quote_ident(check_schema.schema_name)
      using errcode = 'invalid_schema_name';
  end if;
end
$check$;

-- Gives tables the names that are now set, and has clients fetch those that have another.
create function cloudsync.rename_for_clients()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $rename$
#variable_conflict use_column
declare
  v_table integer;
  v_renamed integer[];
begin
  with renamed as (
    update cloudsync.tables as t
    set client_name = cloudsync.client_name(t.schema_name, t.table_name), version = t.version + 1
    where t.client_name <> cloudsync.client_name(t.schema_name, t.table_name)
    returning t.table_id
  )
  select coalesce(array_agg(r.table_id order by r.table_id), '{}') into v_renamed from renamed as r;
  foreach v_table in array v_renamed loop
    perform cloudsync.announce_table(v_table);
    perform cloudsync.emit_reload(v_table, 'schema');
  end loop;
exception when unique_violation then
  raise exception 'clients would call two tracked tables by one name' using errcode = 'duplicate_table';
end
$rename$;

-- Says in which schema the tables are that clients name, or that no schema is meant (null).
create function cloudsync.set_schema(schema_name text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $set$
#variable_conflict use_column
begin
  perform cloudsync.lock_registry();
  perform cloudsync.check_schema(set_schema.schema_name);
  delete from cloudsync.settings as s where s.key = 'schema';
  insert into cloudsync.settings (key, value)
  select 'schema', set_schema.schema_name where set_schema.schema_name is not null;
  perform cloudsync.rename_for_clients();
end
$set$;

-- The same for one name.
create function cloudsync.set_table_schema(table_name text, schema_name text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $set$
#variable_conflict use_column
begin
  perform cloudsync.lock_registry();
  perform cloudsync.check_schema(set_table_schema.schema_name);
  delete from cloudsync.table_schemas as m where m.table_name = set_table_schema.table_name;
  insert into cloudsync.table_schemas (table_name, schema_name)
  select set_table_schema.table_name, set_table_schema.schema_name where set_table_schema.schema_name is not null;
  perform cloudsync.rename_for_clients();
end
$set$;
