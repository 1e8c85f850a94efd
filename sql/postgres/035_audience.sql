-- The audience of rows: who reads them (the scope of a table), and whether they take part at all (its filter). Capture
-- asks for it before and after a write. This file spells the questions; 069_audience.sql sets them.

-- An expression over the columns of the row `row_alias`, as SQL: a scope gives text[], a filter boolean, neither null.
create function cloudsync.spell_expression(relation oid, kind text, expression text, row_alias text) returns text
language c stable strict parallel unsafe
as 'MODULE_PATHNAME', 'spell_expression_wrapper';

-- What the library finds of an expression: as SQL, and as the server writes it down. Raises where it may not be used.
create function cloudsync.check_expression(relation oid, kind text, written text)
returns table (expression text, tree text)
language c volatile strict parallel unsafe
as 'MODULE_PATHNAME', 'check_expression_wrapper';

-- An expression that was written down so, with the names that the columns have now; null when one is gone.
create function cloudsync.renamed_expression(relation oid, tree text) returns text
language c volatile strict parallel unsafe
as 'MODULE_PATHNAME', 'renamed_expression_wrapper';

-- Whether anything but the table itself says who reads its rows.
create function cloudsync.has_audience(table_id integer)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
  select exists (
    select from cloudsync.tables as t
    where t.table_id = has_audience.table_id
      and (t.scope_expression is not null or t.filter_expression is not null)
  );
end;

-- A pattern for the row `row_alias`, where %1$s is whether it takes part and %2$s who reads it; nothing for a table
-- whose rows everybody reads.
create function cloudsync.spell_audience(table_id integer, row_alias text, pattern text)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
  select case
    when t.scope_expression is null and t.filter_expression is null then ''
    else format(
      spell_audience.pattern,
      coalesce(
        cloudsync.spell_expression(t.relation, 'filter', t.filter_expression, spell_audience.row_alias), 'true'),
      coalesce(
        cloudsync.spell_expression(t.relation, 'scope', t.scope_expression, spell_audience.row_alias),
        $everybody$array['']$everybody$))
  end
  from cloudsync.tables as t
  where t.table_id = spell_audience.table_id;
end;

-- A part of a statement that only tables with an audience have.
create function cloudsync.where_audience(table_id integer, part text)
returns text
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
  select case when cloudsync.has_audience(where_audience.table_id) then where_audience.part else '' end;
end;

-- All scopes of some rows.
create aggregate cloudsync.joined(scopes text[]) (
  sfunc = pg_catalog.array_cat,
  stype = text[]
);

-- As `emit`, with who read a row before and who reads it now: whether it took part, whether it did not (both, where
-- a statement wrote it more than once), its scopes; whether it takes part, its scopes.
create function cloudsync.emit_scoped_step(
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
  image record,
  was_in boolean,
  was_out boolean,
  from_scopes text[],
  now_in boolean,
  to_scopes text[]
) returns internal
language c volatile parallel unsafe
as 'MODULE_PATHNAME', 'emit_scoped_step';

create aggregate cloudsync.emit_scoped(
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
  image record,
  was_in boolean,
  was_out boolean,
  from_scopes text[],
  now_in boolean,
  to_scopes text[]
) (
  sfunc = cloudsync.emit_scoped_step,
  stype = internal,
  sspace = 65536,
  finalfunc = cloudsync.emit_finish,
  finalfunc_modify = read_write
);
