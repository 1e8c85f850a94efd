-- Makes the tables of a file that is the centre of others: what it passes on, and what it knows of the sites
-- that upload to it. Every statement can be run again.

-- What changed, in the order in which it is passed on: one payload frame a row. `ends` is set in the last row of
-- a transaction. Whoever has stored a row elsewhere deletes it; a number is never used again.
create table if not exists main.cloudsync_feed (
  seq integer primary key autoincrement,
  frame blob not null,
  ends integer not null default 0
);

-- How far each site got, and the token by which a copy of its file is told from the file itself. `generation`
-- is that of the centre when the site was last heard of.
create table if not exists main.cloudsync_uploaders (
  site blob not null primary key,
  acked integer not null,
  token blob not null,
  upload blob not null,
  accepted_hlc integer not null,
  generation integer not null
) without rowid;

-- Rows of uploads that this file refused, kept until their site has confirmed that it knows.
create table if not exists main.cloudsync_refusals (
  id integer primary key autoincrement,
  site blob not null,
  tbl text not null,
  pk blob not null,
  key text not null,
  sqlstate text not null,
  message text not null,
  first integer not null,
  last integer not null,
  unique (site, tbl, pk)
);

-- What each site has received, as the hub was told: all that was committed before.
create table if not exists main.cloudsync_site_places (
  site blob not null primary key,
  received_until_ms integer not null
) without rowid;

-- Where the feed stood at a time: whoever has it up to there has all that was committed before.
create table if not exists main.cloudsync_log_marks (
  place integer primary key,
  at_ms integer not null
);

-- Of tables with a scope: who was last told to read a row, as a JSON array. Of a row that is gone, who read it last.
create table if not exists main.cloudsync_row_scopes (
  tbl integer not null,
  pk blob not null,
  scopes text not null,
  primary key (tbl, pk)
) without rowid;

-- Which cells a site lost by its newest upload, as the answer named them, for a site that asks again.
create table if not exists main.cloudsync_lost_cells (
  site blob not null primary key,
  lost text not null
) without rowid;
