-- Ownership and rights. Everything in schema cloudsync belongs to cloudsync_owner, and
-- nobody else may call it or read it; trigger functions are written later, can only be
-- called by triggers and check their table.
do $grants$
declare
  v_object text;
begin
  for v_object in
    select format('alter %s cloudsync.%I owner to cloudsync_owner',
      case c.relkind when 'S' then 'sequence' when 'v' then 'view' else 'table' end, c.relname)
    from pg_catalog.pg_class as c
    where c.relnamespace = 'cloudsync'::pg_catalog.regnamespace and c.relkind in ('r', 'v', 'S')
      and not exists (select from pg_catalog.pg_depend as d where d.objid = c.oid and d.deptype = 'i')
    union all
    select format('alter routine %s owner to cloudsync_owner', p.oid::pg_catalog.regprocedure)
    from pg_catalog.pg_proc as p
    where p.pronamespace = 'cloudsync'::pg_catalog.regnamespace
    union all
    select format('alter type cloudsync.%I owner to cloudsync_owner', t.typname)
    from pg_catalog.pg_type as t
    join pg_catalog.pg_class as c on c.oid = t.typrelid
    where t.typnamespace = 'cloudsync'::pg_catalog.regnamespace and c.relkind = 'c'
  loop
    execute v_object;
  end loop;
end
$grants$;

alter schema cloudsync owner to cloudsync_owner;

revoke all on all functions in schema cloudsync from public;
-- The owners of tables attach it; it checks for which table it runs.
grant execute on function cloudsync.capture() to public;
revoke all on function @extschema@.cloudsync_grant_hub(text) from public;
revoke all on function @extschema@.cloudsync_restored() from public;
alter function @extschema@.cloudsync_restored() owner to cloudsync_owner;

-- Whoever changes a table asks which triggers its partitions need.
grant execute on function cloudsync.partition_commands(name) to public;

-- Nobody shall forge a message: the hub verifies each one, this is the first line. Its parameters differ by major.
do $revoke$
declare
  v_function pg_catalog.regprocedure;
begin
  for v_function in
    select p.oid from pg_catalog.pg_proc as p
    where p.pronamespace = 'pg_catalog'::pg_catalog.regnamespace and p.proname = 'pg_logical_emit_message'
      and pg_catalog.has_function_privilege('public', p.oid, 'execute')
  loop
    insert into cloudsync.revoked_functions (signature) values (v_function::pg_catalog.text);
    execute pg_catalog.format('revoke execute on function %s from public', v_function);
  end loop;
end
$revoke$;

-- Commands that may change, also by a cascade, the name or the columns of a table.
create event trigger cloudsync_definitions on ddl_command_end
when tag in (
  'ALTER TABLE', 'ALTER INDEX', 'ALTER SCHEMA', 'ALTER TYPE', 'ALTER DOMAIN', 'DROP TABLE', 'DROP VIEW',
  'DROP MATERIALIZED VIEW', 'DROP TYPE', 'DROP DOMAIN', 'DROP COLLATION', 'DROP FUNCTION', 'DROP SCHEMA',
  'DROP EXTENSION', 'DROP OWNED', 'ALTER EXTENSION'
)
execute function cloudsync.follow_definitions();

create event trigger cloudsync_leave on ddl_command_start
when tag in ('DROP EXTENSION')
execute function cloudsync.leave();

create event trigger cloudsync_rewrites on table_rewrite
execute function cloudsync.note_rewrite();

-- Also for whoever has set session_replication_role.
alter event trigger cloudsync_definitions enable always;
alter event trigger cloudsync_leave enable always;
alter event trigger cloudsync_rewrites enable always;

-- A dump that is restored without owners makes what ours should be.
create event trigger cloudsync_owners on ddl_command_end
when tag in ('CREATE TABLE', 'CREATE FUNCTION')
execute function cloudsync.take_over();

alter event trigger cloudsync_owners enable always;

-- An upgrade ends: only now a grant is the database's own, and stands in its dumps.
create event trigger cloudsync_hubs on ddl_command_end
when tag in ('ALTER EXTENSION')
execute function cloudsync.grant_hubs();

alter event trigger cloudsync_hubs enable always;

-- Commands that may make, attach, detach or drop a partition. Event triggers fire in the order of their names: the
-- partitions are compared after they got their triggers, and our owner the right to read them.
create event trigger cloudsync_attach_partitions on ddl_command_end
when tag in ('CREATE TABLE', 'CREATE SCHEMA', 'ALTER TABLE', 'DROP TABLE', 'DROP SCHEMA', 'DROP OWNED')
execute function cloudsync.attach_partitions();

create event trigger cloudsync_partitions on ddl_command_end
when tag in ('CREATE TABLE', 'CREATE SCHEMA', 'ALTER TABLE', 'DROP TABLE', 'DROP SCHEMA', 'DROP OWNED')
execute function cloudsync.follow_partitions();

alter event trigger cloudsync_attach_partitions enable always;
alter event trigger cloudsync_partitions enable always;
