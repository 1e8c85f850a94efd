-- DROP EXTENSION: what does not go by itself is given back before, so that the user's tables are left as they were.

-- Called by the command itself, before it drops anything: whether ours is among the extensions, only the library sees.
create function cloudsync.leave() returns event_trigger
language c volatile
as 'MODULE_PATHNAME', 'leave';

-- Runs as whoever drops the extension: gives back what cloudsync_owner was granted, and what everybody was denied.
create function cloudsync.give_back(is_cascade boolean)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $give$
declare
  v_command text;
  v_tables text;
begin
  select string_agg(t.relation::text, ', ' order by t.table_id) into v_tables from cloudsync.tables as t;
  if v_tables is not null and not is_cascade then
    raise exception 'extension pg_sync cannot be dropped: it tracks %', v_tables
      using errcode = 'dependent_objects_still_exist',
        hint = 'Call cloudsync_cleanup for each table before, or use DROP EXTENSION ... CASCADE.';
  end if;
  for v_command in
    select format('revoke all on table %I.%I from cloudsync_owner', n.nspname, c.relname)
    from pg_class as c
    join pg_namespace as n on n.oid = c.relnamespace
    where n.nspname <> 'cloudsync' and c.relkind in ('r', 'p')
      and exists (select from aclexplode(c.relacl) as a where a.grantee = 'cloudsync_owner'::regrole)
    union all
    select format('revoke all on schema %I from cloudsync_owner', n.nspname)
    from pg_namespace as n
    where n.nspname <> 'cloudsync'
      and exists (select from aclexplode(n.nspacl) as a where a.grantee = 'cloudsync_owner'::regrole)
    union all
    select format('grant execute on function %s to public', p.oid::regprocedure)
    from cloudsync.revoked_functions as r
    join pg_proc as p on p.oid = to_regprocedure(r.signature)
  loop
    execute v_command;
  end loop;
  -- What the extension noted of rights at its installation would be dumped as a difference for ever.
  if exists (select from pg_roles as r where r.rolname = current_user and r.rolsuper) then
    set local allow_system_table_mods = on;
    delete from pg_init_privs as i
    using cloudsync.revoked_functions as r
    where i.classoid = 'pg_proc'::regclass and i.objoid = to_regprocedure(r.signature)
      and i.privtype = 'e';
    reset allow_system_table_mods;
  end if;
end
$give$;
