-- Functions that people call. Names and results as on SQLite.

-- Tracks a table: its writes are captured from now on.
create function @extschema@.cloudsync_init(table_name text, algorithm text default 'cls') returns void
language c volatile strict parallel unsafe
as 'MODULE_PATHNAME', 'init_by_name_wrapper';

create function @extschema@.cloudsync_init(relation regclass, algorithm text default 'cls') returns void
language c volatile strict parallel unsafe
as 'MODULE_PATHNAME', 'init_wrapper';

-- Stops tracking a table and forgets its metadata.
create function @extschema@.cloudsync_cleanup(table_name text) returns void
language c volatile strict parallel unsafe
as 'MODULE_PATHNAME', 'cleanup_by_name_wrapper';

create function @extschema@.cloudsync_cleanup(relation regclass) returns void
language c volatile strict parallel unsafe
as 'MODULE_PATHNAME', 'cleanup_wrapper';

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

-- Merges a payload (a file, or bare bytes) with the caller's rights. Returns how many rows
-- changed; refused rows are warned of and kept in cloudsync.rejected. Deferred constraints are
-- checked here, row by row if need be, by SET CONSTRAINTS ALL IMMEDIATE: that setting stays for
-- the rest of the caller's transaction, since Postgres tells nobody what it was before.
create function @extschema@.cloudsync_payload_apply(payload bytea) returns bigint
language c volatile strict parallel unsafe
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
  execute format('grant select on cloudsync.tracked_tables to %I', cloudsync_grant_hub.role);
  foreach v_function in array array[
    'definitions()',
    'snapshot_part(integer, boolean, bytea, integer)',
    'message_key()',
    'apply_upload(bytea, bytea, bytea, bigint, bigint, bytea, text, text)',
    'confirm_rejections(bytea, bigint)'
  ] loop
    execute format('grant execute on function cloudsync.%s to %I', v_function, cloudsync_grant_hub.role);
  end loop;
end
$grant$;
