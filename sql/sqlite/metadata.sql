-- Makes the metadata of one tracked table: one row per row that was ever written here or received.
create table if not exists main.{metadata} (
  {key_definitions},
  alive integer not null,
  hlc integer not null,
  site integer not null,
  cols blob,
  seq integer not null,
  primary key ({log_key})
) without rowid
