-- Functions of the library. Those that run the caller's statements do not pin search_path,
-- because the caller's own triggers run inside them: they pin it where they act as the owner.

create function cloudsync.self_ordinal() returns integer
language c volatile parallel unsafe
as 'MODULE_PATHNAME', 'self_ordinal_wrapper';

-- Whether the registry is that of another database, from which this one was restored.
create function cloudsync.is_restored() returns boolean
language c volatile parallel unsafe
as 'MODULE_PATHNAME', 'is_restored_wrapper';

-- Parked cells under the ids that their columns have after a restore.
create function cloudsync.move_parked(payload bytea, "from" smallint[], "to" smallint[]) returns bytea
language c immutable strict parallel safe
as 'MODULE_PATHNAME', 'move_parked_wrapper';

-- Numbers of the columns to which a command gives another type: `computed` by an expression, else by a cast.
create function cloudsync.retyped_columns(command pg_ddl_command, computed boolean) returns smallint[]
language c volatile strict parallel unsafe
as 'MODULE_PATHNAME', 'retyped_columns';

-- The registry's row of a table as it is now, also for a transaction that sees what was there at its beginning.
create function cloudsync.registered(table_id integer) returns cloudsync.tables
language c volatile strict parallel unsafe
as 'MODULE_PATHNAME', 'registered';

-- Whether a table has changed without the registry, because event triggers were off.
create function cloudsync.is_behind(table_id integer) returns boolean
language c volatile strict parallel unsafe
as 'MODULE_PATHNAME', 'is_behind_wrapper';

-- In a transaction that sees what was there at its beginning: makes metadata which others have written since a row of
-- its own, unchanged, so that it can be written.
create function cloudsync.settle(table_id integer, row_key record) returns void
language c volatile strict parallel unsafe
as 'MODULE_PATHNAME', 'settle';

-- Whether a version of a row is the present one, also for a transaction that sees what was there at its beginning.
create function cloudsync.is_standing(relation oid, place tid) returns boolean
language c volatile strict parallel unsafe
as 'MODULE_PATHNAME', 'is_standing';

-- Locks a relation against being changed or renamed until the transaction ends, and tells whether it has the name.
create function cloudsync.hold_relation(relation oid, schema_name text, table_name text) returns boolean
language c volatile strict parallel unsafe
as 'MODULE_PATHNAME', 'hold_relation_wrapper';

-- Captures a statement on a tracked table, whose number is the trigger's argument. It stamps and emits rows by
-- itself where nothing else in the transaction has touched them; the general functions of the table do the rest.
create function cloudsync.capture() returns trigger
language c volatile parallel unsafe
as 'MODULE_PATHNAME', 'capture_statement';

-- Makes every session forget what it knows of tracked tables.
create function cloudsync.registry_changed() returns trigger
language c volatile parallel unsafe
as 'MODULE_PATHNAME', 'registry_changed';

create trigger cloudsync_registry after insert or update or delete on cloudsync.tables
for each statement execute function cloudsync.registry_changed();

create trigger cloudsync_registry after insert or update or delete on cloudsync.columns
for each statement execute function cloudsync.registry_changed();

-- Messages.

create function cloudsync.emit_step(
  state internal,
  table_id integer,
  incarnation bigint,
  version integer,
  columns smallint[],
  kind integer,
  hlc bigint,
  site integer,
  cols bigint[],
  carried boolean[],
  row_key record,
  image record
) returns internal
language c volatile parallel unsafe
as 'MODULE_PATHNAME', 'emit_step';

create function cloudsync.emit_finish(state internal) returns bigint
language c volatile parallel unsafe
as 'MODULE_PATHNAME', 'emit_finish';

-- Puts the changes of rows into logical messages, at most 64 KiB of rows each.
create aggregate cloudsync.emit(
  table_id integer,
  incarnation bigint,
  version integer,
  columns smallint[],
  kind integer,
  hlc bigint,
  site integer,
  cols bigint[],
  carried boolean[],
  row_key record,
  image record
) (
  sfunc = cloudsync.emit_step,
  stype = internal,
  sspace = 65536,
  finalfunc = cloudsync.emit_finish,
  finalfunc_modify = read_write
);

-- Stands for `emit` in the capture functions of a table that is disabled.
create function cloudsync.hold_back_step(state internal, variadic "any") returns internal
language c volatile parallel unsafe
as 'MODULE_PATHNAME', 'hold_back_step';

create function cloudsync.hold_back_finish(state internal) returns bigint
language c volatile parallel unsafe
as 'MODULE_PATHNAME', 'hold_back_finish';

