-- The role that owns everything of ours. It cannot log in; it passes row-level security
-- because metadata is kept for every row, also for those that a policy hides.
do $owner$
begin
  if not exists (select from pg_catalog.pg_roles as r where r.rolname = 'cloudsync_owner') then
    create role cloudsync_owner nologin bypassrls;
  end if;
exception
  -- Roles belong to the whole server: another database made it at the same moment.
  when duplicate_object or unique_violation then
    null;
end
$owner$;

create schema cloudsync;

-- Trigger functions live here: whoever creates a table must be able to name them.
grant usage on schema cloudsync to public;
-- The registry: which tables and columns are tracked, under which numbers, and who this
-- database is. Ids are never used again, so that old messages stay readable.

create table cloudsync.site_dictionary (
  ordinal integer primary key,
  site bytea not null unique check (octet_length(site) = 16)
);

create sequence cloudsync.site_ordinal as integer;

-- Ordinal 0 is nobody: the stamp of a column that the creation of its row did not carry.
insert into cloudsync.site_dictionary (ordinal, site)
values (0, decode('00000000000000000000000000000000', 'hex'));

-- One row, made at the first use. The last three columns say which database the site id was made for: when one of
-- them changes, this is a copy, and it takes a new site id.
create table cloudsync.self (
  only_row boolean primary key default true check (only_row),
  ordinal integer not null references cloudsync.site_dictionary (ordinal),
  system_identifier text not null,
  timeline integer not null,
  database_oid oid not null
);

create sequence cloudsync.table_number as integer;

create table cloudsync.tables (
  table_id integer primary key default nextval('cloudsync.table_number'),
  relation regclass not null unique,
  schema_name text not null,
  table_name text not null unique,
  incarnation bigint not null,
  version integer not null,
  algorithm smallint not null default 0
);

-- A column's id is its attribute number: Postgres never uses one again within a table.
create table cloudsync.columns (
  table_id integer not null references cloudsync.tables (table_id) on delete cascade,
  column_id smallint not null,
  name text not null,
  type_name text not null,
  type_oid regtype not null,
  key_position smallint,
  equality text,
  algorithm smallint not null default 0,
  column_group text,
  primary key (table_id, column_id)
);

create view cloudsync.tracked_tables as
select t.table_id, t.schema_name as schema, t.table_name as name
from cloudsync.tables as t
where exists (select from pg_catalog.pg_class as c where c.oid = t.relation);

-- Values of cells that are newer than the deletion of their row, one entry a row.
create table cloudsync.parked (
  table_id integer not null references cloudsync.tables (table_id) on delete cascade,
  row_key bytea not null,
  payload bytea not null,
  primary key (table_id, row_key)
);

-- Columns that uploads named and no tracked table has.
create table cloudsync.skipped_columns (
  table_name text not null,
  column_name text not null,
  site bytea not null,
  seen_at timestamptz not null default clock_timestamp(),
  primary key (table_name, column_name, site)
);

-- What Postgres knows of each site that uploads: how far it got, and the token by which a
-- copy of its file is told from the file itself.
create table cloudsync.sites (
  site bytea primary key check (octet_length(site) = 16),
  acked bigint not null,
  token bytea not null check (octet_length(token) = 16),
  upload_id bytea not null,
  accepted_hlc bigint not null default 0,
  seen_at timestamptz not null default clock_timestamp()
);

-- Rows that the database refused, kept until their site has confirmed that it knows.
create sequence cloudsync.rejection_number;

create table cloudsync.rejected (
  rejection_id bigint primary key default nextval('cloudsync.rejection_number'),
  site bytea not null,
  table_name text not null,
  row_key bytea not null,
  key jsonb not null,
  sqlstate text not null,
  message text not null,
  first_number bigint not null,
  last_number bigint not null,
  rejected_at timestamptz not null default clock_timestamp(),
  unique (site, table_name, row_key)
);

-- The key that signs messages: only the owner and the hub may read it.
create table cloudsync.secret (
  only_row boolean primary key default true check (only_row),
  key bytea not null check (octet_length(key) = 32)
);

insert into cloudsync.secret (key)
values (sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())));

-- Numbers that order the leaders of the hub.
create sequence cloudsync.fence;

-- A dump carries all of it; the restored database then takes a new site id by itself.
select pg_catalog.pg_extension_config_dump('cloudsync.site_dictionary', 'where ordinal <> 0');
select pg_catalog.pg_extension_config_dump('cloudsync.site_ordinal', '');
select pg_catalog.pg_extension_config_dump('cloudsync.self', '');
select pg_catalog.pg_extension_config_dump('cloudsync.tables', '');
select pg_catalog.pg_extension_config_dump('cloudsync.columns', '');
select pg_catalog.pg_extension_config_dump('cloudsync.table_number', '');
select pg_catalog.pg_extension_config_dump('cloudsync.rejection_number', '');
select pg_catalog.pg_extension_config_dump('cloudsync.fence', '');
select pg_catalog.pg_extension_config_dump('cloudsync.parked', '');
select pg_catalog.pg_extension_config_dump('cloudsync.skipped_columns', '');
select pg_catalog.pg_extension_config_dump('cloudsync.sites', '');
select pg_catalog.pg_extension_config_dump('cloudsync.rejected', '');
-- Functions of the library. Those that run the caller's statements do not pin search_path,
-- because the caller's own triggers run inside them: they pin it where they act as the owner.

