-- Follows changes of tracked tables: the registry and the capture functions are brought to the new definition by
-- the command that changes it, so that no write fails later for a column or a name that is gone.

-- Tables that are not as the registry has them.
create function cloudsync.changed_tables()
returns setof integer
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
  select t.table_id
  from cloudsync.tables as t
  join pg_class as c on c.oid = t.relation
  join pg_namespace as n on n.oid = c.relnamespace
  where (n.nspname::text, c.relname::text) <> (t.schema_name, t.table_name)
    or exists (
      select
      from (
        select a.attnum, a.attname::text as name, a.atttypid, format_type(a.atttypid, a.atttypmod) as type_name
        from pg_attribute as a
        where a.attrelid = t.relation and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
      ) as found
      full join (select k.* from cloudsync.columns as k where k.table_id = t.table_id) as known
        on known.column_id = found.attnum
      where (found.name, found.atttypid, found.type_name)
        is distinct from (known.name, known.type_oid::oid, known.type_name)
    )
  order by t.table_id;
end;

-- Brings one table's registration to its present definition. Its key stays: metadata is kept by it.
create function cloudsync.follow_definition(table_id integer)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $follow$
#variable_conflict use_column
declare
  v_table cloudsync.tables;
  v_column name;
begin
  select t.* into strict v_table from cloudsync.tables as t where t.table_id = follow_definition.table_id;
  select k.name into v_column
  from cloudsync.columns as k
  left join pg_attribute as a
    on a.attrelid = v_table.relation and a.attnum = k.column_id and not a.attisdropped
  where k.table_id = v_table.table_id and k.key_position is not null
    and a.atttypid is distinct from k.type_oid::oid;
  if found then
    raise exception 'column % of table % is part of the key that it is synced by', quote_ident(v_column), v_table.relation
      using errcode = 'object_in_use', hint = 'Call cloudsync_cleanup before, and cloudsync_init after the change.';
  end if;
  if not has_schema_privilege('cloudsync_owner', c.relnamespace, 'usage')
  from pg_class as c where c.oid = v_table.relation then
    raise exception 'cloudsync_owner may not use the schema of table %', v_table.relation
      using errcode = 'insufficient_privilege', hint = 'Grant it USAGE on that schema before.';
  end if;
  delete from cloudsync.columns as k
  where k.table_id = v_table.table_id
    and not exists (select from pg_attribute as a
                    where a.attrelid = v_table.relation and a.attnum = k.column_id and not a.attisdropped
                      and a.attgenerated = '');
  insert into cloudsync.columns as k (table_id, column_id, name, type_name, type_oid)
  select v_table.table_id, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod), a.atttypid
  from pg_attribute as a
  where a.attrelid = v_table.relation and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
  on conflict (table_id, column_id) do update
  set name = excluded.name, type_name = excluded.type_name, type_oid = excluded.type_oid;
  update cloudsync.tables as t
  set version = t.version + 1, schema_name = n.nspname, table_name = c.relname
  from pg_class as c
  join pg_namespace as n on n.oid = c.relnamespace
  where t.table_id = v_table.table_id and c.oid = v_table.relation;
  perform cloudsync.announce_table(v_table.table_id);
exception when unique_violation then
  raise exception 'table % cannot have this name: another tracked table has it', v_table.relation
    using errcode = 'duplicate_table';
end
$follow$;

create function cloudsync.follow_definitions()
returns event_trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $follow$
begin
  if exists (select from cloudsync.changed_tables()) then
    perform pg_advisory_xact_lock(hashtextextended('cloudsync registry', 0));
    perform cloudsync.forget_dropped_tables();
    perform cloudsync.follow_definition(c.table_id) from cloudsync.changed_tables() as c (table_id);
  end if;
end
$follow$;
