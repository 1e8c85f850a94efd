-- The queue of jobs: one node works on a lane, its lease can be lost, what fails waits longer and longer, then is dead.
create extension pg_sync;
create role jobs_hub;
select cloudsync_grant_hub('jobs_hub') as n \gset
create view jobs as select kind, key, state, attempts, last_error from cloudsync.job_states order by kind, key;
grant select on jobs to jobs_hub;
create function claim(kinds text[], lease interval default '1 minute') returns text language sql as $$
  select concat_ws(' ', c.kind, c.key, 'attempt', c.attempts) from cloudsync.claim_job(kinds, 'node', lease) as c
$$;
create function done(job text, error text default null, attempts_max integer default 3) returns boolean language sql as $$
  select cloudsync.end_job(s.job_id, j.fence, error, attempts_max)
  from cloudsync.job_states as s join cloudsync.jobs as j using (job_id) where s.key = job
$$;
create function due() returns void language sql as $$
  update cloudsync.jobs set run_at = clock_timestamp() where state = 'waiting'
$$;

\echo == only the hub makes jobs
create role jobs_other;
set role jobs_other;
select cloudsync.make_job('k', '1', 'l', '{}', '0');
select * from cloudsync.job_states;
set role jobs_hub;
select cloudsync.make_job('k', '1', 'l', '{"a": 1}', '0') as n \gset
select count(*) from cloudsync.job_states;
reset role;

\echo == a lane gives one job at a time, other lanes go on, other kinds are left alone
select cloudsync.make_job('k', '1', 'l', '{}', '0'), cloudsync.make_job('k', '2', 'l', '{}', '0'), cloudsync.make_job('k', '3', 'm', '{}', '0');
select claim('{x}');
select claim('{k}');
select claim('{k}');
select claim('{k}');
select done('1'), done('3');
select claim('{k}');
select done('2');
select * from jobs;

\echo == a job that is not due is not given, and is made due by who wants it now
select cloudsync.make_job('k', '1', 'l', '{}', '1 hour'), claim('{k}');
select cloudsync.make_job('k', '1', 'l', '{}', '0'), claim('{k}');
\echo == what is asked for again while it runs runs again
select cloudsync.make_job('k', '1', 'l', '{}', '0');
select done('1');
select claim('{k}');
select done('1');
select count(*) from jobs;

\echo == who lost the lease is not believed
select cloudsync.make_job('k', '1', 'l', '{}', '0');
select job_id, fence from cloudsync.claim_job('{k}', 'first', '0') \gset old_
select claim('{k}');
select cloudsync.extend_job(:old_job_id, :old_fence, '1 minute') is null, cloudsync.end_job(:old_job_id, :old_fence, null, 3);
select cloudsync.extend_job(job_id, fence, '1 minute') from cloudsync.jobs;
select done('1');

\echo == what fails is tried again later, then is dead, and can be tried again by hand
select cloudsync.make_job('k', '1', 'l', '{}', '0');
select claim('{k}');
select done('1', 'no luck'), claim('{k}');
select * from jobs;
select due();
select claim('{k}');
select done('1', 'no luck');
select due();
select claim('{k}');
select done('1', 'no luck at all');
select * from jobs;
select cloudsync.make_job('k', '1', 'l', '{}', '0'), claim('{k}');
select cloudsync.revive_job(job_id) from cloudsync.jobs;
select claim('{k}');
select done('1');
\echo == what can never be done is kept until somebody forgets it
select cloudsync.bury_job('k', 'gone', 'l', '{}', 'not signed');
select * from jobs;
select cloudsync.forget_job(job_id) from cloudsync.jobs;
select count(*) from jobs;

\echo == a job that recurs waits for its time, and is never dead
select cloudsync.make_job('k', '1', 'l', '{}', '0', '1 hour');
select claim('{k}');
select done('1', 'no luck', 1);
select state, attempts, run_at < clock_timestamp() + interval '10 seconds' as soon from cloudsync.job_states;
select due();
select claim('{k}');
select done('1');
select state, attempts, last_error, run_at > clock_timestamp() + interval '59 minutes' as later from cloudsync.job_states;
select cloudsync.make_job('k', '1', 'l', '{}', '1 hour', '1 minute');
select every from cloudsync.job_states;
drop extension pg_sync cascade;
drop owned by jobs_hub;
drop role jobs_hub, jobs_other;