create function cloudsync.self_ordinal() returns integer
language c volatile parallel unsafe
as 'MODULE_PATHNAME', 'self_ordinal_wrapper';

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

create function cloudsync.apply_upload(
  payload bytea,
  site bytea,
  upload_id bytea,
  first bigint,
  last bigint,
  token bytea,
  role text,
  claims text
) returns jsonb
language c volatile parallel unsafe
as 'MODULE_PATHNAME', 'apply_upload_wrapper';

create function cloudsync.message_key() returns bytea
language sql stable security definer
set search_path = pg_catalog, pg_temp
begin atomic
  select s.key from cloudsync.secret as s;
end;

create function cloudsync.confirm_rejections(site bytea, up_to bigint) returns bigint
language sql volatile security definer
set search_path = pg_catalog, pg_temp
begin atomic
  with confirmed as (
    delete from cloudsync.rejected as r
    where r.site = confirm_rejections.site and r.rejection_id <= confirm_rejections.up_to
    returning 1
  )
  select count(*) from confirmed;
end;
-- Capture: writes the trigger functions of one tracked table. They alone write the metadata
-- of data rows and emit messages, also while apply writes.
--
-- Stamps: max(wall, previous stamp of the written cells and of the life + 1); a creation or
-- deletion goes above every stamp of its row. The clock is read after the row locks were
-- taken, and the previous stamps under the lock of the metadata row.

-- One expression for each key column, or each other column, of a table: {name} its name,
-- {id} its column id, {n} its place in the list, {eq} its equality operator.
create function cloudsync.spell(table_id integer, key boolean, pattern text, separator text)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
  select coalesce(
    string_agg(
      replace(
        replace(
          replace(replace(spell.pattern, '{n}', listed.place::text), '{id}', listed.column_id::text),
          '{eq}', coalesce(listed.equality, '')),
        '{name}', quote_ident(listed.name)),
      spell.separator order by listed.place),
    '')
  from (
    select c.name, c.column_id, c.equality,
      row_number() over (order by c.key_position, c.column_id) as place
    from cloudsync.columns as c
    where c.table_id = spell.table_id and (c.key_position is not null) = spell.key
  ) as listed;
end;

-- One pair of expressions for each attribute number up to the last tracked one, as packed
-- in `cols`: {hlc} and {site} are the subscripts, {n} the place in the list of columns.
create function cloudsync.spell_cols(table_id integer, pattern text)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
  select string_agg(
    case
      when listed.place is null then 'null, null'
      else replace(
        replace(replace(spell_cols.pattern, '{hlc}', (2 * a.id - 1)::text), '{site}', (2 * a.id)::text),
        '{n}', listed.place::text)
    end,
    ', ' order by a.id)
  from (
    select generate_series(1, max(c.column_id)::integer) as id
    from cloudsync.columns as c
    where c.table_id = spell_cols.table_id
  ) as a
  left join (
    select c.column_id, row_number() over (order by c.column_id) as place
    from cloudsync.columns as c
    where c.table_id = spell_cols.table_id and c.key_position is null
  ) as listed on listed.column_id = a.id;
end;

-- The conflict clause that stamps a local write of a row whose metadata exists. The row
-- that was proposed says what happened: hlc 1 and alive is an update of the columns whose
-- places in `cols` are filled, else it is a creation or a deletion.
create function cloudsync.spell_upsert(table_id integer)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
  select format(
    $clause$on conflict (%1$s) do update
    set (alive, hlc, site, cols) = (
      select
        excluded.alive,
        case when s.kept then m.hlc else s.stamp end,
        case when s.kept then m.site else excluded.site end,
        case when s.kept then array[%2$s]::bigint[] end
      from (
        select
          u.kept,
          greatest(
            v_wall,
            1 + case when u.kept then greatest(m.hlc%3$s) else greatest(m.hlc%4$s) end
          ) as stamp
        from (select excluded.hlc = 1 and excluded.alive and m.alive as kept offset 0) as u
        offset 0
      ) as s
    )$clause$,
    cloudsync.spell(spell_upsert.table_id, true, 'key_{n}', ', '),
    cloudsync.spell_cols(
      spell_upsert.table_id,
      'case when excluded.cols[{hlc}] is null then m.cols[{hlc}] else s.stamp end, '
      'case when excluded.cols[{hlc}] is null then m.cols[{site}] else excluded.cols[{site}] end'),
    cloudsync.spell(
      spell_upsert.table_id, false,
      ', case when excluded.cols[2 * {id} - 1] is not null then m.cols[2 * {id} - 1] end', ''),
    cloudsync.spell(spell_upsert.table_id, false, ', m.cols[2 * {id} - 1]', ''));
end;

-- Greatest stamp of a metadata row `m`.
create function cloudsync.spell_greatest(table_id integer)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
  select format(
    'greatest(m.hlc%s)', cloudsync.spell(spell_greatest.table_id, false, ', m.cols[2 * {id} - 1]', ''));
end;

