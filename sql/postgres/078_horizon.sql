-- Tombstones that go: what each site has received, up to where each table has dropped its tombstones, and the round
-- that drops them. Everybody drops those that have clocks below the horizon, at the same place in the log.

-- What each site has received, as the hub was told: all that was committed before.
create table cloudsync.site_places (
  site bytea primary key check (octet_length(site) = 16),
  received_until timestamptz not null
);

-- Where the log stood at a time: whoever has the log up to there has all that was committed before.
create table cloudsync.log_marks (
  place pg_lsn primary key,
  at timestamptz not null
);

-- Up to where the tombstones of a table are gone. While a round looks through its metadata: up to where they will be, and
-- the page at which it goes on.
create table cloudsync.horizons (
  table_id integer primary key,
  horizon bigint not null default 0,
  rising_to bigint,
  next_page bigint not null default 0
);

-- How long a tombstone waits for a site that was not heard of.
create function cloudsync.tombstone_retention()
returns interval
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
  select coalesce(
    (select s.value::interval from cloudsync.settings as s where s.key = 'tombstone_retention'), interval '30 days');
end;

-- Notes now and then where the log stands.
create function cloudsync.mark_log()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $mark$
declare
  -- Read before the place: what is committed later may lie in front of it all the same.
  v_at timestamptz := clock_timestamp();
begin
  if not exists (select from cloudsync.log_marks as m where m.at > v_at - interval '10 minutes' and m.at <= v_at) then
    insert into cloudsync.log_marks (place, at) values (pg_current_wal_insert_lsn(), v_at) on conflict do nothing;
  end if;
end
$mark$;

-- Notes that a site has received the log up to a place: of a reader that waits for more, the end of what is known. True
-- when tombstones are gone that it may not have seen: then it takes a snapshot before anything of it is applied.
create function cloudsync.note_site(site bytea, place pg_lsn)
returns boolean
language plpgsql volatile strict security definer
set search_path = pg_catalog, pg_temp
as $note$
#variable_conflict use_column
declare
  v_until timestamptz;
begin
  perform cloudsync.mark_log();
  select max(m.at) into v_until from cloudsync.log_marks as m where m.place <= note_site.place;
  if v_until is not null then
    -- A file that was restored from a backup has received less than it had.
    insert into cloudsync.site_places as p (site, received_until)
    values (note_site.site, v_until)
    on conflict (site) do update set received_until = excluded.received_until
    where p.received_until <> excluded.received_until;
  end if;
  return exists (
    select from cloudsync.horizons as h
    where h.horizon > coalesce(cloudsync.clock_of(v_until), 0));
end
$note$;

-- The least clock of a write at a time.
create function cloudsync.clock_of(at timestamptz)
returns bigint
language sql immutable strict
set search_path = pg_catalog, pg_temp
begin atomic
  select greatest(floor(extract(epoch from clock_of.at) * 1000), 0)::bigint << 16;
end;

-- Goes on with the round that runs, or begins one. A table without tombstones keeps its horizon.
create function cloudsync.begin_collection()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $begin$
#variable_conflict use_column
declare
  v_oldest timestamptz := clock_timestamp() - cloudsync.tombstone_retention();
  v_clock bigint;
begin
  perform pg_advisory_xact_lock(hashtextextended('cloudsync collection', 0));
  perform cloudsync.mark_log();
  delete from cloudsync.log_marks as m
  where m.at < v_oldest and m.place < (select max(n.place) from cloudsync.log_marks as n where n.at < v_oldest);
  -- Such a site is behind whatever is dropped.
  delete from cloudsync.site_places as p where p.received_until < v_oldest;
  update cloudsync.horizons as h set rising_to = null
  where h.rising_to is not null and not exists (
    select from cloudsync.tables as t where t.table_id = h.table_id and t.enabled and t.suspended is null);
  if exists (select from cloudsync.horizons as h where h.rising_to is not null) then
    return;
  end if;
  -- A site that uploads, and of which nothing is known, may have received nothing for long.
  select cloudsync.clock_of(greatest(v_oldest, min(coalesce(k.received_until, '-infinity')))) into v_clock
  from (
    select p.received_until from cloudsync.sites as s full join cloudsync.site_places as p on p.site = s.site
  ) as k;
  insert into cloudsync.horizons as h (table_id, rising_to)
  -- Of dws tables a deletion stands for good.
  select t.table_id, v_clock from cloudsync.tables as t where t.enabled and t.suspended is null and t.algorithm <> 2
  on conflict (table_id) do update set rising_to = excluded.rising_to, next_page = 0
  where h.horizon < excluded.rising_to;
end
$begin$;

-- Drops tombstones, and cells that wait beside them, that are older than what every known site has received, but at
-- most `tombstone_retention` old. Looks at so many pages of metadata; `more` says that a further call has work left.
create function cloudsync.collect_tombstones(max_pages integer default 1024)
returns table (dropped bigint, parked bigint, more boolean)
language c volatile strict parallel unsafe
set search_path = pg_catalog, pg_temp
as 'MODULE_PATHNAME', 'collect_tombstones_wrapper';

-- What is gone is gone in a copy too.
select pg_catalog.pg_extension_config_dump('cloudsync.horizons', '');
