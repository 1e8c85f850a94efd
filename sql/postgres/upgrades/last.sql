-- The end of every upgrade: what was written for each tracked table is written anew. Those functions are not the
-- extension's, so they are lent to it while its script replaces them.
-- Lending them is a command that our event trigger would follow, before it can write them: it waits until that is done.
alter event trigger cloudsync_definitions disable;
alter event trigger cloudsync_hubs disable;

do $rewrite$
declare
  v_table cloudsync.tables;
  v_function regprocedure;
  v_command text;
begin
  for v_table in
    select t.* from cloudsync.tables as t
    where exists (select from pg_catalog.pg_class as c where c.oid = t.relation)
  loop
    for v_function in select f from cloudsync.capture_functions(v_table.table_id) as f loop
      execute pg_catalog.format('alter extension pg_sync add function %s', v_function);
    end loop;
    set local role cloudsync_owner;
    update cloudsync.tables as t
    set attributes = c.relnatts, row_security = c.relrowsecurity
    from pg_catalog.pg_class as c
    where t.table_id = v_table.table_id and c.oid = t.relation;
    select t.* into strict v_table from cloudsync.tables as t where t.table_id = v_table.table_id;
    if cloudsync.is_changed(v_table) then
      -- A command that was not followed while the library was newer than its functions.
      perform cloudsync.follow_late(v_table.table_id);
    else
      perform cloudsync.announce_table(v_table.table_id);
    end if;
    reset role;
    for v_function in select f from cloudsync.capture_functions(v_table.table_id) as f loop
      execute pg_catalog.format('alter extension pg_sync drop function %s', v_function);
    end loop;
    for v_command in select c from cloudsync.attach_commands(v_table.table_id) as c loop
      execute v_command;
    end loop;
  end loop;
end
$rewrite$;

alter event trigger cloudsync_definitions enable always;
alter event trigger cloudsync_hubs enable always;
