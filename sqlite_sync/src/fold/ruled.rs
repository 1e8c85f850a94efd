//! Fold of tables whose rows or columns have an algorithm of their own.
//!
//! What a user wrote to a register column becomes an entry: the difference, the further value, the blocks that
//! changed. A value that the algorithm has no place for is put back and kept as a conflict.

use rusqlite::types::ToSql;
use shared_format::payload::TableAlgorithm;
use shared_format::{
    ColumnId, Local, LocalWrite, LogPlace, RowRegisters, RowState, Stamp, Value, ValueRef, encode_key,
};

use super::{Entry, LoggedRow, Overlaid, Wanted, for_each_logged_row};
use crate::catalog::{Replica, clock_offset_ms};
use crate::conflicts::{self, Conflict, Reason};
use crate::error::{Doing, Result};
use crate::guards;
use crate::log::{self, Captured, DbVersion};
use crate::metadata;
use crate::parked;
use crate::sql::{Bind, binds, refs, wall_ms};
use crate::tracked_table::TrackedTable;

/// A value that is put back.
struct PutBack {
    key: Vec<Value>,
    place: usize,
    lost: (Value, Stamp),
    stays: (Value, Stamp),
}

/// What is the same for all rows of one fold.
struct Folding<'t> {
    table: &'t TrackedTable,
    all: Vec<ColumnId>,
    own: shared_format::SiteId,
    offset_ms: i64,
    acknowledged: DbVersion,
}

impl<'t> Folding<'t> {
    fn begin(replica: &Replica<'_>, table: &'t TrackedTable) -> Result<Self> {
        Ok(Self {
            table,
            all: table.column_ids(),
            own: replica.own(),
            offset_ms: clock_offset_ms(replica.connection)?,
            acknowledged: log::acknowledged(replica.connection)?,
        })
    }

    /// What a row becomes; None when nobody has to hear of it.
    fn folded(
        &self,
        replica: &Replica<'_>,
        row: &LoggedRow,
        put_back: &mut Vec<PutBack>,
    ) -> Result<Option<RowRegisters>> {
        let connection = replica.connection;
        let state = row.state.clone().unwrap_or_else(RowState::unseen);
        let mut full = RowRegisters { state, ..RowRegisters::default() };
        if row.state.is_some() {
            full.registers = metadata::registers_of(connection, self.table, &row.key)?;
        }
        let before = full.clone();
        let is_news = self.fold_row(row, &mut full, &row.values, put_back);
        let is_same = row.state.as_ref() == Some(&full.state) && before.registers == full.registers;
        Ok((is_news && !is_same).then_some(full))
    }
}

pub(super) fn fold_table(
    replica: &mut Replica<'_>,
    table: &TrackedTable,
    first: DbVersion,
    last: DbVersion,
) -> Result<()> {
    let folding = Folding::begin(replica, table)?;
    let mut put_back = Vec::new();
    for_each_logged_row(replica, table, (first, last), Wanted::Values, &mut |replica, row| {
        let Some(full) = folding.folded(replica, row, &mut put_back)? else { return Ok(()) };
        let connection = replica.connection;
        if row.state.as_ref().is_some_and(|before| !before.is_alive() && !before.cells.is_empty()) {
            parked::forget_cells(connection, table, &encode_key(refs(&row.key)))?;
        }
        let seq = row.entries.last().map_or(last, |entry| entry.seq);
        let (state, registers) = (&full.state, &full.registers);
        metadata::write_row(connection, &mut replica.sites, table, &row.key, state, registers, seq)
    })?;
    if table.rules.table == TableAlgorithm::Dws {
        guards::forget_dead(replica.connection, table)?;
    }
    put_back.iter().try_for_each(|one| one.carry_out(replica, table))
}

/// See [`super::overlay`].
pub(super) fn overlay(
    replica: &mut Replica<'_>,
    table: &TrackedTable,
    each: &mut Overlaid<'_>,
) -> Result<()> {
    let folding = Folding::begin(replica, table)?;
    let newest = log::newest(replica.connection)?;
    let first = DbVersion::new(log::folded(replica.connection)?.get() + 1);
    for_each_logged_row(replica, table, (first, newest), Wanted::Values, &mut |replica, row| {
        let seq = row.entries.last().map_or(newest, |entry| entry.seq);
        if let Some(full) = folding.folded(replica, row, &mut Vec::new())? {
            each(&row.key, full.state, full.registers, seq);
        }
        Ok(())
    })
}

