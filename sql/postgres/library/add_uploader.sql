-- Makes the row of a site that uploads for the first time.
insert into cloudsync.sites (site, acked, token, upload_id)
values ($1, 0, $2, $3)
on conflict (site) do nothing
