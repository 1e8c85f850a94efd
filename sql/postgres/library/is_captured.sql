-- Whether a relation, alone or as a partition, belongs to a tracked table that is captured and told of. A table itself has
-- as many columns as the registry knows, and the same key: another one has changed while event triggers were off.
select exists (
  select from cloudsync.tables as t
  where t.table_id operator(pg_catalog.=) $1
    and t.relation::pg_catalog.oid operator(pg_catalog.=) coalesce(
      (pg_catalog.pg_partition_root($2))::pg_catalog.oid, $2)
    and t.enabled
    and t.suspended is null
    and (
      t.relation::pg_catalog.oid operator(pg_catalog.<>) $2
      or t.attributes operator(pg_catalog.=) $3
        and exists (
          select from pg_catalog.pg_index as i
          where i.indrelid operator(pg_catalog.=) $2
            and i.indisprimary
            and (i.indkey::pg_catalog.int2[])[0:i.indnkeyatts operator(pg_catalog.-) 1] operator(pg_catalog.=) $4
        )
    )
)
