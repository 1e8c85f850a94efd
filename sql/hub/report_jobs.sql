-- A page of jobs, in the order of their numbers.
select coalesce(jsonb_agg(jsonb_build_object(
  'job', j.job_id,
  'kind', j.kind,
  'key', j.key,
  'state', j.state,
  'attempts', j.attempts,
  'recurs', j.every is not null,
  'run_at', to_char(j.run_at at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
  'changed_at', to_char(j.changed_at at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
  'last_error', j.last_error
) order by j.job_id), '[]')::text
from (
  select s.*
  from cloudsync.job_states as s
  where s.job_id > $1::bigint
  order by s.job_id
  limit $2
) as j
