-- One tracked table, or all, with the columns, key first. A table that was dropped is not
-- tracked any more.
select
  t.table_id,
  t.relation::pg_catalog.oid,
  t.schema_name,
  t.table_name,
  t.incarnation,
  t.version,
  t.algorithm,
  c.column_id,
  c.name,
  c.type_name,
  c.type_oid::pg_catalog.oid,
  c.key_position,
  c.equality,
  c.algorithm,
  c.column_group,
  coalesce(a.attcollation, 0::pg_catalog.oid),
  t.enabled,
  r.relkind operator(pg_catalog.=) 'p',
  t.client_name,
  c.delimiter,
  pg_catalog.pg_get_expr(v.adbin, v.adrelid),
  t.scope_expression,
  t.filter_expression,
  t.row_security
from cloudsync.tables as t
join cloudsync.columns as c on c.table_id operator(pg_catalog.=) t.table_id
join pg_catalog.pg_class as r on r.oid operator(pg_catalog.=) t.relation::pg_catalog.oid
left join pg_catalog.pg_attribute as a
  on a.attrelid operator(pg_catalog.=) t.relation::pg_catalog.oid
  and a.attnum operator(pg_catalog.=) c.column_id
left join pg_catalog.pg_attrdef as v
  on v.adrelid operator(pg_catalog.=) a.attrelid
  and v.adnum operator(pg_catalog.=) a.attnum
where $1 is null or t.table_id operator(pg_catalog.=) $1
order by t.table_id, c.key_position, c.column_id
