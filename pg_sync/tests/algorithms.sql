-- What an author merges by another algorithm than this database is held back by row; other tables go on.
\ir include/metadata.psql
\ir include/author.psql
create table author.t (id integer primary key, a text, b integer);
create table t (id integer primary key, a text, b integer);
create table u (id integer primary key, a text);
select cloudsync_init('author.t');
insert into author.t values (1, 'first', 1), (2, 'second', 2);
select author.stamp(1, 1000, 'aa'), author.stamp(2, 1000, 'aa');
-- As a client with another algorithm sends it: the definition says so, and a register is bytes.
create function author.payload_as(table_code integer, column_code integer) returns bytea language plpgsql as $$
begin
  update cloudsync.tables set algorithm = table_code;
  update cloudsync.columns set algorithm = column_code where name = 'b';
  perform cloudsync.make_registers(t.table_id) from cloudsync.tables as t;
  return author.payload();
end
$$;
select author.payload_as(0, 0) as plain \gset
select author.payload_as(1, 0) as gos \gset
select author.payload_as(2, 0) as dws \gset
select author.payload_as(3, 0) as aws \gset
select author.payload_as(0, 1) as counter \gset
select author.payload_as(0, 2) as max \gset
select author.payload_as(0, 3) as min \gset
select author.payload_as(0, 4) as block \gset
select author.payload_as(0, 5) as grouped \gset
alter table author.t rename to u;
update cloudsync.tables set algorithm = 1;
insert into author.u select i, 'many' from generate_series(3, 1100) as i;
select p.payload as many from cloudsync.snapshot_part(1, false, null, 2000) as p \gset
select cloudsync_cleanup('author.u');
alter table author.u drop column b;
select cloudsync_init('author.u');
select author.payload() as other \gset
select cloudsync_cleanup('author.u');
select cloudsync_init('t');
select cloudsync_init('u');

\echo == applied by a person
select cloudsync_payload_apply(:'gos'), cloudsync_payload_apply(:'counter');
select count(*) from t;
truncate cloudsync.rejected;
\echo == uploads: every row is refused and kept, with what was found and what is wanted
create function upload(payload bytea, number bigint) returns setof text language sql as $$
  select concat_ws(' | ', u.answer ->> 'status', u.answer ->> 'acked', r.value ->> 'table', r.value ->> 'key',
    r.value ->> 'sqlstate', r.value ->> 'message')
  from (
    select cloudsync.apply_upload(payload, decode(repeat('aa', 16), 'hex'),
      decode(lpad(to_hex(number), 32, '0'), 'hex'), number, number,
      (select s.token from cloudsync.sites as s), null, null) as answer
  ) as u left join lateral jsonb_array_elements(u.answer -> 'rejected') as r on true
$$;
select upload(:'gos', 1);
select upload(:'dws', 2);
select upload(:'aws', 3);
select upload(:'counter', 4);
select upload(:'max', 5);
select upload(:'min', 6);
select upload(:'block', 7);
select upload(:'grouped', 8);
select count(*) from t;
select metadata('t');
\echo == another table goes on
truncate cloudsync.rejected;
select upload(:'other', 9);
select count(*), min(a) from u;
\echo == the plain definition of the same table goes on, unless the table here has another one
select upload(:'plain', 10);
select * from t order by id;
update cloudsync.columns set algorithm = 1 where name = 'b';
select cloudsync.make_registers(t.table_id) from cloudsync.tables as t;
select upload(:'plain', 11);
\echo == both agree: the rows are merged
truncate cloudsync.rejected;
select upload(:'counter', 12);
update cloudsync.columns set algorithm = 0;
\echo == of very many refused rows, those beyond the first thousand are told that they were too many
truncate cloudsync.rejected;
select count(*) from upload(:'many', 13);
select sqlstate, message, count(*) from cloudsync.rejected group by 1, 2 order by 1;
