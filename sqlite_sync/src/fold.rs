//! Turns captured log entries into row metadata, in order, before anything is merged or sent.
//!
//! Whether a row exists is taken from the user's table, never guessed from the log; the log says which
//! columns were written and when.

use rusqlite::{Row, params};
use shared_format::{ColumnId, LocalWrite, RowState, SiteId, Value, encode_key};

use crate::catalog::{Replica, clock_offset_ms};
use crate::error::{Doing, Result};
use crate::log::{self, Captured, DbVersion};
use crate::metadata;
use crate::parked;
use crate::settings::{self, Setting};
use crate::sql::{column, columns, refs};
use crate::tracked_table::TrackedTable;

/// Entries above which opening a file folds: see DESIGN section 15.
pub(crate) const FOLD_ON_OPEN: i64 = 10_000;

/// One entry of a row, in order.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) captured: Captured,
    pub(crate) wall_ms: i64,
    pub(crate) seq: DbVersion,
}

/// All entries of one row in a range of the log, with what the file holds for it.
#[derive(Clone, Debug)]
pub(crate) struct LoggedRow {
    pub(crate) key: Vec<Value>,
    pub(crate) entries: Vec<Entry>,
    pub(crate) is_present: bool,
    pub(crate) state: Option<RowState>,
}

/// Brings the metadata up to the newest entry of the log.
pub(crate) fn fold(replica: &mut Replica<'_>) -> Result<DbVersion> {
    let newest = log::newest(replica.connection)?;
    let folded = log::folded(replica.connection)?;
    if folded >= newest {
        return Ok(newest);
    }
    let first = DbVersion::new(folded.get() + 1);
    for table in replica.tables.clone() {
        fold_table(replica, &table, first, newest)?;
    }
    settings::store(replica.connection, Setting::Folded, &Value::Integer(newest.get()))?;
    Ok(newest)
}

fn fold_table(
    replica: &mut Replica<'_>,
    table: &TrackedTable,
    first: DbVersion,
    last: DbVersion,
) -> Result<()> {
    let offset_ms = clock_offset_ms(replica.connection)?;
    let own = replica.own();
    let all = table.column_ids();
    for_each_logged_row(replica, table, first, last, &mut |replica, row| {
        let before = row.state.clone();
        let Some(state) = fold_row(table, row, &all, own, offset_ms) else { return Ok(()) };
        if before.as_ref() == Some(&state) {
            return Ok(());
        }
        if before.is_some_and(|before| !before.is_alive() && !before.cells.is_empty()) {
            parked::forget_cells(replica.connection, table, &encode_key(refs(&row.key)))?;
        }
        let seq = row.entries.last().map_or(last, |entry| entry.seq);
        metadata::write(replica.connection, &mut replica.sites, table, &row.key, &state, seq)
    })
}

/// Hands over the rows that have entries which are not folded yet, as they will be then. Writes nothing.
pub(crate) fn overlay(
    replica: &mut Replica<'_>,
    table: &TrackedTable,
    each: &mut dyn FnMut(&[Value], RowState, DbVersion),
) -> Result<()> {
    let newest = log::newest(replica.connection)?;
    let first = DbVersion::new(log::folded(replica.connection)?.get() + 1);
    let offset_ms = clock_offset_ms(replica.connection)?;
    let own = replica.own();
    let all = table.column_ids();
    for_each_logged_row(replica, table, first, newest, &mut |_, row| {
        let state = fold_row(table, row, &all, own, offset_ms);
        let seq = row.entries.last().map_or(newest, |entry| entry.seq);
        if let Some(state) = state.filter(|state| row.state.as_ref() != Some(state)) {
            each(&row.key, state, seq);
        }
        Ok(())
    })
}

