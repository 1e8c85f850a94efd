-- A site says what it added to a counter itself, not what others did.
\ir include/metadata.psql
\ir include/author.psql
create table author.t (id integer primary key, n bigint, best integer, body text);
select cloudsync_init('author.t');
select cloudsync_set_column('author.t', 'n', 'algo', 'counter');
select cloudsync_set_column('author.t', 'best', 'algo', 'max');
select cloudsync_set_column('author.t', 'body', 'algo', 'block');
-- What was written here, in the name of site aa.
create function author.by_aa() returns bytea language sql as $$
  select decode(replace(encode(author.payload(), 'hex'), encode(cloudsync_siteid(), 'hex'), repeat('aa', 16)), 'hex')
$$;
insert into author.t values (1, 10, 10, 'one');
update author.t set n = 15, best = 15, body = e'one\ntwo';
select author.by_aa() as made \gset
update author.t set n = 1015, best = 1015, body = e'one\nforged';
select author.by_aa() as forged \gset
select cloudsync_cleanup('author.t');
create table t (id integer primary key, n bigint, best integer, body text);
select cloudsync_init('t');
select cloudsync_set_column('t', 'n', 'algo', 'counter');
select cloudsync_set_column('t', 'best', 'algo', 'max');
select cloudsync_set_column('t', 'body', 'algo', 'block');
create role sync_app;
grant select, insert, update, delete on t to sync_app;
create function upload(payload bytea, site text, id text) returns setof text language sql as $$
  select concat_ws(' ', u.answer ->> 'status', 'rejected', u.answer -> 'rejected', 'lost', jsonb_array_length(u.answer -> 'lost'))
  from (select cloudsync.apply_upload(payload, decode(repeat(site, 16), 'hex'), decode(repeat(id, 16), 'hex'), 1, 9,
    (select s.token from cloudsync.sites as s where s.site = decode(repeat(upload.site, 16), 'hex')), 'sync_app', null) as answer) as u
$$;

\echo == its own entries
select upload(:'made', 'aa', '01');
select n, best, replace(body, e'\n', ' ') from t;
\echo == as another site sends the row whole, and as it forges
select upload(:'made', 'bb', '01');
select upload(:'forged', 'bb', '02');
select n, best, replace(body, e'\n', ' ') from t;
\echo == the site itself
select upload(:'forged', 'aa', '02');
select n, best, replace(body, e'\n', ' ') from t;
drop owned by sync_app;
drop role sync_app;
