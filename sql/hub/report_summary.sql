-- How a database is, in one look: what is tracked, who syncs, what was refused, what is to be done.
select jsonb_build_object(
  'tables', (select count(*) from cloudsync.tracked_tables),
  'devices', (select count(*) from cloudsync.sites),
  'rejected', (select count(*) from cloudsync.rejected),
  'waiting', (select count(*) from cloudsync.job_states as j where j.state = 'waiting'),
  'running', (select count(*) from cloudsync.job_states as j where j.state = 'running'),
  'dead', (select count(*) from cloudsync.job_states as j where j.state = 'dead')
)::text
