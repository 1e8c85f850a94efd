-- Capture: writes the trigger functions of one tracked table. They alone write the metadata
-- of data rows and emit messages, also while apply writes.
--
-- Stamps: max(wall, previous stamp of the written cells and of the life + 1); a creation or
-- deletion goes above every stamp of its row. The clock is read after the row locks were
-- taken, and the previous stamps under the lock of the metadata row.

-- What tells of rows that were stamped: nothing, for a disabled table. Put into a pattern before the names of users are.
-- {audience} are the further arguments for a table whose rows have readers of their own, from the row `c`.
create function cloudsync.spell_emit(table_id integer, pattern text)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
  select replace(
    replace(
      spell_emit.pattern, '{emit}',
      case when not t.enabled then 'cloudsync.hold_back' else
        coalesce(nullif(cloudsync.where_audience(t.table_id, 'cloudsync.emit_scoped'), ''), 'cloudsync.emit') end),
    '{audience}',
    cloudsync.where_audience(t.table_id, ', c.was_in, c.was_out, c.from_scopes, c.now_in, c.to_scopes'))
  from cloudsync.tables as t
  where t.table_id = spell_emit.table_id;
end;

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

-- What the data of a table is read from, in a from clause: the one place where capture names it. ONLY keeps out
-- children that inherit from it; the rows of a partitioned table are in its partitions.
create function cloudsync.table_scan(table_id integer)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
  select format(case when c.relkind = 'p' then '%I.%I' else 'only %I.%I' end, t.schema_name, t.table_name)
  from cloudsync.tables as t
  join pg_class as c on c.oid = t.relation
  where t.table_id = table_scan.table_id;
end;

