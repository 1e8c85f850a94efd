//! Gaps: times in which a table was written to without capture. What can be seen at once is logged; which
//! values changed shows only beside the server's rows.

use rusqlite::{Connection, params};
use shared_format::Value;

use crate::error::{Doing, Result};
use crate::log::{self, DELETED, INSERTED};
use crate::sql::{NOW_MS, wall_ms};
use crate::tracked_table::TrackedTable;

/// Reports a gap; the first reason stays.
pub(crate) fn open(connection: &Connection, table: u32, reason: &str) -> Result<()> {
    let sql = "insert into main.cloudsync_gaps (tbl, reason, at_ms) values (?1, ?2, ?3)
        on conflict (tbl) do nothing";
    connection.execute(sql, params![table, reason, wall_ms(connection)?]).doing("report a gap")?;
    Ok(())
}

/// Numbers of the tables that have a gap.
pub(crate) fn tables(connection: &Connection) -> Result<Vec<u32>> {
    connection
        .prepare_cached("select tbl from main.cloudsync_gaps")?
        .query_map([], |row| row.get(0))
        .and_then(Iterator::collect)
        .doing("read the gaps")
}

/// Logs rows that came in a gap.
pub(crate) fn log_created(connection: &Connection, table: &TrackedTable, keys: &[Vec<Value>]) -> Result<()> {
    let inserted = INSERTED.to_string();
    keys.iter().try_for_each(|key| log::append_row(connection, table.log_name(), table, &inserted, key))
}

/// Of a table that was made anew, forgets the rows that it does not have: nobody deleted them, so they are
/// fetched again. A deletion that was captured before stays one.
pub(crate) fn forget_missing(connection: &Connection, table: &TrackedTable) -> Result<()> {
    let id = table.id;
    let deleted = format!(
        "select 1 from main.cloudsync_log as l where l.tbl = {id} and l.cols = {DELETED} and {}",
        table.metadata_equals_log("m", "l"),
    );
    let missing = missing(table);
    let log_key = table.log_key("");
    let sql = format!(
        "insert into main.{log} (tbl, cols, ms, {log_key})
         select {id}, {DELETED}, {NOW_MS}, {log_key} from {metadata} as m where {missing} and exists ({deleted});
         delete from {metadata} as m where {missing} and not exists ({deleted})",
        metadata = table.metadata(),
        log = table.log_name(),
    );
    connection.execute_batch(&sql).doing("forget rows of a table that was made anew")
}

/// Logs rows that came unnoticed, and if wanted those that went.
pub(crate) fn log_existence(connection: &Connection, table: &TrackedTable, went: bool) -> Result<()> {
    let log_key = table.log_key("");
    let key = table.key_columns("t.");
    let known = table.metadata_equals_key("m", "t");
    // Of a table that was filled at the start, rows without metadata may have been there before.
    let is_new = if table.baseline.is_some() { "m.alive = 0" } else { "m.alive is not 1" };
    let whole = table.key_is_whole("t.");
    let sql = format!(
        "insert into main.{log} (tbl, cols, ms, {log_key})
         select {id}, {INSERTED}, {NOW_MS}, {key} from {rows} as t left join {metadata} as m on {known}
         where {is_new} and {whole}",
        id = table.id,
        rows = table.quoted(),
        metadata = table.metadata(),
        log = table.log_name(),
    );
    connection.execute_batch(&sql).doing("log rows that came without capture")?;
    if !went {
        return Ok(());
    }
    let sql = format!(
        "insert into main.{log} (tbl, cols, ms, {log_key})
         select {id}, {DELETED}, {NOW_MS}, {log_key} from {metadata} as m where {missing}",
        id = table.id,
        metadata = table.metadata(),
        log = table.log_name(),
        missing = missing(table),
    );
    connection.execute_batch(&sql).doing("log rows that went without capture")
}

/// Says that a live row `m` of the metadata is not in the table.
fn missing(table: &TrackedTable) -> String {
    let held = table.key_equals_log("t", "m");
    format!("m.alive = 1 and not exists (select 1 from {} as t where {held})", table.quoted())
}
