-- Rows of one payload that take UNIQUE values from one another, by type: which have room, and which are refused.
\ir include/metadata.psql
\ir include/author.psql
create extension citext;

-- Two rows swap their values, as they would at another site; says what became of them, and of the refused.
create function swapped(type text, one text, two text, rule text default 'not null unique', more text default '')
returns text language plpgsql as $$
declare
  v_given bytea;
  v_swapped bytea;
  v_found text;
begin
  execute format('create table author.t (id integer primary key, u %s)', type);
  perform cloudsync_init('author.t');
  execute format('insert into author.t values (1, %1$s::%3$s), (2, %2$s::%3$s)', one, two, type);
  perform author.stamp(id, 1000, 'aa') from author.t;
  v_given := author.payload();
  execute format('update author.t set u = case id when 1 then %2$s::%3$s else %1$s::%3$s end', one, two, type);
  perform author.stamp(id, 2000, 'aa') from author.t;
  v_swapped := author.payload();
  perform cloudsync_cleanup('author.t');
  execute format('create table t (id integer primary key, u %s %s) %s', type, rule, more);
  perform cloudsync_init('public.t');
  perform cloudsync_payload_apply(v_given);
  perform cloudsync_payload_apply(v_swapped);
  set constraints all immediate;
  select string_agg(t.u::text, ' ' order by t.id) into v_found from t;
  v_found := concat_ws(' ', type || ':', v_found, (select string_agg(distinct sqlstate, ' ') from cloudsync.rejected));
  perform cloudsync_cleanup('public.t');
  drop table author.t, t;
  delete from cloudsync.rejected;
  return v_found;
end
$$;
set client_min_messages = error;
create domain even as integer check (value % 2 = 0);

\echo == text
select swapped('text', $$'a'$$, $$'b'$$);
select swapped('varchar(3)', $$'a'$$, $$'b'$$);
select swapped('char(3)', $$'a'$$, $$'b'$$);
select swapped('citext', $$'a'$$, $$'B'$$);
\echo == numbers, also the greatest that there are
select swapped('smallint', '1', '32767');
select swapped('integer', '1', '2147483647');
select swapped('bigint', '1', '9223372036854775807');
select swapped('numeric', '1.50', '2');
select swapped('numeric', '1', $$'NaN'$$);
select swapped('numeric(2,1)', '1.5', '9.9');
select swapped('double precision', '1', '2');
\echo == the rest
select swapped('uuid', $$'11111111-1111-1111-1111-111111111111'$$, $$'22222222-2222-2222-2222-222222222222'$$);
select swapped('date', $$'2026-01-01'$$, $$'2026-01-02'$$);
select swapped('date', $$'2026-01-01'$$, $$'infinity'$$);
select swapped('timestamptz', $$'2026-01-01'$$, $$'2026-01-02'$$);
\echo == no value is known to be free, until one may be NULL
select swapped('boolean', 'true', 'false');
select swapped('boolean', 'true', 'false', 'unique');
select swapped('int4range', $$'[1,2)'$$, $$'[3,4)'$$);
select swapped('int4range', $$'[1,2)'$$, $$'[3,4)'$$, ', exclude using gist (u with &&)');
select swapped('even', '2', '4');
select swapped('integer', '1', '2', 'check (u between 1 and 2) not null unique');
\echo == NULLS NOT DISTINCT: NULL is a value like others
select case when current_setting('server_version_num')::integer < 150000 then 'integer: 2 1'
  else swapped('integer', '1', '2', 'unique nulls not distinct') end;
\echo == checked at the end of the transaction
select swapped('boolean', 'true', 'false', 'not null unique deferrable initially deferred');