-- The row `{row}` of the table or of a partition of it, with every column at the place that it has in the table:
-- a partition may have its columns in another order.
create function cloudsync.spell_image(table_id integer, row_alias text)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
  select case
    when c.relkind <> 'p' then spell_image.row_alias || '.*'
    else (
      select 'row(' || string_agg(
        case when k.name is null then 'null::boolean' else format('%s.%I', spell_image.row_alias, k.name) end,
        ', ' order by a.id) || ')'
      from generate_series(1, (select max(l.column_id) from cloudsync.columns as l where l.table_id = t.table_id)) as a (id)
      left join cloudsync.columns as k on k.table_id = t.table_id and k.column_id = a.id
    )
  end
  from cloudsync.tables as t
  join pg_class as c on c.oid = t.relation
  where t.table_id = spell_image.table_id;
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
    set (alive, hlc, site, cols%5$s) = (
      select
        excluded.alive,
        case when s.kept then m.hlc else s.stamp end,
        case when s.kept then m.site else excluded.site end,
        case when s.kept then array[%2$s]::bigint[] end%6$s
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
    cloudsync.spell(spell_upsert.table_id, false, ', m.cols[2 * {id} - 1]', ''),
    cloudsync.where_audience(spell_upsert.table_id, ', scopes'),
    cloudsync.where_audience(
      spell_upsert.table_id, ', case when m.alive then excluded.scopes else m.scopes || excluded.scopes end'));
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
-- for the staged path, where a greater stamp may come with an equal value. Operation row is a
-- trigger for each row: the row before and after any operation, without an image. Of a table with an audience, also
-- whether the row before took part, and who read it; null, where there was none.
create function cloudsync.spell_source(table_id integer, operation text, unchanged boolean)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
  select case spell_source.operation
    when 'insert' then format(
      'select %s, false as was, true as now, coalesce(%s) as image%s%s from cloudsync_new as n',
      cloudsync.spell(spell_source.table_id, true, 'n.{name} as key_{n}', ', '),
      cloudsync.spell_image(spell_source.table_id, 'n'),
      cloudsync.spell(spell_source.table_id, false, ', false as changed_{n}', ''),
      cloudsync.where_audience(
        spell_source.table_id, ', null::boolean as was_in, null::text[] as from_scopes'))
    when 'delete' then format(
      'select %s, true as was, false as now, coalesce(%s) as image%s%s from cloudsync_old as o',
      cloudsync.spell(spell_source.table_id, true, 'o.{name} as key_{n}', ', '),
      cloudsync.spell_image(spell_source.table_id, 'o'),
      cloudsync.spell(spell_source.table_id, false, ', false as changed_{n}', ''),
      cloudsync.spell_audience(spell_source.table_id, 'o', ', %1$s as was_in, %2$s as from_scopes'))
    when 'row' then format(
      $source$
        select %1$s, true as was, tg_op = 'UPDATE' and %2$s as now%3$s%6$s
        where tg_op <> 'INSERT'
        union all
        select %4$s, false as was, true as now%5$s%7$s
        where tg_op = 'INSERT' or tg_op = 'UPDATE' and not (%2$s)$source$,
      cloudsync.spell(spell_source.table_id, true, 'old.{name} as key_{n}', ', '),
      cloudsync.spell(spell_source.table_id, true, 'new.{name} {eq} old.{name}', ' and '),
      cloudsync.spell(
        spell_source.table_id, false,
        ', pg_catalog.record_image_ne(row(old.{name}), row(new.{name})) as changed_{n}', ''),
      cloudsync.spell(spell_source.table_id, true, 'new.{name}', ', '),
      cloudsync.spell(spell_source.table_id, false, ', false', ''),
      cloudsync.spell_audience(spell_source.table_id, 'old', ', %1$s as was_in, %2$s as from_scopes'),
      cloudsync.where_audience(spell_source.table_id, ', null::boolean, null::text[]'))
    else format(
      'select %s, %s as was, %s as now, case when %s then %s else %s end as image%s%s'
      ' from cloudsync_old as o full join cloudsync_new as n on %s'
      ' where %s or %s or %s',
      cloudsync.spell(spell_source.table_id, true, 'coalesce(n.{name}, o.{name}) as key_{n}', ', '),
      cloudsync.spell(spell_source.table_id, true, 'o.{name} is not null', ' and '),
      cloudsync.spell(spell_source.table_id, true, 'n.{name} is not null', ' and '),
      cloudsync.spell(spell_source.table_id, true, 'n.{name} is not null', ' and '),
      cloudsync.spell_image(spell_source.table_id, 'n'),
      cloudsync.spell_image(spell_source.table_id, 'o'),
      cloudsync.spell(
        spell_source.table_id, false,
        ', pg_catalog.record_image_ne(row(o.{name}), row(n.{name})) as changed_{n}', ''),
      cloudsync.spell_audience(
        spell_source.table_id, 'o', replace(
          ', case when {was} then %1$s end as was_in, case when {was} then %2$s end as from_scopes', '{was}',
          replace(
            cloudsync.spell(spell_source.table_id, true, 'o.{name} is not null', ' and '), '%', '%%'))),
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
    cloudsync.spell_emit(spell_direct.table_id, $statement$with c as %1$s (
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
      {emit}(
        %11$s, v_table.incarnation, v_table.version, %12$L::smallint[],
        case when not w.alive then 2 when w.cols is null then 1 else 0 end,
        w.hlc, w.site, w.cols, case when w.cols is not null then c.changed end, row(%10$s), c.image
      ) filter (where w.alive is not null),
      count(*) filter (where w.alive is null and (not c.updated or true = any (c.changed)))
    into v_emitted, v_left
    from c
    full join written as w on %13$s;$statement$),
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
-- cascades have written since, so the current row decides existence and values. A transaction that sees what was there
-- at its beginning also sees rows that others have deleted since, whose keys it may have written anew. The source is
-- a step of its own: joined below the aggregates, the columns of both rows would be more than a
-- row may have.
create function cloudsync.spell_current(table_id integer, operation text, unchanged boolean)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
  select format(
    $statement$with k as materialized (
      select %1$s, bool_or(x.was) as was, bool_or(x.now) as now, array[%2$s]::boolean[] as changed%6$s
      from (%3$s offset 0) as x
      group by %1$s
    ), r as materialized (
      select k.*, coalesce(t.present, false) as present, t.image%7$s
      from k
      left join lateral (
        select true as present, coalesce(d.*) as image%8$s
        from %4$s as d
        where %5$s and (v_sees_now or cloudsync.is_standing(d.tableoid, d.ctid))
        offset 0
      ) as t on true
    )$statement$,
    cloudsync.spell(spell_current.table_id, true, 'x.key_{n}', ', '),
    cloudsync.spell(spell_current.table_id, false, 'bool_or(x.changed_{n})', ', '),
    cloudsync.spell_source(spell_current.table_id, spell_current.operation, spell_current.unchanged),
    cloudsync.table_scan(spell_current.table_id),
    cloudsync.spell(spell_current.table_id, true, 'd.{name} {eq} k.key_{n}', ' and '),
    cloudsync.where_audience(
      spell_current.table_id,
      ', bool_or(x.was_in) as was_in, bool_or(not x.was_in) as was_out, cloudsync.joined(x.from_scopes) as from_scopes'),
    cloudsync.where_audience(spell_current.table_id, ', t.now_in, t.to_scopes'),
    cloudsync.spell_audience(spell_current.table_id, 'd', ', %1$s as now_in, %2$s as to_scopes'));
end;

-- The slow path: stamps and emits by the row as it stands.
create function cloudsync.spell_slow(table_id integer, operation text)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
  select format(
    cloudsync.spell_emit(spell_slow.table_id, $statement$%1$s, c as materialized (
      select r.*, r.was and r.now as updated
      from r
      where not cloudsync.is_staged(%2$s, row(%3$s))
        and (not r.present or r.now)
        and (not r.present or not r.was or true = any (r.changed))
    ), written as (
      insert into cloudsync.meta_%2$s as m (%4$s, alive, hlc, site, cols%12$s)
      select
        %5$s,
        c.present,
        case when c.present and c.updated then 1 else v_wall end,
        v_site,
        case when c.present and c.updated then array[%6$s]::bigint[] end%13$s
      from c
      %7$s
      where excluded.alive or m.alive%14$s
      returning %8$s, m.alive, m.hlc, m.site, m.cols
    )
    select {emit}(
      %2$s, v_table.incarnation, v_table.version, %9$L::smallint[],
      case when not w.alive then 2 when w.cols is null then 1 else 0 end,
      w.hlc, w.site, w.cols, case when w.cols is not null then c.changed end, row(%10$s), c.image{audience}
    ) filter (where w.alive is not null)
    into v_emitted
    from c
    full join written as w on %11$s;$statement$),
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
    cloudsync.spell(spell_slow.table_id, true, 'c.key_{n} {eq} w.key_{n}', ' and '),
    cloudsync.where_audience(spell_slow.table_id, ', scopes'),
    cloudsync.where_audience(
      spell_slow.table_id, $last$, case when c.was_in then coalesce(c.from_scopes, '{}') else '{}' end$last$),
    -- Another statement has deleted it for those who read it later.
    cloudsync.where_audience(
      spell_slow.table_id, $unknown$ or not coalesce(m.scopes, '{}') @> excluded.scopes$unknown$));
end;

-- The short way of the staged path, for rows that apply inserted and that no other statement has touched: each row
-- of the transition table is then the current one. Ends the trigger when no row is left to the long way.
create function cloudsync.spell_staged_insert(table_id integer)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
  select format(
    $statement$with written as (
      insert into cloudsync.meta_%1$s as m (%2$s, alive, hlc, site, cols)
      select %3$s, (c.staged).alive, (c.staged).hlc, (c.staged).site, (c.staged).cols
      from (select %4$s, cloudsync.stage_insert%6$s as staged from cloudsync_new as n offset 0) as c
      where (c.staged).kind is not null
      on conflict (%2$s) do update
      set alive = excluded.alive, hlc = excluded.hlc, site = excluded.site, cols = excluded.cols
      where cloudsync.stage_unchanged(%1$s, row(%5$s), m.alive, m.hlc, m.site, m.cols)
      returning 1
    )
    select cloudsync.stage_inserted(%1$s, count(*)) into v_left from written;
    if v_left is null then
      raise exception 'metadata of %% changed while apply was writing', tg_relid::regclass
        using errcode = 'CS001';
    elsif v_left = 0 then
      return null;
    end if;
    $statement$,
    spell_staged_insert.table_id,
    cloudsync.spell(spell_staged_insert.table_id, true, 'key_{n}', ', '),
    cloudsync.spell(spell_staged_insert.table_id, true, 'c.key_{n}', ', '),
    cloudsync.spell(spell_staged_insert.table_id, true, 'n.{name} as key_{n}', ', '),
    cloudsync.spell(spell_staged_insert.table_id, true, 'm.key_{n}', ', '),
    case when cloudsync.has_audience(spell_staged_insert.table_id)
      then format(
        '_scoped(%s, coalesce(n.*)%s)', spell_staged_insert.table_id,
        cloudsync.spell_audience(spell_staged_insert.table_id, 'n', ', %1$s, %2$s'))
      else format('(%s, coalesce(n.*))', spell_staged_insert.table_id)
    end);
end;

-- Rows that apply wrote: the stage knows what was asked and what merge decided.
create function cloudsync.spell_staged(table_id integer, operation text)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
  select case spell_staged.operation
    when 'insert' then cloudsync.spell_staged_insert(spell_staged.table_id)
    else ''
  end || format(
    cloudsync.spell_emit(spell_staged.table_id, $statement$%1$s, c as materialized (
      select r.*, s.kind, s.alive, s.hlc, s.site, s.cols, s.carried
      from r
      cross join lateral cloudsync.stage_outcome(%2$s, row(%3$s), r.image) as s
      where s.kind is not null
    ), written as (
      insert into cloudsync.meta_%2$s as m (%4$s, alive, hlc, site, cols%9$s)
      select %5$s, c.alive, c.hlc, c.site, c.cols%10$s
      from c
      on conflict (%4$s) do update
      set alive = excluded.alive, hlc = excluded.hlc, site = excluded.site, cols = excluded.cols%11$s
      where cloudsync.stage_unchanged(%2$s, row(%6$s), m.alive, m.hlc, m.site, m.cols)
      returning %6$s
    )
    select
      {emit}(
        %2$s, v_table.incarnation, v_table.version, %7$L::smallint[],
        c.kind, c.hlc, c.site, c.cols, c.carried, row(%5$s), c.image{audience}
      ) filter (where w.key_1 is not null),
      count(*) filter (where w.key_1 is null)
    into v_emitted, v_left
    from c
    full join written as w on %8$s;$statement$),
    cloudsync.spell_current(spell_staged.table_id, spell_staged.operation, true),
    spell_staged.table_id,
    cloudsync.spell(spell_staged.table_id, true, 'r.key_{n}', ', '),
    cloudsync.spell(spell_staged.table_id, true, 'key_{n}', ', '),
    cloudsync.spell(spell_staged.table_id, true, 'c.key_{n}', ', '),
    cloudsync.spell(spell_staged.table_id, true, 'm.key_{n}', ', '),
    '{' || cloudsync.spell(spell_staged.table_id, false, '{id}', ',') || '}',
    cloudsync.spell(spell_staged.table_id, true, 'c.key_{n} {eq} w.key_{n}', ' and '),
    cloudsync.where_audience(spell_staged.table_id, ', scopes'),
    cloudsync.where_audience(
      spell_staged.table_id, $last$, case when c.was_in then coalesce(c.from_scopes, '{}')
        when not c.was_in then '{}' end$last$),
    cloudsync.where_audience(spell_staged.table_id, ', scopes = coalesce(excluded.scopes, m.scopes)'));
end;
