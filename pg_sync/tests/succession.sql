-- Uploads follow each other by the token of the one before, or by its id while the site was not told the token.
\ir include/metadata.psql
\ir include/author.psql
create table author.t (id integer primary key, what text);
create table t (id integer primary key, what text);
select cloudsync_init('author.t');
insert into author.t values (1, 'one');
select author.stamp(1, 1000, 'aa');
select author.payload() as one \gset
select cloudsync_cleanup('author.t');
select cloudsync_init('t');

-- An upload whose id is its number, of one number, behind the one of another number, with the token of another one.
create table tokens (number bigint, token bytea);
create function id(number bigint) returns bytea language sql as $$ select decode(lpad(to_hex(number), 32, '0'), 'hex') $$;
create function upload(payload bytea, number bigint, behind bigint default null, token bigint default null) returns text
language plpgsql as $$
declare
  v_answer jsonb;
begin
  if behind is not null then
    perform cloudsync.follow_upload(id(behind));
  end if;
  v_answer := cloudsync.apply_upload(payload, decode(repeat('aa', 16), 'hex'), id(number), number, number,
    (select t.token from tokens as t where t.number = upload.token), null, null);
  insert into tokens select number, decode(v_answer ->> 'token', 'hex') where v_answer ->> 'status' = 'applied';
  return concat_ws(' ', v_answer ->> 'status', v_answer ->> 'acked');
end
$$;

\echo == nothing goes behind one that is not here
select upload(:'one', 2, behind => 1);
select count(*) from cloudsync.sites;
\echo == one behind the other, each once
select upload(:'one', 1);
select upload(:'one', 2, behind => 1);
select upload(:'one', 2, behind => 1);
select upload(:'one', 4, behind => 3);
select upload(:'one', 3, behind => 2);
\echo == a copy of the file sent others in the same place
select upload(:'one', 2, behind => 9);
select upload(:'one', 4, behind => 2);
\echo == by the token again
select upload(:'one', 4, token => 2);
select upload(:'one', 4, token => 3);
select upload(:'one', 5, behind => 3, token => 4);
\echo == what one transaction follows, the next does not
begin;
select cloudsync.follow_upload(id(4));
rollback;
select upload(:'one', 5);
select upload(:'one', 5, token => 4);
\echo == its place is judged before what it holds, and the place stays
select upload('\x00', 7, behind => 6);
select upload('\x00', 6, behind => 5) like 'invalid%';
select upload(:'one', 6, behind => 5);
\echo == a server that lost what it knew is not taken further than the site shows
select cloudsync.begin_generation('failover');
select upload(:'one', 9, behind => 8);
select cloudsync.follow_upload('\x00');
