//! Ranges of the log that hold nothing but creations, read in the order of the metadata: most of what an app
//! writes travels without the log being sorted and without a copy of its rows.
//!
//! It adds what reading the log adds, in the same order, or says that the log has to be read.

use rusqlite::params;
use shared_format::Value;

use super::fits;
use crate::catalog::Replica;
use crate::emit::TableRows;
use crate::error::{Doing, Result};
use crate::fold::in_range;
use crate::log::{BASELINE, DbVersion, INSERTED};
use crate::metadata::{self, STATE_COLUMNS};
use crate::sql::{Bind, borrowed, column};
use crate::tracked_table::TrackedTable;

/// Rows of metadata between the least and the greatest key that are read for one entry at most; where there are
/// more, sorting the entries is cheaper.
const ROWS_PER_ENTRY: i64 = 4;

/// The entries of a table in a range, all of them creations.
struct Entries {
    count: i64,
    /// First part of the least and of the greatest key.
    least: Value,
    greatest: Value,
}

/// Rows of a range whose entries are each the newest creation of a live row of this site, and how many were
/// looked at; None where an entry is anything else. Rows that take up `bytes_max` are too many for an upload: then
/// neither the others nor their entries are looked at.
pub(super) fn rows<'t>(
    replica: &Replica<'_>,
    table: &'t TrackedTable,
    (first, last): (DbVersion, DbVersion),
    bytes_max: usize,
) -> Result<Option<(TableRows<'t>, i64)>> {
    if !table.rules.are_plain() || table.filter.is_some() {
        return Ok(None);
    }
    let Some(entries) = entries(replica, table, (first, last))? else { return Ok(None) };
    let mut out = TableRows::new(table);
    let mut found = 0;
    let key_len = table.key.len();
    let mut statement = replica.connection.prepare_cached(&rows_sql(table)).doing("read created rows")?;
    let (least, greatest) = (Bind(entries.least.as_ref()), Bind(entries.greatest.as_ref()));
    let own = replica.sites.own_ordinal();
    let mut rows =
        statement.query(params![first.get(), last.get(), table.id, INSERTED, least, greatest, own])?;
    while let Some(row) = rows.next().doing("read created rows")? {
        if out.byte_len() >= bytes_max {
            return Ok(Some((out, found)));
        }
        found += 1;
        let Some(state) = metadata::state(&replica.sites, table, row, 0)? else { continue };
        if !row.get::<_, bool>(STATE_COLUMNS)? {
            continue;
        }
        let key = borrowed(row, STATE_COLUMNS + 1, key_len)?;
        let values = borrowed(row, STATE_COLUMNS + 1 + key_len, table.columns.len())?;
        if fits(replica, table, &key, &values, DbVersion::new(row.get(STATE_COLUMNS - 1)?))? {
            out.whole(&state, &key, &values);
        }
    }
    Ok((found == entries.count).then_some((out, found)))
}

/// The entries of a range; None when they are not all creations, or too few for the metadata between them.
fn entries(
    replica: &Replica<'_>,
    table: &TrackedTable,
    (first, last): (DbVersion, DbVersion),
) -> Result<Option<Entries>> {
    let connection = replica.connection;
    let sql = format!(
        "select count(*), count(*) filter (where cols = ?5), min(pk), max(pk)
         from main.cloudsync_log
         where {}",
        in_range(table)
    );
    let mut statement = connection.prepare_cached(&sql).doing("look for created rows")?;
    let mut rows = statement.query(params![first.get(), last.get(), table.id, BASELINE, INSERTED])?;
    let Some(row) = rows.next().doing("look for created rows")? else { return Ok(None) };
    let (count, created): (i64, i64) = (row.get(0)?, row.get(1)?);
    let (least, greatest) = (column(row, 2)?.to_owned_value(), column(row, 3)?.to_owned_value());
    if created < count {
        return Ok(None);
    }
    let most = count.saturating_mul(ROWS_PER_ENTRY);
    let sql = format!(
        "select count(*) from (select 1 from {} where pk between ?1 and ?2 limit ?3)",
        table.metadata()
    );
    let between = params![Bind(least.as_ref()), Bind(greatest.as_ref()), most.saturating_add(1)];
    let rows: i64 = connection.prepare_cached(&sql)?.query_row(between, |row| row.get(0))?;
    Ok((rows <= most).then_some(Entries { count, least, greatest }))
}

