-- Name of a relation, and whether a user has the rights of its owner.
select n.nspname::text, c.relname::text, pg_catalog.pg_has_role($2, c.relowner, 'usage')
from pg_catalog.pg_class as c
join pg_catalog.pg_namespace as n on n.oid operator(pg_catalog.=) c.relnamespace
where c.oid operator(pg_catalog.=) $1
