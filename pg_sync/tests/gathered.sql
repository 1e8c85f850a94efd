-- Lines of columns that hold registers: what is gathered from them is the register, not what a user sees of it.
\ir include/metadata.psql
create table c (id text primary key, n bigint, t text);
select cloudsync_init('c');
select cloudsync_set_column('c', 'n', 'algo', 'counter');
insert into c values ('r', 10, 'text'), ('s', 1, 'text');
update c set n = n + 5 where id = 'r';
select col_name, col_value from cloudsync_changes order by pk, seq;
select cloudsync_payload_encode() as whole \gset
select cloudsync_payload_encode(tbl, pk, col_name, col_value, col_version, db_version, site_id, cl, seq) as gathered from cloudsync_changes \gset
select cloudsync_payload_apply(:'gathered'), cloudsync_payload_apply(:'whole');
select cloudsync_cleanup('c');
truncate c;
select cloudsync_init('c');
select cloudsync_set_column('c', 'n', 'algo', 'counter');
select cloudsync_payload_apply(:'gathered');
select * from c order by id;
update c set n = n + 1;
select cloudsync_payload_apply(:'whole'), cloudsync_payload_apply(:'gathered');
select * from c order by id;
