//! What becomes of unsent edits when the server forgot deletions that this file never received, or was set back.
//!
//! A row that the server had, and that a snapshot taken then does not hold, was deleted, or undone. What was written
//! to it here and not sent has no row any more: the row goes, its values are kept as conflicts, and the edits count as
//! refused. Rows that were created here and that the server never had stay and are sent.

use std::collections::{HashMap, HashSet};

use shared_format::{ColumnId, Hlc, RowState, Stamp, Value, ValueRef, decode_key, encode_key};

use super::rebase::{evict_row, hash};
use crate::catalog::Replica;
use crate::changes::{own_columns, read_row};
use crate::conflicts::{Conflict, Reason, record};
use crate::error::{Reading, Result};
use crate::fold::{Wanted, fold, for_each_logged_row};
use crate::log::{self, Captured, DbVersion};
use crate::metadata;
use crate::rejected::{self, Rejection, printed_key};
use crate::sql::refs;
use crate::table_settings;
use crate::tracked_table::TrackedTable;

/// SQLSTATE class "no data": what was edited is no longer there.
const SQLSTATE: &str = "02000";

/// Why the server no longer has a row that it had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// It was deleted, and the deletion forgotten.
    Collected,
    /// The server was set back to before it.
    Restored,
}

impl Loss {
    /// What is said of such a row.
    const fn message(self) -> &'static str {
        match self {
            Loss::Collected => {
                "the row was deleted elsewhere, longer ago than the server remembers; the values are in cloudsync_conflicts"
            }
            Loss::Restored => {
                "the server was set back to a state without the row; the values are in cloudsync_conflicts"
            }
        }
    }

    const fn reason(self) -> Reason {
        match self {
            Loss::Collected => Reason::Collected,
            Loss::Restored => Reason::Restored,
        }
    }
}

/// Rows that are gone, by table and row key.
pub(super) type Edits = HashMap<(u32, Vec<u8>), Edited>;

/// A row that is gone, with what this file says of it alone.
pub(super) struct Edited {
    pub(super) key: Vec<Value>,
    state: RowState,
    columns: Vec<ColumnId>,
    entries: Vec<DbVersion>,
    loss: Loss,
}

/// Live rows that the server had, that it has no longer, and that were written here or refused since.
pub(super) fn edited(
    replica: &mut Replica<'_>,
    table: &TrackedTable,
    held: &HashSet<u64>,
    loss: Loss,
) -> Result<Edits> {
    fold(replica)?;
    let connection = replica.connection;
    let own = replica.own();
    let refused = rejected::keys(connection, table)?;
    let first = DbVersion::new(log::acknowledged(connection)?.get() + 1);
    let last = log::newest(connection)?;
    let has_baseline = table.baseline.is_some_and(|baseline| baseline >= first.get());
    let mut rows: HashMap<Vec<u8>, Edited> = HashMap::new();
    let mut created: HashSet<Vec<u8>> = HashSet::new();
    for_each_logged_row(replica, table, (first, last), Wanted::State, &mut |replica, row| {
        let pk = encode_key(refs(&row.key));
        let Some(state) = row.state.clone().filter(RowState::is_alive) else { return Ok(()) };
        let is_born = row.entries.iter().any(|entry| entry.captured == Captured::Inserted);
        let is_baseline = has_baseline && state.life_stamp().hlc == Hlc::ZERO;
        if state.life_stamp().site == own && (is_born || is_baseline) {
            created.insert(pk);
            return Ok(());
        }
        let own_columns = own_columns(replica, table, row);
        let columns = table.column_ids().into_iter().filter(|id| own_columns.contains(*id)).collect();
        let entries = row.entries.iter().map(|entry| entry.seq).collect();
        rows.insert(pk, Edited { key: row.key.clone(), state, columns, entries, loss });
        Ok(())
    })?;
    for pk in &refused {
        let key = decode_key(pk).reading("rejected row key")?;
        let state = metadata::read(connection, &replica.sites, table, &key)?.filter(RowState::is_alive);
        let Some(state) = state.filter(|_| !created.contains(pk)) else { continue };
        let mut columns = table.column_ids();
        columns.retain(|id| state.stamp_of(*id).site == own);
        let row = rows.entry(pk.clone());
        row.or_insert(Edited { key, state, columns: Vec::new(), entries: Vec::new(), loss }).columns =
            columns;
    }
    let mut gone = Edits::new();
    for (pk, row) in rows {
        // Of a refused creation the server never had the row.
        let was_had = row.state.life_stamp().site != own || !refused.contains(&pk);
        if was_had
            && !held.contains(&hash(table.id, &pk))
            && table_settings::is_shared(connection, table, &row.key)?
        {
            gone.insert((table.id, pk), row);
        }
    }
    Ok(gone)
}

/// Takes one row away and keeps what was written to it; false when a foreign key holds it.
pub(super) fn bury(replica: &Replica<'_>, table: &TrackedTable, row: &Edited) -> Result<bool> {
    let connection = replica.connection;
    let values = read_row(connection, table, &row.key)?.unwrap_or_default();
    if !evict_row(connection, table, &row.key)? {
        return Ok(false);
    }
    let lost = table.columns.iter().zip(&values).filter(|(column, _)| row.columns.contains(&column.id));
    let conflicts: Vec<Conflict<'_>> = lost
        .map(|(column, value)| Conflict {
            column: &column.name,
            lost: (value.as_ref(), row.state.stamp_of(column.id)),
            won: (ValueRef::Null, Stamp::ZERO),
            reason: row.loss.reason(),
        })
        .collect();
    record(connection, table, &row.key, &conflicts, replica.corrected_ms()?)?;
    let number = |seq: Option<&DbVersion>| seq.copied().unwrap_or_default();
    let rejection = Rejection {
        id: None,
        table: table.name.clone(),
        key: printed_key(&row.key),
        sqlstate: SQLSTATE.into(),
        message: row.loss.message().into(),
        first: number(row.entries.first()),
        last: number(row.entries.last()),
    };
    rejected::store(replica, &[rejection])?;
    row.entries.iter().try_for_each(|seq| log::delete_range(connection, *seq, *seq))?;
    Ok(true)
}