-- The rows of a statement by key, from the transition tables of one operation: key_1 ..,
-- was, now, image and changed_1 ... Rows of an update that changed nothing are left out, except
-- for the staged path, where a greater stamp may come with an equal value.
create function cloudsync.spell_source(table_id integer, operation text, unchanged boolean)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
  select case spell_source.operation
    when 'insert' then format(
      'select %s, false as was, true as now, coalesce(n.*) as image%s from cloudsync_new as n',
      cloudsync.spell(spell_source.table_id, true, 'n.{name} as key_{n}', ', '),
      cloudsync.spell(spell_source.table_id, false, ', false as changed_{n}', ''))
    when 'delete' then format(
      'select %s, true as was, false as now, coalesce(o.*) as image%s from cloudsync_old as o',
      cloudsync.spell(spell_source.table_id, true, 'o.{name} as key_{n}', ', '),
      cloudsync.spell(spell_source.table_id, false, ', false as changed_{n}', ''))
    else format(
      'select %s, %s as was, %s as now, case when %s then n.* else o.* end as image%s'
      ' from cloudsync_old as o full join cloudsync_new as n on %s'
      ' where %s or %s or %s',
      cloudsync.spell(spell_source.table_id, true, 'coalesce(n.{name}, o.{name}) as key_{n}', ', '),
      cloudsync.spell(spell_source.table_id, true, 'o.{name} is not null', ' and '),
      cloudsync.spell(spell_source.table_id, true, 'n.{name} is not null', ' and '),
      cloudsync.spell(spell_source.table_id, true, 'n.{name} is not null', ' and '),
      cloudsync.spell(
        spell_source.table_id, false,
        ', pg_catalog.record_image_ne(row(o.{name}), row(n.{name})) as changed_{n}', ''),
      cloudsync.spell(spell_source.table_id, true, 'n.{name} {eq} o.{name}', ' and '),
      cloudsync.spell(spell_source.table_id, true, 'o.{name} is null', ' or '),
      cloudsync.spell(spell_source.table_id, true, 'n.{name} is null', ' or '),
      case when spell_source.unchanged then 'true' else 'o.* operator(pg_catalog.*<>) n.*' end)
  end;
end;

-- The statement that stamps and emits what the transition tables show, for rows that
-- nothing else in this transaction has touched.
create function cloudsync.spell_direct(table_id integer, operation text)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
  select format(
    $statement$with c as %1$s (
      select x.*, array[%2$s]::boolean[] as changed, x.was and x.now as updated
      from (%3$s) as x
    ), written as (
      insert into %4$s as m (%5$s, alive, hlc, site, cols)
      select
        %6$s,
        c.now,
        case when c.updated then 1 else v_wall end,
        v_site,
        case when c.updated then array[%7$s]::bigint[] end
      from c
      where not c.updated or true = any (c.changed)
      %8$s
      where %9$s < v_start
      returning %14$s, m.alive, m.hlc, m.site, m.cols
    )
    select
      cloudsync.emit(
        %11$s, v_table.incarnation, v_table.version, %12$L::smallint[],
        case when not w.alive then 2 when w.cols is null then 1 else 0 end,
        w.hlc, w.site, w.cols, case when w.cols is not null then c.changed end, row(%10$s), c.image
      ) filter (where w.alive is not null),
      count(*) filter (where w.alive is null and (not c.updated or true = any (c.changed)))
    into v_emitted, v_left
    from c
    full join written as w on %13$s;$statement$,
    case spell_direct.operation when 'update' then 'materialized' else 'not materialized' end,
    cloudsync.spell(spell_direct.table_id, false, 'x.changed_{n}', ', '),
    cloudsync.spell_source(spell_direct.table_id, spell_direct.operation, false),
    format('cloudsync.meta_%s', spell_direct.table_id),
    cloudsync.spell(spell_direct.table_id, true, 'key_{n}', ', '),
    cloudsync.spell(spell_direct.table_id, true, 'c.key_{n}', ', '),
    cloudsync.spell_cols(
      spell_direct.table_id,
      'case when c.changed[{n}] then v_wall end, case when c.changed[{n}] then v_site end'),
    cloudsync.spell_upsert(spell_direct.table_id),
    cloudsync.spell_greatest(spell_direct.table_id),
    cloudsync.spell(spell_direct.table_id, true, 'w.key_{n}', ', '),
    spell_direct.table_id,
    '{' || cloudsync.spell(spell_direct.table_id, false, '{id}', ',') || '}',
    cloudsync.spell(spell_direct.table_id, true, 'c.key_{n} {eq} w.key_{n}', ' and '),
    cloudsync.spell(spell_direct.table_id, true, 'm.key_{n}', ', '));
end;

-- The common start of the slow path and of the staged path: each key once, with the row as
-- it stands now. Transition tables are not the order of writes: nested statements, CTEs and
-- cascades have written since, so the current row decides existence and values.
create function cloudsync.spell_current(table_id integer, operation text, unchanged boolean)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
  select format(
    $statement$with k as materialized (
      select %1$s, bool_or(x.was) as was, bool_or(x.now) as now, array[%2$s]::boolean[] as changed
      from (%3$s) as x
      group by %1$s
    ), r as materialized (
      select k.*, coalesce(t.present, false) as present, t.image
      from k
      left join lateral (
        select true as present, coalesce(d.*) as image
        from only %4$s as d
        where %5$s
        offset 0
      ) as t on true
    )$statement$,
    cloudsync.spell(spell_current.table_id, true, 'x.key_{n}', ', '),
    cloudsync.spell(spell_current.table_id, false, 'bool_or(x.changed_{n})', ', '),
    cloudsync.spell_source(spell_current.table_id, spell_current.operation, spell_current.unchanged),
    (select format('%I.%I', t.schema_name, t.table_name)
     from cloudsync.tables as t
     where t.table_id = spell_current.table_id),
    cloudsync.spell(spell_current.table_id, true, 'd.{name} {eq} k.key_{n}', ' and '));
