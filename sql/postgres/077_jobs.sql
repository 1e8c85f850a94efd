-- Jobs: work that the hub does beside requests, kept here so that any node can do it and none does it twice. A lane
-- is worked on by one node at a time: its row carries the lease, and a fence number by which the word of a node that
-- lost its lease is refused. What failed too often, and what can never be done, stays as dead until somebody looks.

create sequence cloudsync.job_number;

create table cloudsync.job_lanes (
  lane text primary key,
  lease_until timestamptz,
  fence bigint not null default 0
);

create table cloudsync.jobs (
  job_id bigint primary key default nextval('cloudsync.job_number'),
  kind text not null,
  key text not null,
  lane text not null,
  arguments jsonb not null,
  -- A job that recurs is never removed, and never dead.
  every interval,
  state text not null default 'waiting' check (state in ('waiting', 'running', 'dead')),
  run_at timestamptz not null,
  -- It was asked for again while it ran.
  again boolean not null default false,
  attempts integer not null default 0,
  fence bigint not null default 0,
  worker text,
  last_error text,
  made_at timestamptz not null default clock_timestamp(),
  changed_at timestamptz not null default clock_timestamp(),
  unique (kind, key)
);

-- What people and the hub's status see of them.
create view cloudsync.job_states as
select j.job_id, j.kind, j.key, j.lane, j.state, j.attempts, j.run_at, j.every, j.worker, j.last_error, j.made_at,
  j.changed_at, j.arguments
from cloudsync.jobs as j;

-- Wants a job done, at once or after a while; one of this kind and key that waits is done earlier at most. A dead one is
-- left as it is.
create function cloudsync.make_job(
  kind text, key text, lane text, arguments jsonb, after interval, every interval default null
) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $make$
begin
  insert into cloudsync.job_lanes (lane) values (make_job.lane) on conflict do nothing;
  insert into cloudsync.jobs as j (kind, key, lane, arguments, every, run_at)
  values (make_job.kind, make_job.key, make_job.lane, make_job.arguments, make_job.every,
    clock_timestamp() + make_job.after)
  on conflict on constraint jobs_kind_key_key do update
  set run_at = least(j.run_at, excluded.run_at), every = excluded.every,
    again = j.again or (j.state = 'running' and excluded.run_at <= clock_timestamp())
  where j.state <> 'dead'
    and (excluded.run_at < j.run_at or j.every is distinct from excluded.every or j.state = 'running');
end
$make$;

-- Gives the next job that is due in a lane nobody works on, and leases the lane. A job whose worker lost its lease
-- comes first.
create function cloudsync.claim_job(kinds text[], worker text, lease interval)
returns table (job_id bigint, kind text, key text, arguments jsonb, attempts integer, fence bigint)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $claim$
declare
  v_job cloudsync.jobs;
  v_fence bigint;
begin
  -- The lease stands in the row of the lane, which is locked: of two that ask at once, the second reads what the
  -- first wrote.
  select j.* into v_job
  from cloudsync.job_lanes as l
  join cloudsync.jobs as j on j.lane = l.lane
  where (l.lease_until is null or l.lease_until < clock_timestamp())
    and j.kind = any (claim_job.kinds)
    and (j.state = 'running' or (j.state = 'waiting' and j.run_at <= clock_timestamp()))
  order by (j.state = 'running') desc, j.run_at, j.job_id
  limit 1
  for update of l, j skip locked;
  if not found then
    return;
  end if;
  v_fence := nextval('cloudsync.fence');
  update cloudsync.job_lanes as l
  set lease_until = clock_timestamp() + claim_job.lease, fence = v_fence
  where l.lane = v_job.lane;
  return query
  update cloudsync.jobs as j
  set state = 'running', attempts = j.attempts + 1, fence = v_fence, worker = claim_job.worker, again = false,
    changed_at = clock_timestamp()
  where j.job_id = v_job.job_id
  returning j.job_id, j.kind, j.key, j.arguments, j.attempts, j.fence;
end
$claim$;

-- Lengthens the lease of whoever works on a job; false when it was lost.
create function cloudsync.extend_job(job_id bigint, fence bigint, lease interval) returns boolean
language sql volatile security definer
set search_path = pg_catalog, pg_temp
begin atomic
  update cloudsync.job_lanes as l
  set lease_until = clock_timestamp() + extend_job.lease
  from cloudsync.jobs as j
  where j.job_id = extend_job.job_id and j.state = 'running' and j.lane = l.lane
    and j.fence = extend_job.fence and l.fence = extend_job.fence
  returning true;
end;

-- Ends a job: done when there is no error, else to be tried again later, or dead after so many attempts. False
-- when the lease was lost and another node may have done it.
create function cloudsync.end_job(job_id bigint, fence bigint, error text, attempts_max integer) returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $end$
declare
  v_job cloudsync.jobs;
begin
  update cloudsync.job_lanes as l
  set lease_until = null
  from cloudsync.jobs as j
  where j.job_id = end_job.job_id and j.lane = l.lane and l.fence = end_job.fence;
  select j.* into v_job
  from cloudsync.jobs as j
  where j.job_id = end_job.job_id and j.state = 'running' and j.fence = end_job.fence
  for update;
  if not found then
    return false;
  end if;
  if end_job.error is null and v_job.every is null and not v_job.again then
    delete from cloudsync.jobs as j where j.job_id = v_job.job_id;
    return true;
  end if;
  update cloudsync.jobs as j
  set changed_at = clock_timestamp(), last_error = end_job.error, again = false,
    attempts = case when end_job.error is null then 0 else j.attempts end,
    state = case
      when end_job.error is not null and j.every is null and j.attempts >= end_job.attempts_max then 'dead'
      else 'waiting'
    end,
    run_at = clock_timestamp() + case
      when end_job.error is not null then
        least(interval '1 second' * power(2, least(j.attempts, 20) - 1), interval '10 minutes', j.every)
      when j.again then interval '0'
      else j.every
    end
  where j.job_id = v_job.job_id;
  return true;
end
$end$;

-- Keeps what can never be done, for somebody to look at.
create function cloudsync.bury_job(kind text, key text, lane text, arguments jsonb, error text) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $bury$
begin
  insert into cloudsync.job_lanes (lane) values (bury_job.lane) on conflict do nothing;
  insert into cloudsync.jobs (kind, key, lane, arguments, state, run_at, last_error)
  values (bury_job.kind, bury_job.key, bury_job.lane, bury_job.arguments, 'dead', clock_timestamp(), bury_job.error)
  on conflict on constraint jobs_kind_key_key do update
  set state = 'dead', arguments = excluded.arguments, last_error = excluded.last_error, changed_at = clock_timestamp();
end
$bury$;

-- Lets a dead job be tried again; false when there is none of this number.
create function cloudsync.revive_job(job_id bigint) returns boolean
language sql volatile security definer
set search_path = pg_catalog, pg_temp
begin atomic
  update cloudsync.jobs as j
  set state = 'waiting', attempts = 0, run_at = clock_timestamp(), changed_at = clock_timestamp()
  where j.job_id = revive_job.job_id and j.state = 'dead'
  returning true;
end;

-- Forgets a dead job; false when there is none of this number.
create function cloudsync.forget_job(job_id bigint) returns boolean
language sql volatile security definer
set search_path = pg_catalog, pg_temp
begin atomic
  delete from cloudsync.jobs as j
  where j.job_id = forget_job.job_id and j.state = 'dead'
  returning true;
end;
