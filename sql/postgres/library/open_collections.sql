-- The tables whose metadata a round of collection has not seen to the end: horizon, the one it rises to, the page at
-- which it goes on, and how many pages there are.
select h.table_id, h.horizon, h.rising_to, h.next_page,
  pg_catalog.pg_relation_size(c.oid) operator(pg_catalog./) pg_catalog.current_setting('block_size')::pg_catalog.int8
from cloudsync.horizons as h
join pg_catalog.pg_class as c
  on c.relnamespace operator(pg_catalog.=) 'cloudsync'::pg_catalog.regnamespace
  and c.relname operator(pg_catalog.=) pg_catalog.format('meta_%s', h.table_id)
where h.rising_to is not null
order by h.table_id
