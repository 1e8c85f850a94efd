-- The beginning of every upgrade: functions of ours that nothing else needs go, because one that has another signature now
-- cannot be replaced, and one that is not made again would stay. Those that somebody was granted stay, with the grants,
-- except for the roles of hubs: the end gives them what they need.
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
          select from pg_catalog.aclexplode(p.proacl) as a
          where a.grantee not in (0, p.proowner) and not exists (
            select from pg_catalog.pg_class as c, pg_catalog.aclexplode(c.relacl) as h
            where c.oid = 'cloudsync.fence'::pg_catalog.regclass and h.privilege_type = 'USAGE'
              and h.grantee = a.grantee))
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
