-- Functions that people call. Names and results as on SQLite.

-- Tracks a table, or all of a schema for '*': their writes are captured from now on. Returns the id of this
-- database's site as 32 hexadecimal digits. The flags are those of SQLite; nothing here needs one.
create function @extschema@.cloudsync_init(table_name text, algorithm text default null, flags integer default 0)
returns text
language c volatile parallel unsafe
as 'MODULE_PATHNAME', 'init_by_name_wrapper';

create function @extschema@.cloudsync_init(relation regclass, algorithm text default null, flags integer default 0)
returns text
language c volatile parallel unsafe
as 'MODULE_PATHNAME', 'init_wrapper';

-- Stops tracking a table, or all for '*', and forgets its metadata.
create function @extschema@.cloudsync_cleanup(table_name text) returns void
language c volatile strict parallel unsafe
as 'MODULE_PATHNAME', 'cleanup_by_name_wrapper';

create function @extschema@.cloudsync_cleanup(relation regclass) returns void
language c volatile strict parallel unsafe
as 'MODULE_PATHNAME', 'cleanup_wrapper';

-- For symmetry with SQLite: there is nothing to close.
create function @extschema@.cloudsync_terminate() returns boolean
language sql immutable parallel safe
set search_path = pg_catalog, pg_temp
begin atomic
  select true;
end;

-- A disabled table is neither sent nor received. Its writes are stamped all the same, and travel when it is enabled.
create function @extschema@.cloudsync_enable(relation regclass) returns void
language c volatile strict parallel unsafe
as 'MODULE_PATHNAME', 'enable_wrapper';

create function @extschema@.cloudsync_disable(relation regclass) returns void
language c volatile strict parallel unsafe
as 'MODULE_PATHNAME', 'disable_wrapper';

create function @extschema@.cloudsync_is_enabled(relation regclass) returns boolean
language c volatile strict parallel unsafe
as 'MODULE_PATHNAME', 'is_enabled_wrapper';

-- Keep a value under a key for the database, a table, a column; null takes it away.
create function @extschema@.cloudsync_set(key text, value text) returns void
language c volatile parallel unsafe
as 'MODULE_PATHNAME', 'set_wrapper';

create function @extschema@.cloudsync_set_table(relation regclass, key text, value text) returns void
language c volatile parallel unsafe
as 'MODULE_PATHNAME', 'set_table_wrapper';

create function @extschema@.cloudsync_set_column(relation regclass, column_name text, key text, value text)
returns void
language c volatile parallel unsafe
as 'MODULE_PATHNAME', 'set_column_wrapper';

-- In which schema the tables are that clients name: all, or those of one name. Null takes it back.
create function @extschema@.cloudsync_set_schema(schema_name text) returns void
language c volatile parallel unsafe
as 'MODULE_PATHNAME', 'set_schema_wrapper';

create function @extschema@.cloudsync_set_table_schema(table_name text, schema_name text) returns void
language c volatile parallel unsafe
as 'MODULE_PATHNAME', 'set_table_schema_wrapper';

-- The schema of the tracked table that clients call by a name, or of the one that they would.
create function @extschema@.cloudsync_table_schema(table_name text) returns text
language sql stable strict security definer
set search_path = pg_catalog, pg_temp
begin atomic
  select coalesce(
    (select t.schema_name from cloudsync.tables as t where t.client_name = cloudsync_table_schema.table_name),
    (select m.schema_name from cloudsync.table_schemas as m where m.table_name = cloudsync_table_schema.table_name),
    (select s.value from cloudsync.settings as s where s.key = 'schema'));
end;

alter function @extschema@.cloudsync_table_schema(text) owner to cloudsync_owner;

-- Rows that do not match stay here: an expression over the columns of one row. The other takes it away.
create function @extschema@.cloudsync_set_filter(relation regclass, expression text) returns boolean
language c volatile parallel unsafe
as 'MODULE_PATHNAME', 'set_filter_wrapper';

create function @extschema@.cloudsync_clear_filter(relation regclass) returns boolean
language c volatile parallel unsafe
as 'MODULE_PATHNAME', 'clear_filter_wrapper';

-- Who reads a row: an expression over its columns that gives text or text[]. Null takes it away.
create function @extschema@.cloudsync_set_scope(relation regclass, expression text) returns void
language c volatile parallel unsafe
as 'MODULE_PATHNAME', 'set_scope_wrapper';

-- The scopes that a token may read, from its claims: what everybody reads, and what is its own. A function of the
-- user's takes its place by cloudsync_set('scopes_function', ...).
create function @extschema@.cloudsync_scopes(claims jsonb) returns setof text
language sql stable parallel safe
set search_path = pg_catalog, pg_temp
begin atomic
  select ''
  union
  select cloudsync_scopes.claims ->> 'sub' where cloudsync_scopes.claims ->> 'sub' is not null;
end;

-- For symmetry with SQLite: changes of a tracked table are followed by themselves.
create function @extschema@.cloudsync_begin_alter(relation regclass) returns void
language c volatile strict parallel unsafe
as 'MODULE_PATHNAME', 'begin_alter_wrapper';

create function @extschema@.cloudsync_commit_alter(relation regclass) returns void
language c volatile strict parallel unsafe
as 'MODULE_PATHNAME', 'commit_alter_wrapper';

