-- What an ordinary role may do with anything of ours: walked through the catalog, so that an object made tomorrow is
-- in it.
\ir include/metadata.psql
create role sync_nobody;
create table t (id integer primary key, a text);
select cloudsync_init('t');
create schema other;
create table other.u (id integer primary key, a text);
select cloudsync_init('other.u');
insert into t values (1, 'one');

\echo == tables, views and sequences that somebody may touch
select c.relname, r.role, string_agg(p.privilege, ', ' order by p.privilege)
from pg_class as c
cross join (values ('public'), ('sync_nobody')) as r (role)
cross join lateral unnest(
  case c.relkind when 'S' then array['usage', 'select', 'update']
  else array['select', 'insert', 'update', 'delete', 'truncate', 'references', 'trigger'] end) as p (privilege)
where c.relnamespace = 'cloudsync'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'S', 'f')
  and case c.relkind when 'S' then has_sequence_privilege(r.role, c.oid, p.privilege)
      else has_table_privilege(r.role, c.oid, p.privilege) end
group by c.relname, r.role;
\echo == columns
select c.relname, a.attname
from pg_class as c
join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0
where c.relnamespace = 'cloudsync'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'f') and a.attacl is not null;
\echo == functions in our schema that somebody may call, beside trigger functions
select p.oid::regprocedure
from pg_proc as p
where p.pronamespace = 'cloudsync'::regnamespace and p.prorettype not in ('trigger'::regtype, 'event_trigger'::regtype)
  and has_function_privilege('sync_nobody', p.oid, 'execute')
order by 1;
\echo == our schema
select p.privilege, has_schema_privilege('sync_nobody', 'cloudsync', p.privilege)
from unnest(array['usage', 'create']) as p (privilege);
\echo == owners: everything belongs to cloudsync_owner
select c.relname, c.relowner::regrole from pg_class as c
where c.relnamespace = 'cloudsync'::regnamespace and c.relkind <> 'i' and c.relowner <> 'cloudsync_owner'::regrole
union all
select p.proname, p.proowner::regrole from pg_proc as p
where p.pronamespace = 'cloudsync'::regnamespace and p.proowner <> 'cloudsync_owner'::regrole
union all
select t.typname, t.typowner::regrole from pg_type as t
where t.typnamespace = 'cloudsync'::regnamespace and t.typowner <> 'cloudsync_owner'::regrole
union all
select n.nspname, n.nspowner::regrole from pg_namespace as n
where n.nspname = 'cloudsync' and n.nspowner <> 'cloudsync_owner'::regrole;
\echo == the owner is no superuser and cannot log in
select rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolcanlogin, rolbypassrls from pg_roles where rolname = 'cloudsync_owner';
select count(*) as members from pg_auth_members where roleid = 'cloudsync_owner'::regrole;
\echo == functions that run with the rights of their owner, or that anybody may call, have a search path of their own
select p.oid::regprocedure
from pg_proc as p
join pg_depend as d on d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e'
join pg_extension as e on e.oid = d.refobjid and e.extname = 'pg_sync'
where p.prosecdef and not coalesce(p.proconfig && array['search_path=pg_catalog, pg_temp'], false)
union all
select p.oid::regprocedure
from pg_proc as p
where p.pronamespace = 'cloudsync'::regnamespace and p.prosecdef
  and not coalesce(p.proconfig && array['search_path=pg_catalog, pg_temp'], false);
\echo == nobody writes messages
select has_function_privilege('sync_nobody', p.oid, 'execute') from pg_proc as p where p.proname = 'pg_logical_emit_message' and p.pronamespace = 'pg_catalog'::regnamespace group by 1;
\echo == what is refused, by trying
set role sync_nobody;
insert into cloudsync.sites values (null);
update cloudsync.meta_1 set hlc = 1;
delete from cloudsync.rejected;
select * from cloudsync.secret;
select nextval('cloudsync.fence');
select cloudsync.self_ordinal();
select cloudsync.stage_insert(1, row(1));
select cloudsync.stage_inserted(1, 1);
select cloudsync.register_table('t', 'cls');
select cloudsync.message_key();
select pg_logical_emit_message(true, 'cloudsync', 'x');
select cloudsync_init('t');
select cloudsync_cleanup('t');
select cloudsync_grant_hub('sync_nobody');
create trigger forged after insert on t execute function cloudsync.capture_insert_1();
create temporary table mine (id integer primary key, a text);
create trigger forged after insert on mine referencing new table as cloudsync_new for each statement execute function cloudsync.capture_insert_1();
insert into mine values (1, 'forged');
create trigger forged_too after truncate on mine for each statement execute function cloudsync.capture_truncate_1();
truncate mine;
select cloudsync.capture_insert_1();
create function cloudsync.mine() returns void language sql as '';
create event trigger mine on ddl_command_end execute function cloudsync.follow_definitions();
alter event trigger cloudsync_definitions disable;
drop extension pg_sync;
reset role;
select metadata('t');
drop owned by sync_nobody;
drop role sync_nobody;
