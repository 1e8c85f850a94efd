-- What is asked and done when this database may have lost what it once had: see the table cloudsync.generations.

-- Merges what the hub's store holds, as the owners of the tables, so that no right of a caller is in the way.
-- Tells how many rows changed and how many were refused.
create function cloudsync.replay(payload bytea) returns table (changed bigint, refused bigint)
language c volatile strict parallel unsafe
as 'MODULE_PATHNAME', 'replay_wrapper';

-- Notes that this database lacks what it once had.
create function cloudsync.begin_generation(cause text) returns void
language sql volatile strict security definer
set search_path = pg_catalog, pg_temp
begin atomic
  insert into cloudsync.generations (generation, cause)
  select coalesce(max(g.generation), 0) + 1, begin_generation.cause
  from cloudsync.generations as g;
end;

-- Names the newest restore on purpose; null when there was none.
create function cloudsync.restored() returns text
language sql stable security definer
set search_path = pg_catalog, pg_temp
begin atomic
  select g.tag::text
  from cloudsync.generations as g
  where g.cause = 'restore'
  order by g.generation desc
  limit 1;
end;

-- The number up to which this database has what a site sent, for a site that was told another by a database that
-- is gone; null where the site shall not send anything again.
create function cloudsync.site_acked(site bytea) returns bigint
language sql stable security definer
set search_path = pg_catalog, pg_temp
begin atomic
  select case
    when not exists (select from cloudsync.generations) then s.acked
    when exists (
      select from cloudsync.generations as g
      where g.cause = 'restore'
        and (g.generation > s.generation
          or (s.site is null and g.generation = (select max(n.generation) from cloudsync.generations as n)))
    ) then null
    else coalesce(s.acked, 0)
  end
  from (values (1)) as one
  left join cloudsync.sites as s on s.site = site_acked.site;
end;

-- Tells clients that this database was set back on purpose: what it lacks is undone for everybody. To be called
-- after a restore, before the hub connects; without it, the hub brings back what its store and the clients hold.
create function @extschema@.cloudsync_restored() returns void
language sql volatile security definer
set search_path = pg_catalog, pg_temp
begin atomic
  select cloudsync.begin_generation('restore');
end;
