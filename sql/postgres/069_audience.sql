-- Scopes and filters, as their owners set them, and the scopes that a token may read. Called by the library as the
-- owner, after it has checked whose table it is and parsed the expressions.

-- Reads the expressions of a table anew, by the names of their columns.
create function cloudsync.recheck_expressions(table_id integer)
returns void
language sql volatile
set search_path = pg_catalog, pg_temp
begin atomic
  update cloudsync.tables as t
  set scope_expression = s.expression, scope_tree = s.tree,
    filter_expression = f.expression, filter_tree = f.tree
  from cloudsync.tables as b
  left join lateral cloudsync.check_expression(b.relation, 'scope', b.scope_expression) as s on true
  left join lateral cloudsync.check_expression(b.relation, 'filter', b.filter_expression) as f on true
  where t.table_id = recheck_expressions.table_id and b.table_id = t.table_id
    and cloudsync.has_audience(t.table_id);
end;

-- Brings the expressions of a table to the names and types that its columns have now.
create function cloudsync.follow_expressions(table_id integer)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $follow$
declare
  v_table cloudsync.tables;
  v_scope text;
  v_filter text;
begin
  select t.* into strict v_table from cloudsync.tables as t where t.table_id = follow_expressions.table_id;
  v_scope := cloudsync.renamed_expression(v_table.relation, v_table.scope_tree);
  v_filter := cloudsync.renamed_expression(v_table.relation, v_table.filter_tree);
  if v_table.scope_expression is not null and v_scope is null
     or v_table.filter_expression is not null and v_filter is null
  then
    raise exception 'a column of table % cannot be dropped: its % needs it', v_table.relation,
      case when v_table.scope_expression is not null and v_scope is null then 'scope' else 'filter' end
      using errcode = 'dependent_objects_still_exist',
        hint = 'Set another one before, by cloudsync_set_scope or cloudsync_set_filter.';
  end if;
  update cloudsync.tables as t
  set scope_expression = v_scope, filter_expression = v_filter
  where t.table_id = v_table.table_id
    and (t.scope_expression, t.filter_expression) is distinct from (v_scope, v_filter);
  perform cloudsync.recheck_expressions(v_table.table_id);
end
$follow$;

-- Sends the rows that take part now and did not before, whole; of very many, clients fetch the table.
create function cloudsync.emit_entered(before cloudsync.tables)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $entered$
declare
  v_id integer := (before).table_id;
  v_entered text := format(
    '%s as d left join cloudsync.meta_%s as m on %s where %s and not %s',
    cloudsync.table_scan(v_id), v_id,
    cloudsync.spell(v_id, true, 'd.{name} {eq} m.key_{n}', ' and '),
    coalesce((
      select cloudsync.spell_expression(t.relation, 'filter', t.filter_expression, 'd')
      from cloudsync.tables as t where t.table_id = v_id), 'true'),
    coalesce(cloudsync.spell_expression((before).relation, 'filter', (before).filter_expression, 'd'), 'true'));
  v_many boolean;
begin
  execute 'select count(*) > 100000 from (select from ' || v_entered || ' limit 100001) as f' into v_many;
  if v_many or cloudsync.is_ruled(v_id) then
    perform cloudsync.emit_reload(v_id, 'filter');
    return;
  end if;
  execute format(
    'select cloudsync.emit_scoped(%1$s, t.incarnation, t.version, %2$L::smallint[], 1, '
    'coalesce(m.hlc, 1), coalesce(m.site, $1), m.cols, null, row(%3$s), coalesce(d.*), '
    'false, true, null::text[], true, %4$s) from cloudsync.tables as t cross join ',
    v_id,
    '{' || cloudsync.spell(v_id, false, '{id}', ',') || '}',
    cloudsync.spell(v_id, true, 'd.{name}', ', '),
    coalesce((
      select cloudsync.spell_expression(t.relation, 'scope', t.scope_expression, 'd')
      from cloudsync.tables as t where t.table_id = v_id), $everybody$array['']$everybody$)
  ) || v_entered || format(' and t.table_id = %s', v_id)
  using cloudsync.self_ordinal();
end
$entered$;

