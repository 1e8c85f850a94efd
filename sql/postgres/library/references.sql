-- Which tracked table refers to which: child, parent.
select child.table_id, parent.table_id
from pg_catalog.pg_constraint as c
join cloudsync.tables as child on child.relation::pg_catalog.oid operator(pg_catalog.=) c.conrelid
join cloudsync.tables as parent on parent.relation::pg_catalog.oid operator(pg_catalog.=) c.confrelid
where c.contype operator(pg_catalog.=) 'f' and child.table_id operator(pg_catalog.<>) parent.table_id
