-- Tables and columns of every algorithm: what local writes do, what they emit, and what merging leaves.
\ir include/metadata.psql
create function rows_of_registers(tracked text) returns setof text language plpgsql as $$
begin
  return query execute format(
    'select concat_ws('' | '', key_1, registers is not null) from cloudsync.meta_%s order by 1',
    (select table_id from cloudsync.tables where table_name = tracked));
end
$$;
create table posts (id text primary key, title text, likes bigint default 0, best integer, least double precision,
  body text, low integer, high integer);
insert into posts values ('old', 'there before', 7, 3, 3.5, 'one, two', 1, 2);
select cloudsync_init('posts');
\echo == setting up
select cloudsync_set_column('posts', 'likes', 'algo', 'counter');
select cloudsync_set_column('posts', 'best', 'algo', 'MAX');
select cloudsync_set_column('posts', 'least', 'algo', 'min');
select cloudsync_set_column('posts', 'body', 'delimiter', ', ');
select cloudsync_set_column('posts', 'body', 'algo', 'block');
select cloudsync_set_column('posts', 'low', 'algo', 'group:range');
select cloudsync_set_column('posts', 'high', 'algo', 'group:range');
select name, algorithm, column_group, delimiter from cloudsync.columns where algorithm <> 0 order by column_id;
select metadata('posts');
select rows_of_registers('posts');
\echo == what cannot be
select cloudsync_set_column('posts', 'title', 'algo', 'counter');
select cloudsync_set_column('posts', 'title', 'algo', 'sum');
select cloudsync_set_column('posts', 'title', 'algo', 'group:');
select cloudsync_set_column('posts', 'id', 'algo', 'max');
select cloudsync_set_column('posts', 'nowhere', 'algo', 'max');
select cloudsync_set_column('posts', 'body', 'delimiter', '');
select cloudsync_set_table('posts', 'algo', 'aws');
select cloudsync_set_table('posts', 'algo', 'other');
\echo == local writes
insert into posts values ('p', 'Hello', 10, 5, 5, 'red, blue', 1, 2);
update posts set likes = likes + 1 where id = 'old';
update posts set low = 0 where id = 'p';
select metadata('posts');
update posts set likes = likes + 5, best = 9, least = 1, body = 'red, green, blue' where id = 'p';
update posts set likes = 20, best = 4, least = 2 where id = 'p';
select likes, best, least, body from posts where id = 'p';
select column_name, lost_value, reason from cloudsync.conflicts order by conflict_id;
\echo == a write that changes nothing is no news
select metadata('posts') except select metadata('posts');
create temp table before as select m.* from cloudsync.meta_1 as m;
update posts set likes = likes, best = best;
update posts set best = 1 where id = 'p';
select count(*) from (select m.* from cloudsync.meta_1 as m except select b.* from before as b) as changed;
\echo == a user trigger that insists
create function insist() returns trigger language plpgsql as $$ begin new.best := 2; return new; end $$;
create trigger insist before update on posts for each row execute function insist();
update posts set title = 'insisted' where id = 'p';
select title, best from posts where id = 'p';
drop trigger insist on posts;
\echo == algorithms change only before rows are written
select cloudsync_set_column('posts', 'likes', 'algo', 'lww');
select cloudsync_set_column('posts', 'title', 'algo', 'max');
select cloudsync_set_column('posts', 'low', 'algo', null);
select cloudsync_set_column('posts', 'low', 'algo', 'group:range');
\echo == another type of the key takes the registers along
alter table posts alter column id type varchar(40);
update posts set likes = likes + 1, best = 1 where id = 'p';
select likes, best from posts where id = 'p';
select metadata('posts');
\echo == a row whose register nobody knows begins anew
update cloudsync.meta_1 set registers = null where key_1 = 'p';
update posts set likes = likes + 1 where id = 'p';
select metadata('posts');
\echo == deletion and another life
delete from posts where id = 'p';
insert into posts (id, likes) values ('p', 1);
select likes, best, body from posts where id = 'p';
select metadata('posts');

\echo == gos
create table events (id text primary key, what text);
select cloudsync_init('events', 'gos');
insert into events values ('e', 'opened');
update events set what = 'closed';
delete from events;
truncate events;
insert into events values ('e', 'again') on conflict (id) do update set what = excluded.what;
insert into events values ('e', 'again') on conflict do nothing;
select * from events;
select metadata('events');
\echo == dws
create table keys (id text primary key, owner text);
select cloudsync_init('keys', 'dws');
insert into keys values ('k', 'me'), ('l', 'me');
delete from keys where id = 'k';
insert into keys values ('k', 'you');
update keys set id = 'k' where id = 'l';
begin;
delete from keys where id = 'l';
insert into keys values ('l', 'again');
rollback;
select * from keys;
select metadata('keys');
\echo == aws
create table pairs (id text primary key, x integer, y integer);
select cloudsync_init('pairs', 'aws');
insert into pairs values ('r', 1, 1);
select cloudsync_set_column('pairs', 'x', 'algo', 'counter');
update pairs set x = 2;
select metadata('pairs');
select cloudsync_init('keys', 'gos');
select cloudsync_init('keys', 'other');