end;

-- The slow path: stamps and emits by the row as it stands.
create function cloudsync.spell_slow(table_id integer, operation text)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
  select format(
    $statement$%1$s, c as materialized (
      select r.*, r.was and r.now as updated
      from r
      where not cloudsync.is_staged(%2$s, row(%3$s))
        and (not r.present or r.now)
        and (not r.present or not r.was or true = any (r.changed))
    ), written as (
      insert into cloudsync.meta_%2$s as m (%4$s, alive, hlc, site, cols)
      select
        %5$s,
        c.present,
        case when c.present and c.updated then 1 else v_wall end,
        v_site,
        case when c.present and c.updated then array[%6$s]::bigint[] end
      from c
      %7$s
      where excluded.alive or m.alive
      returning %8$s, m.alive, m.hlc, m.site, m.cols
    )
    select cloudsync.emit(
      %2$s, v_table.incarnation, v_table.version, %9$L::smallint[],
      case when not w.alive then 2 when w.cols is null then 1 else 0 end,
      w.hlc, w.site, w.cols, case when w.cols is not null then c.changed end, row(%10$s), c.image
    ) filter (where w.alive is not null)
    into v_emitted
    from c
    full join written as w on %11$s;$statement$,
    cloudsync.spell_current(spell_slow.table_id, spell_slow.operation, false),
    spell_slow.table_id,
    cloudsync.spell(spell_slow.table_id, true, 'r.key_{n}', ', '),
    cloudsync.spell(spell_slow.table_id, true, 'key_{n}', ', '),
    cloudsync.spell(spell_slow.table_id, true, 'c.key_{n}', ', '),
    cloudsync.spell_cols(
      spell_slow.table_id,
      'case when c.changed[{n}] then v_wall end, case when c.changed[{n}] then v_site end'),
    cloudsync.spell_upsert(spell_slow.table_id),
    cloudsync.spell(spell_slow.table_id, true, 'm.key_{n}', ', '),
    '{' || cloudsync.spell(spell_slow.table_id, false, '{id}', ',') || '}',
    cloudsync.spell(spell_slow.table_id, true, 'w.key_{n}', ', '),
    cloudsync.spell(spell_slow.table_id, true, 'c.key_{n} {eq} w.key_{n}', ' and '));
end;

-- Rows that apply wrote: the stage knows what was asked and what merge decided.
create function cloudsync.spell_staged(table_id integer, operation text)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
  select format(
    $statement$%1$s, c as materialized (
      select r.*, s.kind, s.alive, s.hlc, s.site, s.cols, s.carried
      from r
      cross join lateral cloudsync.stage_outcome(%2$s, row(%3$s), r.image) as s
      where s.kind is not null
    ), written as (
      insert into cloudsync.meta_%2$s as m (%4$s, alive, hlc, site, cols)
      select %5$s, c.alive, c.hlc, c.site, c.cols
      from c
      on conflict (%4$s) do update
      set alive = excluded.alive, hlc = excluded.hlc, site = excluded.site, cols = excluded.cols
      where cloudsync.stage_unchanged(%2$s, row(%6$s), m.alive, m.hlc, m.site, m.cols)
      returning %6$s
    )
    select
      cloudsync.emit(
        %2$s, v_table.incarnation, v_table.version, %7$L::smallint[],
        c.kind, c.hlc, c.site, c.cols, c.carried, row(%5$s), c.image
      ) filter (where w.key_1 is not null),
      count(*) filter (where w.key_1 is null)
    into v_emitted, v_left
    from c
    full join written as w on %8$s;$statement$,
    cloudsync.spell_current(spell_staged.table_id, spell_staged.operation, true),
    spell_staged.table_id,
    cloudsync.spell(spell_staged.table_id, true, 'r.key_{n}', ', '),
    cloudsync.spell(spell_staged.table_id, true, 'key_{n}', ', '),
    cloudsync.spell(spell_staged.table_id, true, 'c.key_{n}', ', '),
    cloudsync.spell(spell_staged.table_id, true, 'm.key_{n}', ', '),
    '{' || cloudsync.spell(spell_staged.table_id, false, '{id}', ',') || '}',
    cloudsync.spell(spell_staged.table_id, true, 'c.key_{n} {eq} w.key_{n}', ' and '));
end;
-- The trigger functions of a tracked table: written anew when its definition changes.

-- Raises where a name in a capture function could mean something else than at its writing, because a view of that
-- name would then run its functions as our owner: a table whose renaming was not followed, or a trigger without
-- transition tables while temporary relations have their names.
create function cloudsync.check_trigger(
  tracked cloudsync.tables,
  table_schema name,
  table_name name,
  trigger_name name,
  operation text
)
returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $check$
begin
  if (tracked.schema_name, tracked.table_name) <> (table_schema::text, check_trigger.table_name::text) then
    raise exception 'table % was renamed while event triggers were off, call cloudsync_init again', tracked.relation
      using errcode = 'object_not_in_prerequisite_state';
  end if;
  if operation <> 'truncate'
     and (to_regclass('pg_temp.cloudsync_old') is not null or to_regclass('pg_temp.cloudsync_new') is not null)
     and not exists (
       select from pg_trigger as g
       where g.tgrelid = tracked.relation and g.tgname = trigger_name
         and (operation = 'insert' or g.tgoldtable = 'cloudsync_old')
         and (operation = 'delete' or g.tgnewtable = 'cloudsync_new'))
  then
    raise exception 'trigger % of table % has no transition tables', trigger_name, tracked.relation
      using errcode = 'wrong_object_type';
  end if;
