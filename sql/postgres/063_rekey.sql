-- Another primary key: metadata moves to a table with the new key.

-- The key of a table as the registry has it.
create function cloudsync.known_key(table_id integer)
returns smallint[]
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
  select array_agg(k.column_id order by k.key_position)
  from cloudsync.columns as k
  where k.table_id = known_key.table_id and k.key_position is not null;
end;

-- Whether a metadata table is keyed as the registry says.
create function cloudsync.key_fits(table_id integer)
returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
  select count(*) = 0
  from (
    select k.key_position, k.type_oid::oid as type_oid, k.type_name, c.attcollation
    from cloudsync.columns as k
    join cloudsync.tables as t on t.table_id = k.table_id
    join pg_attribute as c on c.attrelid = t.relation and c.attnum = k.column_id
    where k.table_id = key_fits.table_id and k.key_position is not null
  ) as wanted
  full join (
    select substr(a.attname, 5)::smallint as key_position, a.atttypid, a.attcollation,
      format_type(a.atttypid, a.atttypmod) as type_name
    from pg_attribute as a
    where a.attrelid = to_regclass('cloudsync.meta_' || key_fits.table_id)
      and a.attnum > 0 and not a.attisdropped and a.attname ~ '^key_[0-9]+$'
  ) as found on found.key_position = wanted.key_position
  where (found.atttypid, found.attcollation, found.type_name)
    is distinct from (wanted.type_oid, wanted.attcollation, wanted.type_name);
end;

-- Moves metadata to the key that the registry has now. `before` are the columns of the earlier key; null, or one that
-- is gone, if its values no longer tell the rows apart: then every row is a new creation. Otherwise rows keep
-- their stamps, and where the columns of the key are the same ones, so do tombstones. `operators` compared them.
create function cloudsync.rekey_table(table_id integer, before smallint[], operators text[])
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $rekey$
declare
  v_match text;
  v_rest text;
  v_after smallint[] := cloudsync.known_key(rekey_table.table_id);
begin
  execute format('alter table cloudsync.meta_%1$s rename to meta_%1$s_before', rekey_table.table_id);
  execute format(
    'alter index cloudsync.meta_%1$s_pkey rename to meta_%1$s_before_pkey', rekey_table.table_id);
  perform cloudsync.create_metadata(rekey_table.table_id);
  select string_agg(format(', %I', a.attname), '' order by a.attnum) into v_rest
  from pg_attribute as a
  where a.attrelid = format('cloudsync.meta_%s', rekey_table.table_id)::regclass
    and a.attnum > 0 and not a.attisdropped and a.attname !~ '^key_[0-9]+$';
  select string_agg(
    format('d.%I %s m.key_%s::%s', a.attname, coalesce(k.equality, u.operator), u.place,
      format_type(a.atttypid, a.atttypmod)),
    ' and ')
  into v_match
  from unnest(rekey_table.before, rekey_table.operators) with ordinality as u (column_id, operator, place)
  left join cloudsync.columns as k on k.table_id = rekey_table.table_id and k.column_id = u.column_id
  join cloudsync.tables as t on t.table_id = rekey_table.table_id
  join pg_attribute as a on a.attrelid = t.relation and a.attnum = u.column_id and not a.attisdropped
  having count(*) = cardinality(rekey_table.before);
  if v_match is null then
    execute format(
      'insert into cloudsync.meta_%1$s (%2$s, alive, hlc, site) select %3$s, true, $1, $2 from %4$s as d',
      rekey_table.table_id,
      cloudsync.spell(rekey_table.table_id, true, 'key_{n}', ', '),
      cloudsync.spell(rekey_table.table_id, true, 'd.{name}', ', '),
      cloudsync.table_scan(rekey_table.table_id))
    using cloudsync.wall(), cloudsync.self_ordinal();
  else
    execute format(
      'insert into cloudsync.meta_%1$s (%2$s%3$s) select %4$s%5$s from %6$s as d '
      'join cloudsync.meta_%1$s_before as m on %7$s where m.alive',
      rekey_table.table_id,
      cloudsync.spell(rekey_table.table_id, true, 'key_{n}', ', '), v_rest,
      cloudsync.spell(rekey_table.table_id, true, 'd.{name}', ', '), replace(v_rest, ', ', ', m.'),
      cloudsync.table_scan(rekey_table.table_id), v_match);
    if v_after = rekey_table.before then
      perform cloudsync.move_tombstones(rekey_table.table_id, v_rest);
    end if;
  end if;
  if v_match is null or v_after <> rekey_table.before then
    delete from cloudsync.parked as p where p.table_id = rekey_table.table_id;
  end if;
  execute format('drop table cloudsync.meta_%s_before', rekey_table.table_id);
end
$rekey$;

-- Takes tombstones along to another type of the same key. A value that the new type cannot hold was a key of a row that
-- is gone, so all tombstones go rather than the user's command.
create function cloudsync.move_tombstones(table_id integer, rest text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $move$
begin
  execute format(
    'insert into cloudsync.meta_%1$s (%2$s%3$s) select %4$s%5$s from cloudsync.meta_%1$s_before as m '
    'where not m.alive on conflict do nothing',
    move_tombstones.table_id,
    cloudsync.spell(move_tombstones.table_id, true, 'key_{n}', ', '), rest,
    (select string_agg(format('m.key_%s::%s', k.key_position, k.type_name), ', ' order by k.key_position)
     from cloudsync.columns as k
     where k.table_id = move_tombstones.table_id and k.key_position is not null),
    replace(rest, ', ', ', m.'));
exception when data_exception or integrity_constraint_violation or cannot_coerce then
  raise warning 'deletions of table number % were forgotten, because their keys do not fit its new key',
    move_tombstones.table_id;
end
$move$;
