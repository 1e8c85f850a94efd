-- The control database: which databases the hub serves besides those of its file, and the keys that open them. Made by
-- the hub itself where it is missing. A connection string holds a password, so nobody but the hub's own role is let in.
create schema cloudsync_control;

create table cloudsync_control.databases (
  name text primary key,
  -- As under [[database]] in the file of the hub, without name and keys.
  settings jsonb not null check (jsonb_typeof(settings) = 'object'),
  created_at timestamptz not null default clock_timestamp(),
  changed_at timestamptz not null default clock_timestamp()
);

create table cloudsync_control.keys (
  key_id text primary key,
  -- Also one of the file, so that this is no reference.
  database text not null,
  hash bytea not null unique check (octet_length(hash) = 32),
  role text,
  label text not null,
  created_at timestamptz not null default clock_timestamp(),
  expires_at timestamptz
);

create index keys_of_database on cloudsync_control.keys (database, created_at);

-- Tells every node, also when a person changes a row.
create function cloudsync_control.tell() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $tell$
begin
  perform pg_notify('cloudsync_control', '');
  return null;
end
$tell$;

create trigger tell after insert or update or delete on cloudsync_control.databases
for each statement execute function cloudsync_control.tell();

create trigger tell after insert or update or delete on cloudsync_control.keys
for each statement execute function cloudsync_control.tell();

revoke all on schema cloudsync_control from public;
