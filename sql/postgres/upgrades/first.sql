-- The beginning of every upgrade: hubs are granted what they need when it has ended, see cloudsync.grant_hubs. What they
-- have goes before: else it would count as what the extension itself gives, and no dump would take it along. A role that
-- somebody gave less than a hub has gets no more.
do $revoke$
declare
  v_command text;
begin
  insert into cloudsync.hubs (role)
  select distinct a.grantee
  from pg_catalog.pg_proc as p, pg_catalog.aclexplode(p.proacl) as a
  where p.pronamespace = 'cloudsync'::pg_catalog.regnamespace and p.proname = 'definitions'
    and a.grantee not in (0, p.proowner) and pg_catalog.pg_has_role(a.grantee, 'cloudsync_owner', 'member');
  for v_command in
    select pg_catalog.format('revoke all on routine %s from %s', p.oid::pg_catalog.regprocedure, h.role::pg_catalog.regrole)
    from pg_catalog.pg_proc as p, pg_catalog.aclexplode(p.proacl) as a, cloudsync.hubs as h
    where p.pronamespace = 'cloudsync'::pg_catalog.regnamespace and a.grantee = h.role
    union
    select pg_catalog.format('revoke all on table %s from %s', c.oid::pg_catalog.regclass, h.role::pg_catalog.regrole)
    from pg_catalog.pg_class as c, pg_catalog.aclexplode(c.relacl) as a, cloudsync.hubs as h
    where c.relnamespace = 'cloudsync'::pg_catalog.regnamespace and a.grantee = h.role
  loop
    execute v_command;
  end loop;
end
$revoke$;

-- Functions of ours that nothing else needs go, because one that has another signature now cannot be replaced, and one
-- that is not made again would stay. Those that somebody else was granted stay, with the grants.
do $drop$
declare
  v_routine text;
  v_dropped boolean := true;
begin
  for v_routine in
    select e.evtname from pg_catalog.pg_event_trigger as e
    join pg_catalog.pg_proc as p on p.oid = e.evtfoid
    where p.pronamespace = 'cloudsync'::pg_catalog.regnamespace
  loop
    execute pg_catalog.format('drop event trigger %I', v_routine);
  end loop;
  while v_dropped loop
    v_dropped := false;
    for v_routine in
      select p.oid::pg_catalog.regprocedure::text
      from pg_catalog.pg_proc as p
      join pg_catalog.pg_depend as d
        on d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass and d.objid = p.oid and d.deptype = 'e'
      where p.pronamespace = 'cloudsync'::pg_catalog.regnamespace
        and not exists (
          select from pg_catalog.aclexplode(p.proacl) as a where a.grantee not in (0, p.proowner))
    loop
      begin
        execute pg_catalog.format('drop routine %s', v_routine);
        v_dropped := true;
      exception when dependent_objects_still_exist or undefined_function then
        null;
      end;
    end loop;
  end loop;
end
$drop$;
