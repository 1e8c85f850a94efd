-- Apply among the user's own triggers, constraints, types and cascades.
\ir include/metadata.psql
\ir include/author.psql
create table author.n (id integer primary key, x text, amount text, j text);
create table n (id integer primary key, x text, amount numeric(10, 2), j jsonb, updated timestamptz, c char(3));
create table log (id integer primary key, x text);
create function before_n() returns trigger language plpgsql as $$
begin
  new.updated := '2020-01-01Z';
  if new.x = 'refused' then
    raise exception 'not this one' using errcode = 'AB123';
  elsif new.x = 'skipped' then
    return null;
  elsif new.x = 'other key' then
    new.id := 1000;
  end if;
  return new;
end
$$;
create trigger before_n before insert or update on n for each row execute function before_n();
create function after_n() returns trigger language plpgsql as $$
begin
  if not cloudsync_is_sync('n') then
    raise notice 'a local write';
  end if;
  if new.x = 'nested' then
    update n set x = 'changed once more' where id = new.id;
  elsif new.x = 'removed' then
    delete from n where id = new.id;
  elsif new.x = 'undone' then
    begin
      update n set x = 'never seen' where id = new.id;
      raise exception 'undo';
    exception when others then null;
    end;
  elsif new.x = 'logged' then
    insert into log values (new.id, new.x);
  end if;
  return null;
end
$$;
create trigger after_n after insert or update on n for each row execute function after_n();
select cloudsync_init('author.n');
insert into author.n values
  (1, 'plain', '1.5', '{"b":1,"a":2}'), (2, 'refused', '1.00', null), (3, 'skipped', '1.00', null), (4, 'nested', '1.00', '{"a": 1}'),
  (5, 'removed', '1.00', null), (6, 'undone', '1.00', null), (7, 'logged', '1.00', null), (8, 'other key', '1.00', null),
  (9, 'bad number', 'one', null), (10, 'too large', '123456789012', null);
select author.stamp(id, 1000, 'aa') from author.n;
select author.payload() as created \gset
delete from author.n;
select author.stamp(key_1, 2000, 'aa') from cloudsync.meta_1;
select author.payload(true) as deleted \gset
select cloudsync_cleanup('author.n');
select cloudsync_init('n'), cloudsync_init('log');
select cloudsync_payload_apply(:'created');
select * from n order by id;
select metadata('n');
select metadata('log');
select key, sqlstate, message from cloudsync.rejected order by key;
\echo == what stays refused changes nothing when it comes again
select cloudsync_payload_apply(:'created');
select metadata('n');
\echo == an applied deletion sets off a cascade: the children are local deletions
alter table log add foreign key (id) references n on delete cascade;
select cloudsync_payload_apply(:'deleted');
select count(*) from n;
select metadata('log');
\echo == deferred constraints and references within one payload
create table author.node (id integer primary key, parent integer);
create table node (id integer primary key, parent integer references node deferrable initially deferred);
select cloudsync_init('author.node');
insert into author.node values (1, 2), (2, 1);
select author.stamp(id, 1000, 'aa') from author.node;
select author.payload() as nodes \gset
delete from author.node;
insert into author.node values (3, 99), (4, 1), (5, 3);
select author.stamp(id, 1000, 'aa') from author.node;
select author.payload() as orphans \gset
select cloudsync_cleanup('author.node');
select cloudsync_init('node');
begin;
select cloudsync_payload_apply(:'nodes');
select cloudsync_payload_apply(:'orphans');
commit;
select * from node order by id;
select key, sqlstate from cloudsync.rejected where table_name = 'node' order by key;
\echo == a value that is taken: both rows of one payload
create table author.u (id integer primary key, v text);
create table u (id integer primary key, v text unique);
select cloudsync_init('author.u');
insert into author.u values (1, 'same'), (2, 'same'), (3, 'free');
select author.stamp(id, 1000, 'aa') from author.u;
select author.payload() as same \gset
select cloudsync_cleanup('author.u');
select cloudsync_init('u');
select cloudsync_payload_apply(:'same');
select * from u order by id;
select key, sqlstate from cloudsync.rejected where table_name = 'u';
\echo == an error that may pass fails the whole apply
create function wait_n() returns trigger language plpgsql as $$ begin raise exception 'later' using errcode = 'lock_not_available'; end $$;
create trigger wait_n before insert on u for each row execute function wait_n();
delete from u;
delete from cloudsync.meta_7;
select cloudsync_payload_apply(:'same');
select count(*) from u;
\echo == apply within apply
create function inner_apply() returns trigger language plpgsql as $$ begin perform cloudsync_payload_apply('\x00'); return new; end $$;
drop trigger wait_n on u;
create trigger inner_apply before insert on u for each row execute function inner_apply();
select cloudsync_payload_apply(:'same');
select count(*) from u;