/// Goes through the metadata by key; a row counts when its newest entry is its creation in the range.
fn rows_sql(table: &TrackedTable) -> String {
    format!(
        "select {state}, t.{first_key} is not null, {key}{values}
         from {metadata} as m
         cross join main.cloudsync_log as l on l.seq = m.seq and {metadata_joined}
         left join {table} as t on {row_joined}
         where m.pk between ?5 and ?6 and m.seq between ?1 and ?2 and m.alive and m.site = ?7
           and l.tbl = ?3 and l.cols = ?4
         order by {metadata_key}",
        state = metadata::state_columns("m."),
        first_key = table.key[0].quoted(),
        key = table.log_key("l."),
        values = table.and_other_columns("t."),
        metadata = table.metadata(),
        metadata_joined = table.metadata_equals_log("m", "l"),
        table = table.quoted(),
        row_joined = table.key_equals_log("t", "l"),
        metadata_key = table.log_key("m."),
    )
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;
    use crate::catalog;
    use crate::changes::logged_rows;
    use crate::checks::Skipped;
    use crate::fold::fold;
    use crate::sql::Unit;

    /// Compares both ways of reading a range; says whether the short one took it.
    fn check(connection: &Connection, first: i64, last: i64) -> bool {
        let _undone = Unit::begin(connection).unwrap();
        let mut replica = Replica::open(connection).unwrap();
        fold(&mut replica).unwrap();
        let table = replica.tables[0].clone();
        let range = (DbVersion::new(first), DbVersion::new(last));
        let Some((rows, found)) = rows(&replica, &table, range, usize::MAX).unwrap() else { return false };
        let (logged, found_in_log) = logged_rows(&mut replica, &table, range, usize::MAX).unwrap();
        assert_eq!((rows.rows(), found), (logged.rows(), found_in_log), "{first} to {last}");
        assert_eq!(rows.into_payload(), logged.into_payload(), "{first} to {last}");
        true
    }

    fn step(connection: &Connection, random: u64, at: u64) {
        let known = random >> 8 & 63;
        let sql = match random & 31 {
            0 => format!("update t set a = {random} where id = {known}"),
            1 => format!("delete from t where id = {known}"),
            2 => format!("replace into t values ({known}, {random}, 'y')"),
            3 => format!("insert into other values ({at})"),
            4..8 => format!("insert or ignore into t values ({known}, {random}, 'x')"),
            _new => format!("insert into t values ({}, {random}, 'x')", 1_000 + at),
        };
        connection.execute_batch(&sql).unwrap();
    }

    #[test]
    fn creations_read_from_the_metadata_are_those_of_the_log() {
        let (mut taken, mut left) = (0, 0);
        for seed in 1..9_u64 {
            let connection = Connection::open_in_memory().unwrap();
            let ddl = "create table t (id text not null primary key, a, b);
                create table other (id text not null primary key)";
            connection.execute_batch(ddl).unwrap();
            catalog::init(&connection, "t", None, Skipped::default()).unwrap();
            catalog::init(&connection, "other", None, Skipped::default()).unwrap();
            let mut random = seed;
            for at in 0..120 {
                random =
                    random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                step(&connection, random >> 20, at);
            }
            for first in (1..120).step_by(7) {
                for length in [0, 1, 5, 40] {
                    let count =
                        if check(&connection, first, first + length) { &mut taken } else { &mut left };
                    *count += 1;
                }
            }
        }
        assert!(taken > 100 && left > 100, "{taken} ranges short, {left} by the log");
    }
}
