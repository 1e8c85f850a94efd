-- What the output plugin gives: one frame per transaction with messages, and nothing else.
\ir include/metadata.psql
\ir include/frames.psql
create table t (id integer primary key, a text);
select cloudsync_init('t');
select 'slot_' || :'database' as slot \gset
select count(*) from pg_create_logical_replication_slot(:'slot', 'pg_sync');

create view frames as
select h.*, length(d.data) as bytes, d.data
from pg_logical_slot_get_binary_changes('slot_' || current_database(), null, null) as d, frame_head(d.data) as h;

insert into t values (1, 'x');
begin;
insert into t values (2, 'x');
savepoint s;
update t set a = 'lost';
rollback to s;
savepoint s;
update t set a = 'kept' where id = 1;
release s;
commit;
begin;
insert into t values (3, 'x');
rollback;
create table untracked (id integer);
insert into untracked values (1);
update t set a = a;
select format, is_last, messages, xid <> 0, end_lsn > 0,
  commit_time between now() - interval '1 minute' and now() + interval '1 minute' as recent
from frames;
\echo == a long statement is cut into messages and frames
insert into t select n, repeat(md5(n::text), 8) from generate_series(10, 20000) as n;
select is_last, messages > 1, bytes <= 1048576, count(*) > 0 from frames group by 1, 2, 3 order by 1;
\echo == the signature
update t set a = 'signed' where id = 2;
create temporary table message as
select m.body, xid from frames, frame_messages(data) as m;
select get_byte(body, 0) as format,
  ('x' || encode(substr(body, 2, 8), 'hex'))::bit(64)::bigint % 4294967296 = xid as same_xid,
  length(substr(body, 10, 32)) as mac_bytes,
  substr(body, 10, 32) = sha256(
    decode(string_agg(lpad(to_hex(get_byte(key, i) # 92), 2, '0'), '' order by i), 'hex')
    || sha256(decode(string_agg(lpad(to_hex(get_byte(key, i) # 54), 2, '0'), '' order by i), 'hex')
      || 'cloudsync'::bytea || substr(body, 1, 1) || substr(body, 2, 8) || substr(body, 42))) as signed
from message, generate_series(0, 63) as i,
  lateral (select cloudsync.message_key() || decode(repeat('00', 32), 'hex') as key) as k
group by body, xid;
\echo == what is not ours, or broken, is skipped
select count(*) from (select pg_logical_emit_message(true, 'other', 'x')) as e;
select count(*) from (select pg_logical_emit_message(false, 'cloudsync', 'x')) as e;
select count(*) from (select pg_logical_emit_message(true, 'cloudsync', 'broken')) as e;
select is_last, messages, length(body) as body_bytes from frames, frame_messages(data);
select count(*) from frames;
\echo == text does not depend on the settings of the writer
create table moments (id integer primary key, days date[], moments timestamptz[], took interval);
select cloudsync_init('moments');
set datestyle = 'German';
set timezone = 'Asia/Tokyo';
set intervalstyle = 'sql_standard';
insert into moments values (1, '{2026-02-03}', '{2026-02-03 04:05:06+09}', '-1 day');
select payload as german from cloudsync.snapshot_part(2, false, null, 10) \gset
reset datestyle;
reset timezone;
reset intervalstyle;
select payload = :'german' as same from cloudsync.snapshot_part(2, false, null, 10);
select position('{2026-02-03}' in data) > 0 as days, position('{"2026-02-02 19:05:06+00"}' in data) > 0 as moments,
  position('-1 days' in data) > 0 as took
from frames;
drop table moments;
select count(*) as told_that_it_is_gone from frames;
\echo == a truncated table, and one too long to be told row by row
truncate t;
select messages > 1 as row_by_row from frames;
insert into t select n from generate_series(1, 100001) as n;
select count(*) > 0 from frames;
truncate t;
select messages, bytes < 500 as is_short from frames;
select count(*) from cloudsync.meta_1 where alive;
select pg_drop_replication_slot(:'slot');
