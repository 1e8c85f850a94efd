-- Rows of one payload that take UNIQUE values from one another: moved aside first; what has no room is refused alone.
\ir include/metadata.psql
\ir include/author.psql

-- What the author sends is kept, since two tables of one name are not tracked at once; then it is applied.
create table author.sent (number integer generated always as identity, payload bytea);
create function author.send(ms bigint, dead boolean default false) returns void language plpgsql as $$
begin
  perform author.stamp(id, ms, 'aa') from author.t;
  insert into author.sent (payload) select author.payload(dead);
end
$$;
create function author.starts(fill text) returns void language plpgsql as $$
begin
  perform cloudsync_init('author.t');
  execute fill;
  perform author.send(1000);
end
$$;
-- The first of what was sent is what both sides have.
create function author.hands_over() returns void language plpgsql as $$
begin
  perform cloudsync_cleanup('author.t');
  perform cloudsync_init('public.t');
  perform author.next();
end
$$;
create function author.next() returns bigint language plpgsql as $$
declare
  v_payload bytea;
begin
  delete from author.sent where number = (select min(number) from author.sent) returning payload into v_payload;
  return cloudsync_payload_apply(v_payload);
end
$$;
create function author.ended() returns void language plpgsql as $$
begin
  perform cloudsync_cleanup('public.t');
  drop table author.t, public.t cascade;
  delete from cloudsync.rejected;
  delete from author.sent;
end
$$;

\echo == two swap, a cycle of three, a chain; NULL is free
create table author.t (id integer primary key, u text, note text);
create table t (id integer primary key, u text unique, note text);
select author.starts($$insert into author.t select i, 'v' || i, 'n' from generate_series(1, 9) as i$$);
update author.t set u = case id when 1 then 'v2' when 2 then 'v1' when 3 then 'v4' when 4 then 'v5' when 5 then 'v3'
  when 6 then 'v7' when 7 then 'v8' when 8 then 'new' else u end;
select author.send(2000);
update author.t set u = case id when 1 then 'v1' when 2 then 'v2' when 3 then 'mine' when 6 then 'v6' when 7 then 'v7' else u end;
select author.send(3000);
select author.hands_over();
select author.next();
select id, u from t order by id;
select metadata('t');
select count(*) from cloudsync.rejected;
\echo == beside a row that is really bad
insert into t values (100, 'mine', 'n');
select author.next();
select id, u from t order by id;
select key, sqlstate from cloudsync.rejected order by key::text;
select author.ended();

\echo == NOT NULL: text, and numbers that all go up by one
create table author.t (id integer primary key, u text not null, place integer not null);
create table t (id integer primary key, u text not null unique, place integer not null unique);
select author.starts($$insert into author.t select i, 'v' || i, i from generate_series(1, 900) as i$$);
update author.t set place = place + 1, u = case id when 1 then 'v2' when 2 then 'v1' else u end;
select author.send(2000);
select author.hands_over();
select author.next();
select count(*), sum(place) from t;
select id, u, place from t where id in (1, 2, 900) order by id;
select count(*) from cloudsync.rejected;
select author.ended();

\echo == no room: a boolean; one of two is true, both ways; at last each value once
create table author.t (id integer primary key, is_first boolean not null);
create table t (id integer primary key, is_first boolean not null);
create unique index first_of_all on t ((true)) where is_first;
select author.starts($$insert into author.t values (1, false), (2, true)$$);
update author.t set is_first = not is_first;
select author.send(2000);
update author.t set is_first = not is_first;
select author.send(3000);
update author.t set is_first = not is_first;
select author.send(4000);
select author.hands_over();
select author.next();
select * from t order by id;
select author.next();
select * from t order by id;
create unique index each_once on t (is_first);
select author.next();
select * from t order by id;
select key, sqlstate from cloudsync.rejected order by key::text;
select author.ended();

\echo == an index over an expression, with a condition; another over two columns
create table author.t (id integer primary key, mail text not null, a integer, b integer, gone boolean);
create table t (id integer primary key, mail text not null, a integer, b integer, gone boolean, unique (a, b));
create unique index mails on t (lower(mail)) where not gone;
select author.starts($$insert into author.t values (1, 'a@x', 1, 1, false), (2, 'b@x', 1, 2, false), (3, 'c@x', 2, 1, false)$$);
update author.t set mail = case id when 1 then 'B@x' when 2 then 'A@x' else mail end,
  a = case id when 2 then 2 else 1 end, b = case id when 1 then 2 else 1 end;