end
$check$;

-- Writes the capture function of one operation. A key that occurs twice in a transition
-- table, or whose metadata this transaction has written already, takes the slow path. Values
-- that travel as text are printed alike whatever the session has set.
create function cloudsync.create_capture_function(table_id integer, operation text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $create$
begin
  execute format(
    $function$create or replace function cloudsync.capture_%1$s_%2$s() returns trigger
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set datestyle = 'ISO, YMD'
set intervalstyle = 'postgres'
set timezone = 'UTC'
set extra_float_digits = 1
as $capture$
#variable_conflict use_variable
declare
  v_table cloudsync.tables;
  v_site integer := cloudsync.self_ordinal();
  v_start bigint := floor(extract(epoch from transaction_timestamp()) * 1000)::bigint << 16;
  v_wall bigint := floor(extract(epoch from clock_timestamp()) * 1000)::bigint << 16;
  v_emitted bigint;
  v_left bigint := 1;
begin
  select t.* into v_table from cloudsync.tables as t where t.table_id = %2$s and t.relation = tg_relid;
  if not found then
    raise exception 'function %% captures another table than %%', 'cloudsync.capture_%1$s_%2$s', tg_relid::regclass
      using errcode = 'wrong_object_type';
  end if;
  perform cloudsync.check_trigger(v_table, tg_table_schema, tg_table_name, tg_name, '%1$s');
  if cloudsync.staging(%2$s) then
    %3$s
    if v_left > 0 then
      raise exception 'metadata of %% changed while apply was writing', tg_relid::regclass
        using errcode = 'CS001';
    end if;
    v_left := 1;
  elsif not %4$s then
    %5$s
  end if;
  if v_left > 0 then
    %6$s
  end if;
  return null;
end
$capture$$function$,
    create_capture_function.operation,
    create_capture_function.table_id,
    cloudsync.spell_staged(create_capture_function.table_id, create_capture_function.operation),
    case create_capture_function.operation
      when 'update' then format(
        'exists (select from cloudsync_new as n group by %1$s having count(*) > 1 '
        'union all select from cloudsync_old as n group by %1$s having count(*) > 1)',
        cloudsync.spell(create_capture_function.table_id, true, 'n.{name}', ', '))
      else 'false'
    end,
    cloudsync.spell_direct(create_capture_function.table_id, create_capture_function.operation),
    cloudsync.spell_slow(create_capture_function.table_id, create_capture_function.operation));
end
$create$;

-- Writes the capture function of TRUNCATE, which runs before the rows are gone: afterwards
-- nothing tells which rows without metadata there were. Above 100,000 rows the clients are
-- told to fetch the table again instead of being sent every deletion.
create function cloudsync.create_truncate_function(table_id integer)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $create$
begin
  execute format(
    $function$create or replace function cloudsync.capture_truncate_%1$s() returns trigger
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $capture$
#variable_conflict use_variable
declare
  v_table cloudsync.tables;
  v_site integer := cloudsync.self_ordinal();
  v_wall bigint := floor(extract(epoch from clock_timestamp()) * 1000)::bigint << 16;
  v_few boolean;
  v_emitted bigint;
begin
  select t.* into v_table from cloudsync.tables as t where t.table_id = %1$s and t.relation = tg_relid;
  if not found then
    raise exception 'function %% captures another table than %%', 'cloudsync.capture_truncate_%1$s', tg_relid::regclass
      using errcode = 'wrong_object_type';
  end if;
  perform cloudsync.check_trigger(v_table, tg_table_schema, tg_table_name, tg_name, 'truncate');
  v_few := (select count(*) <= 100000 from (select from only %2$s as d limit 100001) as few);
  with written as (
    insert into cloudsync.meta_%1$s as m (%3$s, alive, hlc, site)
    select %4$s, false, v_wall, v_site
    from only %2$s as d
    on conflict (%3$s) do update
    set alive = false, hlc = greatest(excluded.hlc, 1 + %5$s), site = excluded.site, cols = null
    returning %6$s, m.hlc
  )
  select cloudsync.emit(
    %1$s, v_table.incarnation, v_table.version, %7$L::smallint[],
    2, w.hlc, v_site, null, null, row(%8$s), null
  ) filter (where v_few)
  into v_emitted
  from written as w;
  if not v_few then
    perform cloudsync.emit_reload(%1$s, 'truncate');
  end if;
  return null;
end
$capture$$function$,
    create_truncate_function.table_id,
    (select format('%I.%I', t.schema_name, t.table_name)
     from cloudsync.tables as t
     where t.table_id = create_truncate_function.table_id),
    cloudsync.spell(create_truncate_function.table_id, true, 'key_{n}', ', '),
    cloudsync.spell(create_truncate_function.table_id, true, 'd.{name}', ', '),
    cloudsync.spell_greatest(create_truncate_function.table_id),
    cloudsync.spell(create_truncate_function.table_id, true, 'm.key_{n}', ', '),
    '{' || cloudsync.spell(create_truncate_function.table_id, false, '{id}', ',') || '}',
    cloudsync.spell(create_truncate_function.table_id, true, 'w.key_{n}', ', '));
end
$create$;
-- Registering a table. Called by the library as the owner; what needs the rights of the
-- table's owner (triggers, the grant) the library does as the caller, by `attach_commands`.

-- Says why a table cannot be tracked, or nothing.
create function cloudsync.refusal(relation regclass)
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $refusal$
declare
  v_class pg_class;
  v_key record;
begin
  select c.* into strict v_class from pg_class as c where c.oid = refusal.relation;
  if getdatabaseencoding() <> 'UTF8' then
    return format('the database is encoded in %s, only UTF8 can be synced', getdatabaseencoding());
  elsif v_class.relkind in ('v', 'm') then
    return 'it is a view';
  elsif v_class.relkind = 'p' or v_class.relispartition then
    return 'partitioned tables are not supported yet';
  elsif v_class.relkind <> 'r' then
    return 'it is not a table';
  elsif v_class.relpersistence <> 'p' then
    return 'it is temporary or unlogged, so its changes are not in the log';
  elsif v_class.relnamespace in ('pg_catalog'::regnamespace, 'cloudsync'::regnamespace) then
    return 'it belongs to the system';
  elsif exists (select from pg_inherits as i where refusal.relation in (i.inhrelid, i.inhparent)) then
    return 'tables with inheritance are not supported';
  elsif not exists (select from pg_index as i where i.indrelid = refusal.relation and i.indisprimary) then
    return 'it has no primary key';
  elsif (select count(*) from pg_attribute as a
         where a.attrelid = refusal.relation and a.attnum > 0 and not a.attisdropped) > 1000 then
    return 'it has more than 1,000 columns';
  end if;
  select a.attname as name, format_type(a.atttypid, a.atttypmod) as type_name into v_key
  from cloudsync.key_columns(refusal.relation) as k
  join pg_attribute as a on a.attrelid = refusal.relation and a.attnum = k.attnum
  where not k.bytewise
  limit 1;
  if found then
    return format(
      'key column %I of type %s has values that are equal but not identical', v_key.name, v_key.type_name);
  end if;
  return null;
end
$refusal$;

-- The key columns in order, whether equal values are identical bytes (then the operator
-- family says so, as for deduplication in indexes), and the operator that compares them.
create function cloudsync.key_columns(relation regclass)
returns table (key_position smallint, attnum smallint, bytewise boolean, equality text)
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
  select
    u.place::smallint,
    u.attnum,
    exists (
      select from pg_amproc as p
      where p.amprocfamily = o.opcfamily and p.amprocnum = 4
        and p.amproclefttype = o.opcintype and p.amprocrighttype = o.opcintype
    ) and o.opcintype <> 'bpchar'::regtype
      and not exists (select from pg_collation as l where l.oid = u.collation_oid and not l.collisdeterministic),
    (
      select format('operator(%I.%s)', n.nspname, e.oprname)
      from pg_amop as a
      join pg_operator as e on e.oid = a.amopopr
      join pg_namespace as n on n.oid = e.oprnamespace
      where a.amopfamily = o.opcfamily and a.amopstrategy = 3
        and a.amoplefttype = o.opcintype and a.amoprighttype = o.opcintype
    )
  from pg_index as i
  cross join unnest(i.indkey::smallint[], i.indclass::oid[], i.indcollation::oid[])
    with ordinality as u (attnum, opclass_oid, collation_oid, place)
  join pg_opclass as o on o.oid = u.opclass_oid
  where i.indrelid = key_columns.relation and i.indisprimary and u.place <= i.indnkeyatts;
end;

-- Brings the registry's columns to what the table has now. Returns whether they changed.
create function cloudsync.refresh_columns(table_id integer)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $refresh$
#variable_conflict use_column
declare
  v_before text;
  v_after text;
begin
  select string_agg(c::text, ',' order by c.column_id) into v_before
  from cloudsync.columns as c
  where c.table_id = refresh_columns.table_id;
  delete from cloudsync.columns as c where c.table_id = refresh_columns.table_id;
  insert into cloudsync.columns (table_id, column_id, name, type_name, type_oid, key_position, equality)
  select t.table_id, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod), a.atttypid, k.key_position, k.equality
  from cloudsync.tables as t
  join pg_attribute as a on a.attrelid = t.relation
  left join cloudsync.key_columns(t.relation) as k on k.attnum = a.attnum
  where t.table_id = refresh_columns.table_id
    and a.attnum > 0 and not a.attisdropped and a.attgenerated = '';
  select string_agg(c::text, ',' order by c.column_id) into v_after
  from cloudsync.columns as c
  where c.table_id = refresh_columns.table_id;
  return v_before is distinct from v_after;
