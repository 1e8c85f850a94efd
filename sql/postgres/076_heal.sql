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

-- Up to where the synchronous standbys have the log on their disks, so that whichever of them takes our place has it:
-- as many of them as synchronous_standby_names asks for. Null where Postgres waits for no standby, 0/0 where it waits
-- for one that is not there. Readers of logical slots, among them the hub, cannot take our place and are left out of
-- both numbers, though a pattern like * makes them synchronous too.
create function cloudsync.standbys_flushed() returns pg_lsn
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $flushed$
declare
  v_names constant text := current_setting('synchronous_standby_names');
  -- FIRST 2 (a, b), ANY 2 (a, b), 2 (a, b); or a, b, which asks for one.
  v_number integer;
begin
  if v_names = '' then
    return null;
  end if;
  if not pg_has_role(current_user, 'pg_read_all_stats', 'usage') then
    raise insufficient_privilege using
      message = format('%I may not see how far synchronous standbys are', current_user),
      hint = format('grant pg_read_all_stats to %I', current_user);
  end if;
  v_number := coalesce((regexp_match(v_names, '^\s*(?:(?:any|first)\s+)?(\d+)\s*\(', 'i'))[1]::integer, 1);
  return (
    with walsenders as (
      select
        r.flush_lsn,
        exists (
          select from pg_replication_slots as s where s.active_pid = r.pid and s.slot_type = 'logical') as is_logical
      from pg_stat_replication as r
      where r.sync_state in ('sync', 'quorum')
    ), wanted as (
      select v_number - count(*) filter (where w.is_logical) as number
      from walsenders as w
    )
    select case
      when n.number > 0 then coalesce((
        select w.flush_lsn
        from walsenders as w
        where not w.is_logical
        order by w.flush_lsn desc
        offset n.number - 1
        limit 1), '0/0')
      end
    from wanted as n
  );
end
$flushed$;