/// State of a row after its entries; None when nobody has to hear of it.
fn fold_row(
    table: &TrackedTable,
    row: &LoggedRow,
    all: &[ColumnId],
    own: SiteId,
    offset_ms: i64,
) -> Option<RowState> {
    let is_rewritten = |entry: &Entry| matches!(entry.captured, Captured::Inserted | Captured::Deleted);
    let had_baseline = row.state.is_none() && table.baseline.is_some();
    let baseline = || metadata::baseline(table, own);
    let last = row.entries.last()?;
    let at = |entry: &Entry| entry.wall_ms.saturating_add(offset_ms);
    let mut state = row.state.clone().unwrap_or_else(RowState::unseen);
    if !row.is_present {
        if state.is_alive() || had_baseline {
            state.write_local(LocalWrite::Delete, at(last), own);
            return Some(state);
        }
        return None;
    }
    let mut rest = row.entries.as_slice();
    if had_baseline && !row.entries.iter().any(is_rewritten) {
        state = baseline();
    } else if !state.is_alive() {
        let born = row.entries.iter().rposition(is_rewritten).unwrap_or(0);
        state.write_local(LocalWrite::Create, at(&row.entries[born]), own);
        rest = &row.entries[born + 1..];
    }
    for entry in rest {
        match &entry.captured {
            Captured::Updated(set) => {
                let written: Vec<ColumnId> = all.iter().copied().filter(|id| set.contains(*id)).collect();
                if !written.is_empty() {
                    state.write_local(LocalWrite::Update(&written), at(entry), own);
                }
            }
            // A live row deleted and inserted between two folds is one update of all its columns.
            Captured::Inserted if !all.is_empty() => {
                state.write_local(LocalWrite::Update(all), at(entry), own);
            }
            Captured::Inserted | Captured::Deleted | Captured::Look | Captured::Baseline | Captured::Mark => {
            }
        }
    }
    Some(state)
}

/// Hands over every row of a table that has entries in a range, in key order.
///
/// The statement sorts by key before it returns its first row, so the metadata may be written meanwhile.
pub(crate) fn for_each_logged_row(
    replica: &mut Replica<'_>,
    table: &TrackedTable,
    first: DbVersion,
    last: DbVersion,
    each: &mut dyn FnMut(&mut Replica<'_>, &LoggedRow) -> Result<()>,
) -> Result<()> {
    let connection = replica.connection;
    let mut statement = connection.prepare_cached(&logged_rows_sql(table)).doing("read the capture log")?;
    let mut rows = statement.query(params![first.get(), last.get(), table.id, log::BASELINE])?;
    let mut logged: Option<LoggedRow> = None;
    while let Some(row) = rows.next().doing("read the capture log")? {
        let (key, entry) = read_entry(row, table.key.len())?;
        match &mut logged {
            Some(logged) if logged.key == key => logged.entries.push(entry),
            before => {
                let next = LoggedRow {
                    key,
                    entries: vec![entry],
                    is_present: row.get(3)?,
                    state: metadata::state(&replica.sites, table, row, 4)?,
                };
                if let Some(done) = before.replace(next) {
                    each(replica, &done)?;
                }
            }
        }
    }
    logged.map_or(Ok(()), |last| each(replica, &last))
}

fn logged_rows_sql(table: &TrackedTable) -> String {
    let first_key = table.key.first().expect("a tracked table has a key").quoted();
    format!(
        "select l.seq, l.cols, l.ms, t.{first_key} is not null, {state}, {key}
         from main.cloudsync_log as l
         left join {table} as t on {row_joined}
         left join {metadata} as m on {metadata_joined}
         where l.seq between ?1 and ?2 and l.tbl = ?3 and l.cols > ?4 and {whole}
         order by {key}, l.seq",
        state = metadata::state_columns("m."),
        key = table.log_key("l."),
        table = table.quoted(),
        row_joined = table.key_equals_log("t", "l"),
        metadata = table.metadata(),
        metadata_joined = table.metadata_equals_log("m", "l"),
        whole = table
            .log_key("l.")
            .split(", ")
            .map(|part| format!("{part} is not null"))
            .collect::<Vec<_>>()
            .join(" and "),
    )
}

fn read_entry(row: &Row<'_>, key_len: usize) -> Result<(Vec<Value>, Entry)> {
    let entry = Entry {
        captured: Captured::read(column(row, 1)?)?,
        wall_ms: row.get(2)?,
        seq: DbVersion::new(row.get(0)?),
    };
    Ok((columns(row, 4 + metadata::STATE_COLUMNS, key_len)?, entry))
}
