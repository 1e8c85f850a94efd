-- One page of a snapshot of one table, in the order of its key: live rows, or tombstones.
select p.payload, p.next, p.row_count
from cloudsync.snapshot_part($1, $2, $3, $4) as p
