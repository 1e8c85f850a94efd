-- The nodes that follow this control database: what a database may take is for all of them together. Made by the hub
-- itself where it is missing, also beside tables that an earlier release made.
create table cloudsync_control.nodes (
  node text primary key,
  seen_at timestamptz not null default clock_timestamp()
);

-- For each row: a node that only says that it is there is no news.
create trigger tell after insert or delete on cloudsync_control.nodes
for each row execute function cloudsync_control.tell();