select author.send(2000);
select author.hands_over();
select author.next();
select * from t order by id;
select count(*) from cloudsync.rejected;
select author.ended();

\echo == a new row takes the value of one that changes
create table author.t (id integer primary key, u text);
create table t (id integer primary key, u text unique);
select author.starts($$insert into author.t values (1, 'a'), (2, 'b'), (3, 'c')$$);
update author.t set u = 'd' where id = 2;
insert into author.t values (4, 'b');
select author.send(2000);
select author.hands_over();
select author.next();
select * from t order by id;
select key, sqlstate from cloudsync.rejected order by key::text;
select author.ended();

\echo == as the caller: policies hide one of two, and the triggers of the user see what moves
create table author.t (id integer primary key, u text, whose text);
create table t (id integer primary key, u text unique, whose text);
create table seen (id integer, u text);
create function noted() returns trigger language plpgsql security definer as $$
begin
  insert into public.seen values (new.id, new.u);
  return null;
end
$$;
select author.starts($$insert into author.t values (1, 'a', 'app'), (2, 'b', 'app'), (3, 'c', 'app'), (4, 'd', 'other')$$);
update author.t set u = case id when 1 then 'b' when 2 then 'a' when 3 then 'd' else 'c' end;
select author.send(2000);
select author.hands_over();
create trigger noted after update on t for each row execute function noted();
create role unique_app;
grant select, insert, update, delete on t to unique_app;
alter table t enable row level security;
create policy own on t using (whose = 'app');
select payload as swapped from author.sent \gset
set role unique_app;
select cloudsync_payload_apply(:'swapped');
reset role;
select * from t order by id;
select distinct * from seen order by id, u;
select key, sqlstate from cloudsync.rejected order by key::text;
select author.ended();
drop table seen;
drop function noted;
drop role unique_app;

\echo == what a foreign key refers to is not moved: those who refer to it would be
create table author.t (id integer primary key, u text);
create table t (id integer primary key, u text unique);
create table refers (id integer primary key, u text references t (u) on update set null);
select author.starts($$insert into author.t values (1, 'a'), (2, 'b')$$);
update author.t set u = case id when 1 then 'b' else 'a' end;
select author.send(2000);
select author.hands_over();
insert into refers values (1, 'a');
select author.next();
select * from t order by id;
select * from refers;
select key, sqlstate from cloudsync.rejected order by key::text;
drop table refers;
select author.ended();

\echo == rows that refer to each other, beside one that is really bad; a chain in the wrong order
create table author.t (id integer primary key, above integer, n integer);
create table t (id integer primary key, above integer references t, n integer check (n > 0));
select author.starts($$insert into author.t values
  (1, 9, 1), (2, 3, 0), (3, 4, 1), (4, 5, 1), (5, 6, 1), (6, null, 1), (9, 1, 1), (10, 3, 1)$$);
select author.hands_over();
select * from t order by id;
select key, sqlstate from cloudsync.rejected order by key::text;
select author.ended();

\echo == many new rows: among them some that are here, with metadata and without, dead ones, and a bad one
create table author.t (id integer primary key, n integer);
create table t (id integer primary key, n integer check (n < 5000));
select author.starts($$insert into author.t select i, i from generate_series(1, 900) as i$$);
select author.send(1000);
update author.t set id = id + 1000, n = case id when 100 then 6000 else n end;
select author.send(1000);
select cloudsync_cleanup('author.t');
insert into t values (777, -1);
select cloudsync_init('public.t');
insert into t values (501, -2), (601, -3);
delete from t where id = 601;
\echo -- all but the two that are newer here, of which one is dead
select author.next();
select count(*), min(n) from t;
select * from t where id in (501, 601, 777) order by id;
\echo -- nothing
select author.next();
\echo -- all but the bad one
select author.next();
select count(*) from t where id > 1000;
select key, sqlstate from cloudsync.rejected order by key::text;
select author.ended();