create function @extschema@.cloudsync_version() returns text
language c immutable strict parallel safe
set search_path = pg_catalog, pg_temp
as 'MODULE_PATHNAME', 'version_wrapper';

-- Sixteen bytes that name this database among all sites.
create function @extschema@.cloudsync_siteid() returns bytea
language c volatile strict parallel unsafe
set search_path = pg_catalog, pg_temp
as 'MODULE_PATHNAME', 'siteid_wrapper';

-- A UUIDv7: the time first, so that new keys lie beside each other.
create function @extschema@.cloudsync_uuid() returns uuid
language c volatile strict parallel safe
set search_path = pg_catalog, pg_temp
as 'MODULE_PATHNAME', 'uuid_wrapper';

create function @extschema@.cloudsync_uuid_text(bytes bytea, hyphens integer default 1) returns text
language plpgsql immutable strict parallel safe
set search_path = pg_catalog, pg_temp
as $uuid$
begin
  if octet_length(bytes) <> 16 then
    raise exception 'cloudsync_uuid_text: argument 1 is a bytea of % bytes, wanted a bytea of 16 bytes',
      octet_length(bytes) using errcode = 'invalid_parameter_value';
  end if;
  return case when hyphens = 0 then encode(bytes, 'hex') else encode(bytes, 'hex')::uuid::text end;
end
$uuid$;

create function @extschema@.cloudsync_uuid_blob(digits text) returns bytea
language plpgsql immutable strict parallel safe
set search_path = pg_catalog, pg_temp
as $uuid$
begin
  if digits !~ '^([0-9a-fA-F]{32}|[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})$' then
    raise exception 'cloudsync_uuid_blob: argument 1 is text of % bytes, wanted a UUID: 32 hexadecimal digits, or '
      '36 characters with hyphens', octet_length(digits) using errcode = 'invalid_parameter_value';
  end if;
  return uuid_send(digits::uuid);
end
$uuid$;

-- The number of the newest transaction that ended with all before it: whoever asks for what changed after it
-- misses nothing, and may see again what transactions wrote that were running.
create function @extschema@.cloudsync_db_version() returns bigint
language sql stable parallel safe
set search_path = pg_catalog, pg_temp
begin atomic
  select pg_snapshot_xmin(pg_current_snapshot())::text::bigint - 1;
end;

-- Merges a payload (a file, or bare bytes) with the caller's rights. Returns how many rows
-- changed; refused rows are warned of and kept in cloudsync.rejected. Deferred constraints are
-- checked here, row by row if need be, unless some are open already; what the caller's transaction
-- defers, it goes on to defer.
create function @extschema@.cloudsync_payload_apply(payload bytea) returns bigint
language c volatile parallel unsafe
as 'MODULE_PATHNAME', 'payload_apply_wrapper';

-- Tells a user's trigger that apply is writing to its table.
create function @extschema@.cloudsync_is_sync(relation regclass) returns boolean
language c volatile strict parallel unsafe
as 'MODULE_PATHNAME', 'is_sync_wrapper';

-- Gives the hub's login role what it needs. It further needs REPLICATION, and membership
-- of the roles that it may assume.
create function @extschema@.cloudsync_grant_hub(role text) returns void
language plpgsql volatile strict
set search_path = pg_catalog, pg_temp
as $grant$
declare
  v_function text;
begin
  execute format('grant cloudsync_owner to %I', cloudsync_grant_hub.role);
  execute format('grant usage on schema cloudsync to %I', cloudsync_grant_hub.role);
  execute format('grant usage, select on sequence cloudsync.fence to %I', cloudsync_grant_hub.role);
  execute format('grant select on cloudsync.tracked_tables, cloudsync.job_states to %I', cloudsync_grant_hub.role);
  foreach v_function in array array[
    'definitions()',
    'snapshot_part(integer, boolean, bytea, integer)',
    'message_key()',
    'add_chunk(bytea)',
    'follow_upload(bytea)',
    'apply_upload(bytea, bytea, bytea, bigint, bigint, bytea, text, text, bigint)',
    'replay(bytea)',
    'begin_generation(text)',
    'restored()',
    'standbys_flushed()',
    'site_acked(bytea)',
    'note_site(bytea, pg_lsn)',
    'collect_tombstones(integer)',
    'catch_up()',
    'scopes_of(jsonb)',
    'make_job(text, text, text, jsonb, interval, interval)',
    'claim_job(text[], text, interval)',
    'extend_job(bigint, bigint, interval)',
    'end_job(bigint, bigint, text, integer)',
    'bury_job(text, text, text, jsonb, text)',
    'revive_job(bigint)',
    'forget_job(bigint)'
  ] loop
    execute format('grant execute on function cloudsync.%s to %I', v_function, cloudsync_grant_hub.role);
  end loop;
end
$grant$;

-- Gives the hubs that an upgrade began with what they need of the new version. Runs as whoever upgrades.
create function cloudsync.grant_hubs()
returns event_trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $hubs$
begin
  -- Of somebody who alters an extension of theirs nothing is wanted.
  if not has_table_privilege('cloudsync.hubs', 'delete') then
    return;
  end if;
  perform @extschema@.cloudsync_grant_hub(r.rolname)
  from cloudsync.hubs as h
  join pg_roles as r on r.oid = h.role;
  delete from cloudsync.hubs;
end
$hubs$;

