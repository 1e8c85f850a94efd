-- A copy may lack what the original was given last: a new generation.
insert into cloudsync.generations (generation, cause)
select coalesce(pg_catalog.max(g.generation), 0) operator(pg_catalog.+) 1, 'failover'
from cloudsync.generations as g
on conflict (generation) do nothing
