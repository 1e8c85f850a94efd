//! Sends again what the server took and lost: a server that stands in for one that is gone may know less of this
//! site than the site was told.
//!
//! Rows keep their stamps, so what others wrote since is not undone. Their entries were deleted when they were
//! acknowledged; new ones name them, and count as folded at once.

use rusqlite::Connection;
use shared_format::{RowState, Value};

use crate::catalog::{self, Replica};
use crate::error::{Doing, Result};
use crate::fold::fold;
use crate::log::{self, ColumnSet, DELETED, DbVersion, INSERTED};
use crate::metadata::{self, STATE_COLUMNS};
use crate::outbox;
use crate::settings::{self, Setting};
use crate::sql::columns;
use crate::tracked_table::TrackedTable;

/// Makes everything unsent that this site wrote in rows which changed here after the server's number. Does nothing
/// when the server has all that it acknowledged. Runs in the caller's transaction.
pub(crate) fn resend_after(replica: &mut Replica<'_>, acked: DbVersion) -> Result<()> {
    let connection = replica.connection;
    if acked >= log::acknowledged(connection)? {
        return Ok(());
    }
    fold(replica)?;
    outbox::discard(connection)?;
    let tables: Vec<_> = replica.tables.iter().filter(|table| table.enabled).cloned().collect();
    for table in tables {
        for (key, written) in own_rows(replica, &table, acked)? {
            let log = table.log_name();
            if written.is_created {
                log::append_row(connection, log, &table, &INSERTED.to_string(), &key)?;
            } else if written.columns.is_empty() {
                log::append_row(connection, log, &table, &DELETED.to_string(), &key)?;
            }
            // Beside a creation too: one that stands alone is looked for by the number of its row.
            log::append_row(connection, log, &table, &written.columns.to_log_sql(), &key)?;
        }
        catalog::send_baseline_after(connection, &table, acked)?;
    }
    mark(connection, acked)
}

/// What this site wrote of a row.
struct Written {
    is_created: bool,
    columns: ColumnSet,
}

fn own_rows(
    replica: &Replica<'_>,
    table: &TrackedTable,
    acked: DbVersion,
) -> Result<Vec<(Vec<Value>, Written)>> {
    let sql = format!(
        "select {}, {} from {} where seq > ?1 order by seq",
        metadata::state_columns(""),
        table.log_key(""),
        table.metadata(),
    );
    let mut statement = replica.connection.prepare(&sql).doing("look for what to send again")?;
    let mut rows = statement.query([acked.get()])?;
    let mut own = Vec::new();
    while let Some(row) = rows.next().doing("look for what to send again")? {
        let Some(state) = metadata::state(&replica.sites, table, row, 0)? else { continue };
        if let Some(written) = written(replica, table, &state) {
            own.push((columns(row, STATE_COLUMNS, table.key.len())?, written));
        }
    }
    Ok(own)
}

/// What this site wrote of a row; None when that is nothing.
fn written(replica: &Replica<'_>, table: &TrackedTable, state: &RowState) -> Option<Written> {
    let own = replica.own();
    let is_own = state.life.is_some_and(|life| life.stamp.site == own);
    // The greatest stamp of a register says nothing of its other entries.
    let cells =
        state.cells.iter().filter(|cell| cell.stamp.site == own || table.rules.of(cell.column).is_register());
    let columns: ColumnSet = cells.map(|cell| cell.column).collect();
    let is_created = is_own && state.is_alive();
    (is_own || !columns.is_empty()).then_some(Written { is_created, columns })
}

/// Goes back to the server's number; all that was appended is in the metadata already.
fn mark(connection: &Connection, acked: DbVersion) -> Result<()> {
    let newest = log::newest(connection)?;
    settings::store(connection, Setting::Folded, &Value::Integer(newest.get()))?;
    settings::store(connection, Setting::Acknowledged, &Value::Integer(acked.get()))
}
