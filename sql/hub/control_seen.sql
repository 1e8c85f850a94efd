-- Says that a node is there ($1), and forgets those that have not said so for $2 seconds.
with gone as (
  delete from cloudsync_control.nodes
  where node <> $1 and seen_at < clock_timestamp() - make_interval(secs => $2)
)
insert into cloudsync_control.nodes (node) values ($1)
on conflict (node) do update set seen_at = clock_timestamp()
