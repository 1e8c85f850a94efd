-- A disabled table is captured whatever its names are.
\ir include/metadata.psql
create schema "cloudsync.emit(";
create table "cloudsync.emit("."cloudsync.emit(" (id integer primary key, "cloudsync.emit(" text, "{emit}" text);
select cloudsync_init('"cloudsync.emit("."cloudsync.emit("') is not null;
select cloudsync_disable('"cloudsync.emit("."cloudsync.emit("');
set search_path = "cloudsync.emit(", public;
insert into "cloudsync.emit(" values (1, 'one', 'two'), (2, 'one', 'two');
begin;
update "cloudsync.emit(" set "cloudsync.emit(" = 'three' where id = 1;
update "cloudsync.emit(" set "{emit}" = 'four' where id = 1;
delete from "cloudsync.emit(" where id = 2;
commit;
select metadata('cloudsync.emit(');
truncate "cloudsync.emit(";
select metadata('cloudsync.emit(');
drop extension pg_sync cascade;
