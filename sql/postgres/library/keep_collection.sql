-- How far a round of collection has come in a table: $2 its horizon, $3 the page at which it goes on, null at the end.
update cloudsync.horizons as h
set horizon = $2, next_page = coalesce($3, 0), rising_to = case when $3 is not null then h.rising_to end
where h.table_id operator(pg_catalog.=) $1
