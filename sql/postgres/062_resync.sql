-- Stamps rows that changed without capture, so that they win over what other sites hold of them: a command that
-- computes values anew, a time without capture, rows that came or went with a partition. Clients are then told to
-- fetch the table, by `cloudsync.emit_reload`.

-- Overrides with some columns stamped anew. The array begins at 1, else capture would read it shifted.
create function cloudsync.stamped(cols bigint[], columns smallint[], hlc bigint, site integer)
returns bigint[]
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $stamped$
declare
  v_cols bigint[] := cols;
  v_column smallint;
begin
  if v_cols is null then
    v_cols := array_fill(null::bigint, array[2 * (select max(c) from unnest(columns) as c)]);
  end if;
  foreach v_column in array columns loop
    v_cols[2 * v_column - 1] := hlc;
    v_cols[2 * v_column] := site;
  end loop;
  return v_cols;
end
$stamped$;

-- Wall time as a stamp.
create function cloudsync.wall()
returns bigint
language sql volatile
set search_path = pg_catalog, pg_temp
begin atomic
  select floor(extract(epoch from clock_timestamp()) * 1000)::bigint << 16;
end;

-- Stamps columns of every row.
create function cloudsync.restamp_columns(table_id integer, columns smallint[])
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $restamp$
begin
  execute format(
    $statement$insert into cloudsync.meta_%1$s as m (%2$s, alive, hlc, site, cols)
    select %3$s, true, 1, $2, cloudsync.stamped(null, $3, $1, $2)
    from %4$s as d
    on conflict (%2$s) do update
    set cols = cloudsync.stamped(m.cols, $3, greatest($1, 1 + %5$s), $2)
    where m.alive$statement$,
    restamp_columns.table_id,
    cloudsync.spell(restamp_columns.table_id, true, 'key_{n}', ', '),
    cloudsync.spell(restamp_columns.table_id, true, 'd.{name}', ', '),
    cloudsync.table_scan(restamp_columns.table_id),
    cloudsync.spell_greatest(restamp_columns.table_id))
  using cloudsync.wall(), cloudsync.self_ordinal(), restamp_columns.columns;
end
$restamp$;

-- Further columns of a table's metadata, for rows that changed without capture: registers of column algorithms belong
-- to an earlier life, and who read a row that is gone nobody knows, so nobody is told of it.
create function cloudsync.spell_unregistered(table_id integer)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
  select coalesce(
    string_agg(format(', %I = %s', a.attname, case a.attname when 'scopes' then $none$'{}'$none$ else 'null' end), ''),
    '')
  from pg_attribute as a
  where a.attrelid = format('cloudsync.meta_%s', spell_unregistered.table_id)::regclass
    and a.attnum > 0 and not a.attisdropped
    and a.attname !~ '^key_[0-9]+$' and a.attname not in ('alive', 'hlc', 'site', 'cols');
end;

-- Makes deletions of what is known of rows that are gone.
create function cloudsync.bury_missing(table_id integer)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $bury$
begin
  execute format(
    $statement$update cloudsync.meta_%1$s as m
    set alive = false, hlc = greatest($1, 1 + %2$s), site = $2, cols = null%3$s
    where m.alive and not exists (select from %4$s as d where %5$s)$statement$,
    bury_missing.table_id,
    cloudsync.spell_greatest(bury_missing.table_id),
    cloudsync.spell_unregistered(bury_missing.table_id),
    cloudsync.table_scan(bury_missing.table_id),
    cloudsync.spell(bury_missing.table_id, true, 'd.{name} {eq} m.key_{n}', ' and '))
  using cloudsync.wall(), cloudsync.self_ordinal();
end
$bury$;

-- Brings metadata to the rows that a table has now. Rows written by transactions from `since` on (by all, if it is
-- null) become new creations, as do rows that were known as deleted; rows that are gone become deletions.
create function cloudsync.resync_table(table_id integer, since xid8)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $resync$
declare
  v_keys text := cloudsync.spell(resync_table.table_id, true, 'key_{n}', ', ');
  v_match text := cloudsync.spell(resync_table.table_id, true, 'd.{name} {eq} m.key_{n}', ' and ');
  v_stamp text := format('greatest($1, 1 + %s)', cloudsync.spell_greatest(resync_table.table_id));
begin
  execute format(
    $statement$insert into cloudsync.meta_%1$s as m (%2$s, alive, hlc, site)
    select %3$s, true, $1, $2
    from %4$s as d
    left join cloudsync.meta_%1$s as m on %5$s
    where not m.alive or $3 is null or age(d.xmin) <= age($3::xid)
    on conflict (%2$s) do update
    set alive = true, hlc = %6$s, site = $2, cols = null%7$s$statement$,
    resync_table.table_id, v_keys,
    cloudsync.spell(resync_table.table_id, true, 'd.{name}', ', '),
    cloudsync.table_scan(resync_table.table_id), v_match, v_stamp,
    cloudsync.spell_unregistered(resync_table.table_id))
  using cloudsync.wall(), cloudsync.self_ordinal(), resync_table.since;
  perform cloudsync.bury_missing(resync_table.table_id);
end
$resync$;

-- From here on a transaction that writes is not older than this: what it writes is found by its number.
create function cloudsync.now_running()
returns xid8
language sql volatile
set search_path = pg_catalog, pg_temp
begin atomic
  select pg_snapshot_xmin(pg_current_snapshot());
end;

-- Rows came or went without a trigger (a partition with rows was attached or detached): stamps what differs and
-- tells the clients.
create function cloudsync.reload_table(table_id integer, reason text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $reload$
begin
  perform cloudsync.resync_table(reload_table.table_id, cloudsync.now_running());
  perform cloudsync.emit_reload(reload_table.table_id, reload_table.reason);
end
$reload$;

-- A table is without capture from now on, for this reason. Its rows are not looked at until it is back.
create function cloudsync.suspend_table(table_id integer, reason text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $suspend$
declare
  v_function regprocedure;
begin
  update cloudsync.tables as t
  set suspended = suspend_table.reason, suspended_since = coalesce(t.suspended_since, cloudsync.now_running())
  where t.table_id = suspend_table.table_id;
  for v_function in select f from cloudsync.capture_functions(suspend_table.table_id) as f loop
    execute format(
      'create or replace function %s returns trigger language plpgsql volatile security definer '
      'set search_path = pg_catalog, pg_temp as $capture$ begin return null; end $capture$', v_function);
  end loop;
end
$suspend$;

-- Capture of a table is back: its functions are written, what transactions from `since` on wrote is stamped, and the
-- clients are told.
create function cloudsync.recapture_table(table_id integer, since xid8, reason text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $recapture$
begin
  perform cloudsync.announce_table(recapture_table.table_id);
  perform cloudsync.resync_table(recapture_table.table_id, recapture_table.since);
  perform cloudsync.emit_reload(t.table_id, recapture_table.reason)
  from cloudsync.tables as t where t.table_id = recapture_table.table_id and t.enabled;
end
$recapture$;