create aggregate cloudsync.hold_back(variadic "any") (
  sfunc = cloudsync.hold_back_step,
  stype = internal,
  finalfunc = cloudsync.hold_back_finish
);

create function cloudsync.emit_definition(table_id integer) returns void
language c volatile strict parallel unsafe
set search_path = pg_catalog, pg_temp
as 'MODULE_PATHNAME', 'emit_definition_wrapper';

create function cloudsync.emit_reload(table_id integer, reason text) returns void
language c volatile strict parallel unsafe
set search_path = pg_catalog, pg_temp
as 'MODULE_PATHNAME', 'emit_reload_wrapper';

-- The stage of a running apply, as the capture triggers see it.

create type cloudsync.staged_row as (
  kind integer,
  alive boolean,
  hlc bigint,
  site integer,
  cols bigint[],
  carried boolean[]
);

create function cloudsync.staging(table_id integer) returns boolean
language c volatile strict parallel unsafe
as 'MODULE_PATHNAME', 'staging_wrapper';

create function cloudsync.is_staged(table_id integer, row_key record) returns boolean
language c volatile strict parallel unsafe
as 'MODULE_PATHNAME', 'is_staged';

-- What a staged row becomes, given what is now stored; null when it is not staged or needs
-- no writing.
create function cloudsync.stage_outcome(table_id integer, row_key record, image record)
returns cloudsync.staged_row
language c volatile parallel unsafe
as 'MODULE_PATHNAME', 'stage_outcome';

create function cloudsync.stage_unchanged(
  table_id integer,
  row_key record,
  alive boolean,
  hlc bigint,
  site integer,
  cols bigint[]
) returns boolean
language c volatile parallel unsafe
as 'MODULE_PATHNAME', 'stage_unchanged';

-- The short way for rows that apply inserted: what the metadata of one becomes, its message begun; null for a row
-- that is not staged, or that another statement has touched.
create function cloudsync.stage_insert(table_id integer, image record) returns cloudsync.staged_row
language c volatile parallel unsafe
as 'MODULE_PATHNAME', 'stage_insert';

-- The same for a table with an audience: whether the row takes part, and who reads it.
create function cloudsync.stage_insert_scoped(table_id integer, image record, now_in boolean, to_scopes text[])
returns cloudsync.staged_row
language c volatile parallel unsafe
as 'MODULE_PATHNAME', 'stage_insert_scoped';

-- Ends the short way of a statement that wrote so many rows of metadata, and sends their messages. Returns how many
-- rows were not taken, or null when other metadata stood there than the merge saw.
create function cloudsync.stage_inserted(table_id integer, written bigint) returns bigint
language c volatile strict parallel unsafe
as 'MODULE_PATHNAME', 'stage_inserted';

-- The hub's.

create function cloudsync.definitions() returns bytea
language c volatile parallel unsafe
set search_path = pg_catalog, pg_temp
as 'MODULE_PATHNAME', 'definitions_wrapper';

create function cloudsync.snapshot_part(table_id integer, dead boolean, after bytea, max_rows integer)
returns table (payload bytea, next bytea, row_count integer)
language c volatile parallel unsafe
set search_path = pg_catalog, pg_temp
set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres'
set timezone = 'UTC'
set extra_float_digits = 1
as 'MODULE_PATHNAME', 'snapshot_part_wrapper';

-- Keeps a part of the upload that apply_upload gets the last part of, in the same transaction; null for one that is
-- missing, which makes the upload incomplete.
create function cloudsync.add_chunk(chunk bytea) returns void
language c volatile parallel unsafe
as 'MODULE_PATHNAME', 'add_chunk_wrapper';

-- Says which upload of the same site comes right before the one that apply_upload gets in the same transaction: its
-- site has not heard yet that it was taken, so that it has no token of it.
create function cloudsync.follow_upload(upload_id bytea) returns void
language c volatile parallel unsafe
as 'MODULE_PATHNAME', 'follow_upload_wrapper';

create function cloudsync.apply_upload(
  payload bytea,
  site bytea,
  upload_id bytea,
  first bigint,
  last bigint,
  token bytea,
  role text,
  claims text,
  rejected_seen bigint default null
) returns jsonb
language c volatile parallel unsafe
as 'MODULE_PATHNAME', 'apply_upload_wrapper';

create function cloudsync.message_key() returns bytea
language sql stable security definer
set search_path = pg_catalog, pg_temp
begin atomic
  select s.key from cloudsync.secret as s;
end;