end
$refresh$;

-- Makes the metadata table: the key as the table has it, and one row of stamps.
create function cloudsync.create_metadata(table_id integer)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $metadata$
declare
  v_keys text;
begin
  select string_agg(
    format(
      'key_%s %s%s not null', k.key_position, format_type(a.atttypid, a.atttypmod),
      case when a.attcollation <> 0 then
        (select format(' collate %I.%I', n.nspname, l.collname)
         from pg_collation as l
         join pg_namespace as n on n.oid = l.collnamespace
         where l.oid = a.attcollation)
      end),
    ', ' order by k.key_position) into v_keys
  from cloudsync.tables as t
  cross join lateral cloudsync.key_columns(t.relation) as k
  join pg_attribute as a on a.attrelid = t.relation and a.attnum = k.attnum
  where t.table_id = create_metadata.table_id;
  execute format(
    'create table cloudsync.meta_%s (%s, alive boolean not null, hlc bigint not null, '
    'site integer not null, cols bigint[], primary key (%s)) with (fillfactor = 80)',
    create_metadata.table_id, v_keys,
    cloudsync.spell(create_metadata.table_id, true, 'key_{n}', ', '));
end
$metadata$;

-- Takes a table out of the registry, with what was made for it.
create function cloudsync.forget_table(table_id integer)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $forget$
declare
  v_operation text;