-- Sets an expression of a table, or takes it away (null). The caller holds a lock that lets nobody write to it.
create function cloudsync.set_expression(relation regclass, kind text, expression text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $set$
#variable_conflict use_column
declare
  v_before cloudsync.tables := cloudsync.tracked(set_expression.relation);
  v_id integer := v_before.table_id;
  v_checked record;
begin
  select c.expression, c.tree into v_checked
  from cloudsync.check_expression(set_expression.relation, set_expression.kind, set_expression.expression) as c;
  if v_checked.expression is not distinct from
     (case set_expression.kind when 'scope' then v_before.scope_expression else v_before.filter_expression end)
  then
    return;
  end if;
  if set_expression.kind = 'scope' then
    update cloudsync.tables as t
    set scope_expression = v_checked.expression, scope_tree = v_checked.tree, version = t.version + 1
    where t.table_id = v_id;
  else
    update cloudsync.tables as t
    set filter_expression = v_checked.expression, filter_tree = v_checked.tree, version = t.version + 1
    where t.table_id = v_id;
  end if;
  if not exists (
    select from pg_attribute as a
    where a.attrelid = format('cloudsync.meta_%s', v_id)::regclass and a.attname = 'scopes' and not a.attisdropped
  ) then
    execute format('alter table cloudsync.meta_%s add column scopes text[]', v_id);
  end if;
  -- The functions of a table that is not captured for now are written when it is again.
  if v_before.suspended is null then
    perform cloudsync.announce_table(v_id);
  end if;
  if v_before.suspended is not null or not v_before.enabled then
    return;
  elsif set_expression.kind = 'scope' then
    perform cloudsync.emit_reload(v_id, 'scope');
  else
    perform cloudsync.emit_entered(v_before);
  end if;
end
$set$;

-- Names the function that tells the scopes of a token, in place of cloudsync_scopes. It must be one of the caller's,
-- who has the rights of this database's owner: it runs with the rights of its owner.
create function cloudsync.set_scopes_function(function oid, for_role oid)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $set$
#variable_conflict use_column
declare
  v_function pg_proc;
begin
  select p.* into strict v_function from pg_proc as p where p.oid = set_scopes_function.function;
  if v_function.prokind <> 'f' or not v_function.proretset or v_function.prorettype <> 'text'::regtype
     or v_function.pronargs <> 1 or v_function.proargtypes[0] <> 'jsonb'::regtype
  then
    raise exception 'cloudsync_set: scopes_function is %, wanted a function of (jsonb) that returns setof text',
      set_scopes_function.function::regprocedure using errcode = 'invalid_parameter_value';
  elsif not pg_has_role(set_scopes_function.for_role, v_function.proowner, 'usage') then
    raise exception 'must be owner of function %', set_scopes_function.function::regprocedure
      using errcode = 'insufficient_privilege';
  end if;
  insert into cloudsync.settings as s (key, value)
  select 'scopes_function', format('%I.%I', n.nspname, v_function.proname)
  from pg_namespace as n where n.oid = v_function.pronamespace
  on conflict (key) do update set value = excluded.value;
end
$set$;

-- Which function tells the scopes of a token, and whose rights it has. One that has gone, or whose owner has not the
-- rights of this database's owner any more, is an error: nobody else's function shall take its place.
create function cloudsync.scopes_function()
returns table (function text, owner oid)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $function$
declare
  v_set text := (select s.value from cloudsync.settings as s where s.key = 'scopes_function');
begin
  return query
    select format('%I.%I', n.nspname, p.proname), p.proowner
    from pg_proc as p
    join pg_namespace as n on n.oid = p.pronamespace
    where format('%I.%I', n.nspname, p.proname) = v_set and p.pronargs = 1 and p.proargtypes[0] = 'jsonb'::regtype
      and p.prokind = 'f' and p.proretset and p.prorettype = 'text'::regtype
      and pg_has_role(p.proowner, (select d.datdba from pg_database as d where d.datname = current_database()), 'usage')
    union all
    select format('%I.%I', n.nspname, p.proname), p.proowner
    from pg_extension as e
    join pg_namespace as n on n.oid = e.extnamespace
    join pg_proc as p on p.pronamespace = e.extnamespace and p.proname = 'cloudsync_scopes'
      and p.pronargs = 1 and p.proargtypes[0] = 'jsonb'::regtype
    where e.extname = 'pg_sync' and v_set is null;
  if not found then
    raise exception 'function %(jsonb), which tells the scopes of tokens, is missing or belongs to nobody with the '
      'rights of the database''s owner', coalesce(v_set, 'cloudsync_scopes') using errcode = 'undefined_function';
  end if;
end
$function$;

-- The scopes that a token with these claims may read: what the function says that is named so. Runs with the rights of
-- that function's owner; `request.jwt.claims` is set meanwhile.
create function cloudsync.scopes_of(claims jsonb) returns text[]
language c volatile strict parallel unsafe
as 'MODULE_PATHNAME', 'scopes_of_wrapper';