impl Folding<'_> {
    /// Brings a row up to its entries; false when nobody has to hear of it.
    fn fold_row(
        &self,
        row: &LoggedRow,
        full: &mut RowRegisters,
        values: &[Value],
        put_back: &mut Vec<PutBack>,
    ) -> bool {
        let is_rewritten = |entry: &Entry| matches!(entry.captured, Captured::Inserted | Captured::Deleted);
        let had_baseline = row.state.is_none() && self.table.baseline.is_some();
        let Some(last) = row.entries.last() else { return false };
        if !row.is_present {
            let was_there = full.state.is_alive() || had_baseline;
            if was_there {
                self.write(LocalWrite::Delete, last, row, full, values, put_back);
            }
            return was_there;
        }
        let mut rest = row.entries.as_slice();
        if had_baseline && !row.entries.iter().any(is_rewritten) {
            full.state = metadata::baseline(self.table, self.own);
        } else if !full.state.is_alive() {
            let born = row.entries.iter().rposition(is_rewritten).unwrap_or(0);
            self.write(LocalWrite::Create, &row.entries[born], row, full, values, put_back);
            // Its registers start from what the row holds now.
            rest = if self.table.rules.have_registers() { &[] } else { &row.entries[born + 1..] };
        }
        for (at, entry) in rest.iter().enumerate() {
            let written: Vec<ColumnId> = self
                .all
                .iter()
                .copied()
                .filter(|id| self.writes(entry, *id) && !self.is_later(&rest[at + 1..], *id))
                .collect();
            if !written.is_empty() {
                self.write(LocalWrite::Update(&written), entry, row, full, values, put_back);
            }
        }
        true
    }

    /// Whether an entry wrote a column. A live row deleted and inserted between two folds is one update of all.
    fn writes(&self, entry: &Entry, id: ColumnId) -> bool {
        match &entry.captured {
            Captured::Updated(set) => set.contains(id),
            Captured::Inserted => true,
            Captured::Deleted | Captured::Look | Captured::Baseline | Captured::Mark => false,
        }
    }

    /// Whether a register column is written by a later entry: its value is that one's.
    fn is_later(&self, rest: &[Entry], id: ColumnId) -> bool {
        self.table.rules.of(id).is_register() && rest.iter().any(|entry| self.writes(entry, id))
    }

    fn write(
        &self,
        write: LocalWrite<'_>,
        entry: &Entry,
        row: &LoggedRow,
        full: &mut RowRegisters,
        values: &[Value],
        put_back: &mut Vec<PutBack>,
    ) {
        let table = self.table;
        let now = |id: ColumnId| {
            let value = table.position(id).and_then(|at| values.get(at));
            (value.map_or(ValueRef::Null, Value::as_ref), table.default_of(id))
        };
        let local = Local {
            write,
            now: &now,
            wall_ms: entry.wall_ms.saturating_add(self.offset_ms),
            site: self.own,
            log: LogPlace { seq: entry.seq.get(), acknowledged: self.acknowledged.get() },
        };
        for (id, stamp) in full.write_local(&table.rules, &local) {
            let (Some(place), Some(kept)) = (table.position(id), full.registers.get(&id)) else { continue };
            put_back.push(PutBack {
                key: row.key.clone(),
                place,
                lost: (now(id).0.to_owned_value(), stamp),
                stays: (
                    kept.register.visible(table.rules.of(id), table.default_of(id)),
                    full.state.stamp_of(id),
                ),
            });
        }
    }
}

impl PutBack {
    /// Writes the value of the register over the user's and keeps the user's as a conflict.
    ///
    /// A constraint or a trigger of the user may refuse that; then the user's value stays in this file alone.
    fn carry_out(&self, replica: &Replica<'_>, table: &TrackedTable) -> Result<()> {
        let connection = replica.connection;
        let column = &table.columns[self.place];
        let place = table.key.len() + 1;
        let sql =
            format!("update {} set {} = ?{place} where {}", table.quoted(), column.quoted(), table.key_is(1));
        let mut parameters: Vec<Bind<'_>> = binds(&self.key);
        parameters.push(Bind(self.stays.0.as_ref()));
        let parameters: Vec<&dyn ToSql> = parameters.iter().map(|bind| bind as &dyn ToSql).collect();
        connection.execute_batch("savepoint cloudsync_put_back").doing("put a value back")?;
        let written = connection.execute(&sql, parameters.as_slice()).doing("put a value back");
        let end = if written.is_ok() { "" } else { "rollback to cloudsync_put_back;" };
        connection.execute_batch(&format!("{end} release cloudsync_put_back")).doing("put a value back")?;
        match written {
            Err(error) if !error.is_refusal() => return Err(error),
            Ok(_) | Err(_) => {}
        }
        let conflict = Conflict {
            column: &column.name,
            lost: (self.lost.0.as_ref(), self.lost.1),
            won: (self.stays.0.as_ref(), self.stays.1),
            reason: Reason::Algorithm(table.rules.of(column.id).algorithm()),
        };
        conflicts::record(connection, table, &self.key, &[conflict], wall_ms(connection)?)
    }
}