begin
  delete from cloudsync.tables as t where t.table_id = forget_table.table_id;
  foreach v_operation in array array['insert', 'update', 'delete', 'truncate'] loop
    execute format('drop function cloudsync.capture_%s_%s()', v_operation, forget_table.table_id);
  end loop;
  execute format('drop table cloudsync.meta_%s', forget_table.table_id);
end
$forget$;

-- Takes tables out of the registry that were dropped.
create function cloudsync.forget_dropped_tables()
returns void
language sql
set search_path = pg_catalog, pg_temp
begin atomic
  select cloudsync.forget_table(t.table_id)
  from cloudsync.tables as t
  where not exists (select from pg_class as c where c.oid = t.relation);
end;

-- Writes the capture functions for the definition in the registry, and tells the clients of it.
create function cloudsync.announce_table(table_id integer)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $announce$
declare
  v_operation text;
begin
  foreach v_operation in array array['insert', 'update', 'delete'] loop
    perform cloudsync.create_capture_function(announce_table.table_id, v_operation);
  end loop;
  perform cloudsync.create_truncate_function(announce_table.table_id);
  perform cloudsync.emit_definition(announce_table.table_id);
end
$announce$;

-- Registers a table, or brings the registration to its present definition. Returns its id.
create function cloudsync.register_table(relation regclass, algorithm text)
returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
as $register$
#variable_conflict use_column
declare
  v_refusal text := cloudsync.refusal(register_table.relation);
  v_table cloudsync.tables;
  v_name name;
  v_schema name;
  v_new boolean;
  v_filled boolean;
begin
  if register_table.algorithm <> 'cls' then
    raise exception 'table algorithm % is not known, use cls', quote_literal(register_table.algorithm)
      using errcode = 'invalid_parameter_value';
  end if;
  if v_refusal is not null then
    raise exception 'table % cannot be tracked: %', register_table.relation, v_refusal
      using errcode = 'feature_not_supported';
  end if;
  select c.relname, n.nspname into strict v_name, v_schema
  from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
  where c.oid = register_table.relation;
  perform pg_advisory_xact_lock(hashtextextended('cloudsync registry', 0));
  perform cloudsync.forget_dropped_tables();
  select t.* into v_table from cloudsync.tables as t where t.relation = register_table.relation;
  v_new := not found;
  if exists (select from cloudsync.tables as t
             where t.table_name = v_name and t.relation <> register_table.relation) then
    raise exception 'table % cannot be tracked: another tracked table has the name %', register_table.relation, v_name
      using errcode = 'duplicate_table';
  end if;
  if v_new then
    insert into cloudsync.tables (relation, schema_name, table_name, incarnation, version)
    values (register_table.relation, v_schema, v_name,
      ('x' || encode(substr(sha256(uuid_send(gen_random_uuid())), 1, 8), 'hex'))::bit(64)::bigint, 1)
    returning * into v_table;
  end if;
  if not cloudsync.refresh_columns(v_table.table_id)
     and (v_table.schema_name, v_table.table_name) = (v_schema, v_name) then
    return v_table.table_id;
  end if;
  if v_new then
    perform cloudsync.create_metadata(v_table.table_id);
  else
    update cloudsync.tables as t
    set version = t.version + 1, schema_name = v_schema, table_name = v_name
    where t.table_id = v_table.table_id;
  end if;
  perform cloudsync.announce_table(v_table.table_id);
  if v_new then
    execute format('select exists (select from only %I.%I)', v_schema, v_name) into v_filled;
    if v_filled then
      perform cloudsync.emit_reload(v_table.table_id, 'init');
    end if;
  end if;
  return v_table.table_id;
end
$register$;

-- What the table's owner has to run so that writes are captured.
create function cloudsync.attach_commands(table_id integer)
returns setof text
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
  select format(c.command, t.table_id, t.schema_name, t.table_name)
  from cloudsync.tables as t
  cross join (
    values
      (1, 'create or replace trigger cloudsync_insert after insert on %2$I.%3$I '
          'referencing new table as cloudsync_new '
          'for each statement execute function cloudsync.capture_insert_%1$s()'),
      (2, 'create or replace trigger cloudsync_update after update on %2$I.%3$I '
          'referencing old table as cloudsync_old new table as cloudsync_new '
          'for each statement execute function cloudsync.capture_update_%1$s()'),
      (3, 'create or replace trigger cloudsync_delete after delete on %2$I.%3$I '
          'referencing old table as cloudsync_old '
          'for each statement execute function cloudsync.capture_delete_%1$s()'),
      (4, 'create or replace trigger cloudsync_truncate before truncate on %2$I.%3$I '
          'for each statement execute function cloudsync.capture_truncate_%1$s()')
  ) as c (place, command)
  where t.table_id = attach_commands.table_id
  order by c.place;
end;

