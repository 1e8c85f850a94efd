-- Whether a relation, alone or as a partition, belongs to a tracked table that is captured and told of, and has as many
-- columns as this transaction sees in the registry: one that began before a column came sees an older definition.
select exists (
  select from cloudsync.tables as t
  where t.table_id operator(pg_catalog.=) $1
    and t.relation::pg_catalog.oid operator(pg_catalog.=) coalesce(
      (pg_catalog.pg_partition_root($2))::pg_catalog.oid, $2)
    and t.enabled
    and t.suspended is null
    and (t.relation::pg_catalog.oid operator(pg_catalog.<>) $2 or t.attributes operator(pg_catalog.=) $3)
)
