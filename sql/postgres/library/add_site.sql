-- Gives a site an ordinal; another transaction may do the same at this moment.
insert into cloudsync.site_dictionary (ordinal, site)
values (pg_catalog.nextval('cloudsync.site_ordinal'), $1)
on conflict (site) do nothing