-- Forgets a table, after its triggers are gone.
create function cloudsync.unregister_table(relation regclass)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $unregister$
#variable_conflict use_column
declare
  v_table_id integer;
begin
  select t.table_id into v_table_id from cloudsync.tables as t where t.relation = unregister_table.relation;
  if not found then
    raise exception 'table % is not tracked', unregister_table.relation using errcode = 'undefined_table';
  end if;
  perform cloudsync.forget_table(v_table_id);
end
$unregister$;
-- Follows changes of tracked tables: the registry and the capture functions are brought to the new definition by
-- the command that changes it, so that no write fails later for a column or a name that is gone.

-- Tables that are not as the registry has them.
create function cloudsync.changed_tables()
returns setof integer
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
  select t.table_id
  from cloudsync.tables as t
  join pg_class as c on c.oid = t.relation
  join pg_namespace as n on n.oid = c.relnamespace
  where (n.nspname::text, c.relname::text) <> (t.schema_name, t.table_name)
    or exists (
      select
      from (
        select a.attnum, a.attname::text as name, a.atttypid, format_type(a.atttypid, a.atttypmod) as type_name
        from pg_attribute as a
        where a.attrelid = t.relation and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
      ) as found
      full join (select k.* from cloudsync.columns as k where k.table_id = t.table_id) as known
        on known.column_id = found.attnum
      where (found.name, found.atttypid, found.type_name)
        is distinct from (known.name, known.type_oid::oid, known.type_name)
    )
  order by t.table_id;
end;

-- Brings one table's registration to its present definition. Its key stays: metadata is kept by it.
create function cloudsync.follow_definition(table_id integer)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $follow$
#variable_conflict use_column
declare
  v_table cloudsync.tables;
  v_column name;
begin
  select t.* into strict v_table from cloudsync.tables as t where t.table_id = follow_definition.table_id;
  select k.name into v_column
  from cloudsync.columns as k
  left join pg_attribute as a
    on a.attrelid = v_table.relation and a.attnum = k.column_id and not a.attisdropped
  where k.table_id = v_table.table_id and k.key_position is not null
    and a.atttypid is distinct from k.type_oid::oid;
  if found then
    raise exception 'column % of table % is part of the key that it is synced by', quote_ident(v_column), v_table.relation
      using errcode = 'object_in_use', hint = 'Call cloudsync_cleanup before, and cloudsync_init after the change.';
  end if;
  if not has_schema_privilege('cloudsync_owner', c.relnamespace, 'usage')
  from pg_class as c where c.oid = v_table.relation then
    raise exception 'cloudsync_owner may not use the schema of table %', v_table.relation
      using errcode = 'insufficient_privilege', hint = 'Grant it USAGE on that schema before.';
  end if;
  delete from cloudsync.columns as k
  where k.table_id = v_table.table_id
    and not exists (select from pg_attribute as a
                    where a.attrelid = v_table.relation and a.attnum = k.column_id and not a.attisdropped
                      and a.attgenerated = '');
  insert into cloudsync.columns as k (table_id, column_id, name, type_name, type_oid)
  select v_table.table_id, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod), a.atttypid
  from pg_attribute as a
  where a.attrelid = v_table.relation and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
  on conflict (table_id, column_id) do update
  set name = excluded.name, type_name = excluded.type_name, type_oid = excluded.type_oid;
  update cloudsync.tables as t
  set version = t.version + 1, schema_name = n.nspname, table_name = c.relname
  from pg_class as c
  join pg_namespace as n on n.oid = c.relnamespace
  where t.table_id = v_table.table_id and c.oid = v_table.relation;
  perform cloudsync.announce_table(v_table.table_id);
exception when unique_violation then
  raise exception 'table % cannot have this name: another tracked table has it', v_table.relation
    using errcode = 'duplicate_table';
end
$follow$;

create function cloudsync.follow_definitions()
returns event_trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $follow$
begin
  if exists (select from cloudsync.changed_tables()) then
    perform pg_advisory_xact_lock(hashtextextended('cloudsync registry', 0));
    perform cloudsync.forget_dropped_tables();
    perform cloudsync.follow_definition(c.table_id) from cloudsync.changed_tables() as c (table_id);
  end if;
end
$follow$;
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
revoke all on function @extschema@.cloudsync_grant_hub(text) from public;

-- Nobody shall forge a message: the hub verifies each one, this is the first line. Its parameters differ by major.
do $revoke$
declare
  v_function pg_catalog.regprocedure;
begin
  for v_function in
    select p.oid from pg_catalog.pg_proc as p
    where p.pronamespace = 'pg_catalog'::pg_catalog.regnamespace and p.proname = 'pg_logical_emit_message'
  loop
    execute pg_catalog.format('revoke execute on function %s from public', v_function);
  end loop;
end
$revoke$;

-- Commands that may change, also by a cascade, the name or the columns of a table.
create event trigger cloudsync_definitions on ddl_command_end
when tag in (
  'ALTER TABLE', 'ALTER INDEX', 'ALTER SCHEMA', 'ALTER TYPE', 'ALTER DOMAIN', 'DROP TABLE', 'DROP VIEW',
  'DROP MATERIALIZED VIEW', 'DROP TYPE', 'DROP DOMAIN', 'DROP COLLATION', 'DROP FUNCTION', 'DROP SCHEMA',
  'DROP EXTENSION', 'DROP OWNED'
)
execute function cloudsync.follow_definitions();
