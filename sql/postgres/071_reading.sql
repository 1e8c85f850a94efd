-- What people read of tracked tables: lines and payloads of what changed, with the rights of the caller, one row's
-- stamps. Statements of the caller run inside, so search_path is pinned only where the library acts as the owner. Values
-- are printed alike whatever the session has set.

-- One line for each changed cell and one for the life of each row.
create function @extschema@.cloudsync_changed_lines()
returns table (
  tbl text,
  pk bytea,
  col_name text,
  col_value text,
  col_version bigint,
  db_version bigint,
  site_id bytea,
  cl bigint,
  seq bigint
)
language c volatile parallel unsafe
set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres'
set timezone = 'UTC'
set extra_float_digits = 1
as 'MODULE_PATHNAME', 'changes_wrapper';

create view @extschema@.cloudsync_changes as
select l.tbl, l.pk, l.col_name, l.col_value, l.col_version, l.db_version, l.site_id, l.cl, l.seq
from @extschema@.cloudsync_changed_lines() as l;

grant select on @extschema@.cloudsync_changes to public;

-- Everything that changed after one number and up to another, as a payload; null when there is nothing.
create function @extschema@.cloudsync_payload_encode(since bigint default 0, until bigint default null)
returns bytea
language c volatile parallel unsafe
set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres'
set timezone = 'UTC'
set extra_float_digits = 1
as 'MODULE_PATHNAME', 'payload_encode_wrapper';

create function cloudsync.gather_step(
  state internal,
  tbl text,
  pk bytea,
  col_name text,
  col_value text,
  col_version bigint,
  db_version bigint,
  site_id bytea,
  cl bigint,
  seq bigint
) returns internal
language c volatile parallel unsafe
as 'MODULE_PATHNAME', 'gather_step_wrapper';

create function cloudsync.gather_finish(state internal) returns bytea
language c volatile parallel unsafe
set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres'
set timezone = 'UTC'
set extra_float_digits = 1
as 'MODULE_PATHNAME', 'gather_finish_wrapper';

-- Lines of cloudsync_changes as a payload.
create aggregate @extschema@.cloudsync_payload_encode(
  tbl text,
  pk bytea,
  col_name text,
  col_value text,
  col_version bigint,
  db_version bigint,
  site_id bytea,
  cl bigint,
  seq bigint
) (
  sfunc = cloudsync.gather_step,
  stype = internal,
  finalfunc = cloudsync.gather_finish
);

-- The same in parts that each stay below a size.
create function @extschema@.cloudsync_payload_chunks(
  since_db_version bigint default 0,
  until_db_version bigint default null,
  max_bytes bigint default null
)
returns table (
  payload bytea,
  chunk_index bigint,
  payload_size bigint,
  rows bigint,
  db_version_min bigint,
  db_version_max bigint,
  watermark_db_version bigint,
  is_final boolean
)
language c volatile parallel unsafe
set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres'
set timezone = 'UTC'
set extra_float_digits = 1
as 'MODULE_PATHNAME', 'payload_chunks_wrapper';

-- By way of a file of the server, for roles that may touch those.
create function @extschema@.cloudsync_payload_save(path text, since bigint default 0, until bigint default null)
returns bigint
language c volatile parallel unsafe
set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres'
set timezone = 'UTC'
set extra_float_digits = 1
as 'MODULE_PATHNAME', 'payload_save_wrapper';

create function @extschema@.cloudsync_payload_load(path text) returns bigint
language c volatile strict parallel unsafe
as 'MODULE_PATHNAME', 'payload_load_wrapper';

-- Every stamp of one row, with site and time.
create function @extschema@.cloudsync_explain(relation regclass, variadic key "any") returns jsonb
language c volatile parallel unsafe
as 'MODULE_PATHNAME', 'explain_row_wrapper';
