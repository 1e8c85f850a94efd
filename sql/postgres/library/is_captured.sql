-- Whether a relation, alone or as a partition, belongs to a tracked table that is captured and told of.
select exists (
  select from cloudsync.tables as t
  where t.table_id operator(pg_catalog.=) $1
    and t.relation::pg_catalog.oid operator(pg_catalog.=) coalesce(
      (pg_catalog.pg_partition_root($2))::pg_catalog.oid, $2)
    and t.enabled
    and t.suspended is null
)
