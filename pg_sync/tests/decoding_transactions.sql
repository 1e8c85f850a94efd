-- Which transactions the output plugin sends, and what of them: subtransactions, prepared ones, origins, several
-- slots, large messages, and nothing of what is not ours.
\ir include/metadata.psql
\ir include/frames.psql
create table t (id integer primary key, a text);
select cloudsync_init('t');
select 'slot_' || :'database' as slot, 'other_' || :'database' as other, 'phase_' || :'database' as phase \gset
select count(*) from pg_create_logical_replication_slot(:'slot', 'pg_sync');

-- What the slot has, in a table: frames in their order.
create function read_slot(slot text) returns setof text language plpgsql as $$
begin
  drop table if exists frames;
  create temporary table frames as
  select f.place, h.*, length(f.data) as bytes, f.data
  from pg_logical_slot_get_binary_changes(slot, null, null) with ordinality as f (lsn, xid, data, place),
    frame_head(f.data) as h;
  return query
    select format('%s messages in %s frames%s', sum(messages), count(*),
      case when bool_or(is_last) then '' else ', without end' end)
    from frames group by frames.xid order by min(place);
end
$$;

-- Which of these words stand in the messages.
create function words(variadic words text[]) returns text language plpgsql as $$
begin
  return (select string_agg(w, ' ' order by w) from unnest(words) as w
          where exists (select from frames where position(convert_to(w, 'UTF8') in data) > 0));
end
$$;

\echo == what subtransactions wrote that rolled back never appears
begin;
insert into t values (1, 'kept-outside');
savepoint one;
insert into t values (2, 'lost-one');
savepoint two;
insert into t values (3, 'lost-two');
release two;
rollback to one;
insert into t values (4, 'kept-again');
savepoint three;
insert into t values (5, 'kept-three');
savepoint four;
update t set a = 'kept-four' where id = 5;
release three;
commit;
select read_slot(:'slot');
select words('kept-outside', 'lost-one', 'lost-two', 'kept-again', 'kept-three', 'kept-four');
do $$
begin
  for i in 1 .. 200 loop
    begin
      insert into t values (100 + i, case when i % 2 = 0 then 'kept-even' else 'lost-odd' end);
      if i % 2 = 1 then
        raise exception 'odd';
      end if;
    exception when raise_exception then
      null;
    end;
  end loop;
end
$$;
select read_slot(:'slot');
select words('kept-even', 'lost-odd');
begin;
insert into t values (6, 'lost-all');
savepoint s;
insert into t values (7, 'lost-all');
release s;
rollback;
select read_slot(:'slot');

\echo == prepared transactions come when they commit, also for a slot that asks for them before
select count(*) from pg_create_logical_replication_slot(:'phase', 'pg_sync', false, true);
begin;
insert into t values (10, 'prepared');
savepoint s;
insert into t values (11, 'lost-in-it');
rollback to s;
prepare transaction 'dec_kept';
begin;
insert into t values (12, 'never-committed');
prepare transaction 'dec_lost';
insert into t values (13, 'beside');
select read_slot(:'slot');
select words('prepared', 'beside', 'never-committed', 'lost-in-it');
select read_slot(:'phase');
commit prepared 'dec_kept';
rollback prepared 'dec_lost';
select read_slot(:'slot');
select words('prepared', 'beside', 'never-committed', 'lost-in-it');
select frame_number(m.body, 1, 8) % 4294967296 = xid as same_xid, commit_time > now() - interval '1 minute' as recent
from frames, frame_messages(data) as m;
select read_slot(:'phase');
select words('prepared', 'beside', 'never-committed', 'lost-in-it');

\echo == what came from another server is sent: every origin is ours
select count(*) from pg_replication_origin_create('elsewhere_' || :'database');
select count(*) from (select pg_replication_origin_session_setup('elsewhere_' || :'database')) as s;
begin;
select count(*) from (select pg_replication_origin_xact_setup('0/1234', '2020-02-02 02:02:02+00')) as s;
insert into t values (20, 'from-elsewhere');
commit;
select count(*) from (select pg_replication_origin_session_reset()) as s;
select count(*) from (select pg_replication_origin_drop('elsewhere_' || :'database')) as s;
select read_slot(:'slot');
select words('from-elsewhere');

\echo == several slots give the same bytes, each at its own pace
select count(*) from pg_create_logical_replication_slot(:'other', 'pg_sync');
insert into t values (30, 'first');
select read_slot(:'slot');
create temporary table kept as select data from frames;
insert into t values (31, 'second');
select read_slot(:'slot');
insert into kept select data from frames;
select read_slot(:'other');
select (select array_agg(data order by place) from frames) = (select array_agg(data) from kept) as same;
insert into t values (32, 'third'), (33, 'third');
insert into t values (34, 'fourth');
select count(*) from pg_logical_slot_peek_binary_changes(:'slot', null, null);
select count(*) from pg_logical_slot_get_binary_changes(:'slot', null, 1);
select read_slot(:'slot');
select read_slot(:'other');

\echo == transactions without our messages give nothing, and the slot moves over them
create table untracked (id integer);
insert into untracked select generate_series(1, 1000);
insert into untracked values (1);
select count(*) from (select pg_logical_emit_message(true, 'other', 'x')) as e;
select count(*) from (select pg_logical_emit_message(false, 'cloudsync', 'x')) as e;
update t set a = a;
select pg_current_wal_lsn() as behind \gset
select read_slot(:'slot');
select confirmed_flush_lsn >= :'behind'::pg_lsn as moved from pg_replication_slots where slot_name = :'slot';

\echo == a message beyond 1 MiB is a frame of its own
begin;
insert into t values (40, 'small-before');
insert into t values (41, repeat('large', 600000));
insert into t values (42, 'small-after');
commit;
insert into t values (43, repeat('alone', 300000));
select read_slot(:'slot');
select is_last, messages, bytes > 1048576 as is_large from frames order by place;

\echo == what cannot be read is passed without its bytes, with one warning a transaction
begin;
insert into t values (50, 'beside-broken');
select count(*) from (select pg_logical_emit_message(true, 'cloudsync', '')) as e;
select count(*) from (select pg_logical_emit_message(true, 'cloudsync', '\x01'::bytea)) as e;
select count(*) from (select pg_logical_emit_message(true, 'cloudsync', '\x07'::bytea || sha256('x') || sha256('y'))) as e;
insert into t values (51, 'beside-broken');
commit;
select read_slot(:'slot');
select length(m.body) > 0 as has_bytes from frames, frame_messages(data) with ordinality as m order by place, m.ordinality;

\echo == options, and functions that want text
select count(*) from pg_logical_slot_get_binary_changes(:'slot', null, null, 'format', '1');
select count(*) from pg_logical_slot_get_binary_changes(:'slot', null, null, 'format', '2');
select count(*) from pg_logical_slot_get_binary_changes(:'slot', null, null, 'format', '');
select count(*) from pg_logical_slot_get_binary_changes(:'slot', null, null, 'format', '1', 'format', '1');
select count(*) from pg_logical_slot_get_binary_changes(:'slot', null, null, 'Format', '1');
select count(*) from pg_logical_slot_get_binary_changes(:'slot', null, null, 'format', '1', 'streaming', 'on');
select count(*) from pg_logical_slot_get_changes(:'slot', null, null);
select count(*) from pg_logical_slot_peek_changes(:'slot', null, null);
insert into t values (60, 'still works');
select read_slot(:'slot');
select count(*) from (select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = :'database') as d;
