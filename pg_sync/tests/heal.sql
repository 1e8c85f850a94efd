-- A database that lacks what its sites were told, and what is merged into it again.
\ir include/metadata.psql
\ir include/author.psql
create table author.t (id integer primary key, a text check (a <> 'refused'));
create table t (id integer primary key, a text check (a <> 'refused'));
select length(cloudsync_init('author.t')) > 0 as ok \gset
insert into author.t values (1, 'one'), (2, 'two');
select count(author.stamp(i, 1000, 'aa')) as n from generate_series(1, 2) as i \gset
select author.payload() as sent \gset
alter table author.t drop constraint t_a_check;
update author.t set a = case id when 1 then 'refused' else 'later' end;
select count(author.stamp(i, 2000, 'aa')) as n from generate_series(1, 2) as i \gset
select author.payload() as later \gset
select cloudsync_cleanup('author.t') as n \gset

-- A table of somebody else, which the caller may not write, with policies that do not bind its owner.
create role heal_owner;
create role heal_hub;
grant create, usage on schema public to heal_owner;
alter table t owner to heal_owner;
alter table t enable row level security;
select length(cloudsync_init('t')) > 0 as ok \gset
select cloudsync_grant_hub('heal_hub') as n \gset
create table writers (name text primary key);
grant select, insert on writers to heal_owner;
create function writer() returns trigger language plpgsql as $$
begin
  insert into public.writers values (current_user) on conflict do nothing;
  return null;
end
$$;
create trigger writer after insert or update on t for each row execute function writer();

\echo == what is merged again is written by the owner of the table, and once
set role heal_hub;
select * from cloudsync.replay(:'sent');
select * from cloudsync.replay(:'sent');
\echo == what is refused is counted and told, and keeps nothing else out
select * from cloudsync.replay(:'later');
select * from t;
reset role;
select * from t order by id;
select * from writers;
select count(*) from cloudsync.rejected;

create function upload(first bigint, last bigint, token text, site text default 'aa') returns text language sql as $$
  select concat_ws(' ', u.answer ->> 'status', 'acked', u.answer ->> 'acked')
  from (select cloudsync.apply_upload('\x00', decode(repeat(site, 16), 'hex'), decode(repeat('0f', 16), 'hex'), first, last,
    decode(repeat(token, 16), 'hex'), null, null) as answer) as u
$$;
create view known as
  select left(site::text, 4) as site, acked, left(token::text, 4) as token, generation from cloudsync.sites order by site;
insert into cloudsync.sites (site, acked, token, upload_id)
select decode(repeat(site, 16), 'hex'), 5, decode(repeat('11', 16), 'hex'), decode(repeat('01', 16), 'hex')
from unnest(array['aa', 'ab', 'ac']) as site;
\echo == while nothing was lost, another token is a copy, and the number of a site is the one it was told
select upload(6, 6, '22'), upload(1, 1, '22', 'ee');
select cloudsync.site_acked(decode(repeat('aa', 16), 'hex')), cloudsync.site_acked(decode(repeat('ee', 16), 'hex'));
select cloudsync.restored() is null;
\echo == another timeline is a generation: a token is believed once, and the number tells where to begin
update cloudsync.self set timeline = timeline + 100;
\connect
select upload(9, 9, '22');
select upload(9, 9, '22');
select upload(9, 9, '33');
select * from known;
select generation, cause from cloudsync.generations;
select count(*) from cloudsync.site_dictionary where ordinal = (select ordinal from cloudsync.self) and site = cloudsync_siteid();
\echo == a site that is not known here begins at its first number
select upload(7, 7, '22', 'ee');
select cloudsync.site_acked(decode(repeat('aa', 16), 'hex')), cloudsync.site_acked(decode(repeat('ef', 16), 'hex'));
\echo == a token that is known goes on
select upload(6, 6, '11', 'ab');
\echo == after a restore on purpose nothing is sent again: the numbers of sites are taken too
select cloudsync_restored();
select cloudsync.restored() = (select tag::text from cloudsync.generations where cause = 'restore');
select cloudsync.site_acked(decode(repeat('aa', 16), 'hex')), cloudsync.site_acked(decode(repeat('ef', 16), 'hex'));
select upload(12, 12, '44');
select upload(20, 20, '44', 'ef');
select * from known;
\echo == and a failover after it is one again
select cloudsync.begin_generation('failover');
select upload(30, 30, '55');
select upload(30, 30, '55', 'f0');
\echo == a restore that a site has not heard of yet counts
select upload(40, 40, '55', 'ac');
\echo == rights
grant usage on schema cloudsync to heal_owner;
set role heal_owner;
select cloudsync_restored();
select cloudsync.replay('\x00');
select cloudsync.begin_generation('restore');
reset role;
drop owned by heal_owner, heal_hub cascade;
drop role heal_owner;
drop role heal_hub;
