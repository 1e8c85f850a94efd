-- Makes the tables that the extension keeps beside the user's own: settings, the site dictionary, the
-- registry of tracked tables, the capture log with its outbox, and what could not be applied or accepted.
-- Every statement can be run again; whoever changes one counts `CATALOG_VERSION` in sqlite_sync/src/catalog.rs up.

create table if not exists main.cloudsync_settings (
  key text not null primary key,
  value
) without rowid;

create table if not exists main.cloudsync_sites (
  ordinal integer primary key,
  site blob not null unique
);

-- `baseline` is the number of the log entry that stands for the rows which were there before, NULL when the
-- table was empty; `baseline_after` is the row key up to which these rows were put into uploads.
create table if not exists main.cloudsync_tables (
  id integer primary key,
  name text not null unique collate nocase,
  algorithm integer not null,
  incarnation integer not null,
  version integer not null,
  baseline integer,
  baseline_after blob
);

-- Ids are never used again, so a column that went away keeps its line. `added` is the newest number of the
-- log when a column came later than its table: rows that were last written before do not speak for it.
create table if not exists main.cloudsync_columns (
  tbl integer not null,
  id integer not null,
  name text not null collate nocase,
  added integer not null default 0,
  dropped integer not null default 0,
  primary key (tbl, id)
) without rowid;

-- Written by triggers alone, also by tools that never heard of the extension. `cols` is a set of column ids
-- (one integer, or words of 63 ids joined by commas) or a negative code: see sqlite_sync/src/log.rs.
create table if not exists main.cloudsync_log (
  seq integer primary key,
  tbl integer,
  cols,
  ms integer,
  pk
);

create table if not exists main.cloudsync_outbox (
  upload blob not null primary key,
  first integer not null,
  last integer not null,
  payload blob not null
) without rowid;

-- What an upload in the outbox has before its payload, when it is larger than one body: each is sent alone, and all
-- are applied together.
create table if not exists main.cloudsync_outbox_chunks (
  upload blob not null,
  number integer not null,
  payload blob not null,
  sent integer not null default 0,
  primary key (upload, number)
);

-- `cells`: newer than the life of a row that is not alive, one merged entry a row. `refused`: a change that
-- this file's own constraints did not let in; tried again at each sync.
create table if not exists main.cloudsync_parked (
  id integer primary key,
  tbl integer not null,
  pk blob not null,
  kind text not null check (kind in ('cells', 'refused')),
  change blob not null,
  reason text,
  at_ms integer not null
);

create index if not exists main.cloudsync_parked_row on cloudsync_parked (tbl, pk);

-- What the server did not accept. The user's value stays in the table; the row travels whole until accepted.
create table if not exists main.cloudsync_rejected (
  tbl text not null collate nocase,
  pk blob not null,
  key text not null,
  sqlstate text not null,
  message text not null,
  first integer not null,
  last integer not null,
  at_ms integer not null,
  primary key (tbl, pk)
);

-- Tables and columns of other replicas that this file does not have; `col` is '' for a whole table.
create table if not exists main.cloudsync_skipped (
  tbl text not null collate nocase,
  col text not null collate nocase,
  reason text not null,
  at_ms integer not null,
  primary key (tbl, col)
) without rowid;

-- What was set for the whole file (`tbl` is 0), a table (`col` is '') or one of its columns; 'enabled', 'filter'
-- and 'horizon' are the extension's own.
create table if not exists main.cloudsync_table_settings (
  tbl integer not null,
  col text not null collate nocase,
  key text not null collate nocase,
  value,
  primary key (tbl, col, key)
) without rowid;

-- Entries of tables that are disabled, in the form of the log: they move there when the table is enabled.
create table if not exists main.cloudsync_held (
  seq integer primary key,
  tbl integer,
  cols,
  ms integer,
  pk
);

-- The capture triggers of a table as they were made, and the ids of its key: what a later look at the file is
-- compared with. `altering` says that they are those of cloudsync_begin_alter.
create table if not exists main.cloudsync_shapes (
  tbl integer primary key,
  triggers text not null,
  key_ids text not null,
  altering integer not null default 0
);

-- Tables that were written to without capture. A gap closes when the table was compared with the server.
create table if not exists main.cloudsync_gaps (
  tbl integer primary key,
  reason text not null,
  at_ms integer not null
);

-- Values written here that lost before the server had acknowledged them; `key` is a JSON array for people.
create table if not exists main.cloudsync_conflicts (
  id integer primary key,
  tbl text not null collate nocase,
  pk blob not null,
  key text not null,
  col text not null collate nocase,
  lost_value,
  lost_hlc integer not null,
  lost_site blob not null,
  won_value,
  won_hlc integer not null,
  won_site blob not null,
  reason text not null,
  at_ms integer not null
);

-- Of those that the server named, what won may come later.
create index if not exists main.cloudsync_conflicts_cell on cloudsync_conflicts (tbl, pk, col)
where reason = 'server';

-- What the snapshot that is being taken holds, until its end: tables that it names, and hashes of row keys.
create table if not exists main.cloudsync_rebase (
  part integer primary key,
  tbl integer,
  hashes blob not null
);

-- What came of a part of a snapshot whose body broke off: what was asked for, and the server's name of it.
create table if not exists main.cloudsync_broken_off (
  place text not null,
  tag text not null,
  body blob not null
);

-- Rows that the server said to forget and that wait for the answer to changes of this file.
create table if not exists main.cloudsync_evictions (
  tbl integer not null,
  pk blob not null,
  primary key (tbl, pk)
) without rowid;

-- Keys that were deleted from dws tables since the last fold, as quote() prints their parts.
create table if not exists main.cloudsync_dead (
  tbl integer not null,
  key text not null,
  primary key (tbl, key)
) without rowid;

-- Of a gos table, whether the key that is being inserted was there before: then REPLACE took a row away.
create table if not exists main.cloudsync_guards (
  tbl integer primary key,
  present integer not null
);
