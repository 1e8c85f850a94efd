//! Merges one change into one row and carries the plan out: the row first, so that a constraint can still
//! refuse, then what is parked, then the metadata.

use std::cmp::Ordering;

use rusqlite::Row;
use schema_mapping::SqliteValue;
use shared_format::{
    CellOutcome, ColumnId, Hlc, Incoming, LostEntry, Plan, RowKind, RowState, RowWrite, Value, ValueRef,
    merge, merge_unseen, merges_into_nothing,
};

use super::collected::check_horizon;
use super::incoming::Change;
use super::ruled::decide_by_rules;
use super::statements::{RowStatements, Shape};
use super::waiting::Aside;
use super::{Session, Staged};
use crate::error::{Error, Result};
use crate::metadata::{self, Registers, Stored};
use crate::parked;
use crate::sql::column;
use crate::tracked_table::TrackedTable;

/// How far a stamp may be ahead of the corrected clock: see DESIGN section 3.
const AHEAD_MS_MAX: u64 = 60_000;

/// One millisecond of an [`Hlc`]: what a stamp may be beyond one that is held already.
const MILLISECOND: u64 = 1 << 16;

/// A plan with all that it writes.
pub(super) struct Decided {
    pub(super) plan: Plan,
    /// Values that move between the row and its tombstone, and visible values of registers; all are shown.
    pub(super) moved: Vec<(ColumnId, Value)>,
    /// Values to keep beside the row, if it is not alive.
    pub(super) kept: Vec<(ColumnId, Value)>,
    /// Registers of the row, if it is alive.
    pub(super) registers: Registers,
    /// Entries of registers that lost their place.
    pub(super) lost: Vec<(ColumnId, LostEntry)>,
}

impl Session<'_, '_> {
    /// Merges a change; says whether anything changed.
    pub(super) fn merge_change(&mut self, change: &Change<'_>) -> Result<bool> {
        let table = &*change.table;
        let is_plain = table.rules.are_plain();
        let held_before = std::mem::take(&mut self.held_so_far);
        if is_plain && self.insert_unseen(change)? {
            return Ok(true);
        }
        let connection = self.replica.connection;
        let (local, is_known) = self.local_state(change)?;
        self.check_clock(change, &local)?;
        check_horizon(connection, change, &local)?;
        self.lost = self.lost_cells(change, &local)?;
        let statements = &mut self.statements[change.table_at];
        let former = if is_plain { Registers::new() } else { statements.registers(&change.key)? };
        let aside = aside_of(&self.aside, change);
        if is_plain && local.is_alive() && aside.is_empty() && is_held(statements, change, &local)? {
            self.held_so_far = held_before + 1;
            return Ok(false);
        }
        let held = Held::new(statements, change, local.is_alive(), aside);
        let decided = if is_plain {
            decide_plain(change, &local, held)?
        } else {
            decide_by_rules(change, &local, &former, held)?
        };
        let Some(Decided { mut plan, moved, kept, registers, lost }) = decided else { return Ok(false) };
        let losing = self.losing(change, &local, &plan)?;
        if self.is_watched {
            // What triggers write comes behind it.
            self.mark()?;
        }
        self.write_guarded(change, &plan, &moved)?;
        let seq = self.mark()?;
        self.keep_lost(change, &losing)?;
        self.keep_lost_entries(change, &former, &lost)?;
        if parks(&plan.state) {
            // A row that a user's trigger deleted meanwhile took its values along.
            plan.state.cells.retain(|cell| kept.iter().any(|(id, _)| *id == cell.column));
            parked::store_cells(connection, table, &change.key_values(), &plan.state, &kept)?;
        } else if !local.is_alive() && !local.cells.is_empty() {
            parked::forget_cells(connection, table, &change.pk())?;
        }
        let stored = Stored::of(connection, &mut self.replica.sites, &plan.state, &registers)?;
        self.statements[change.table_at].write_state(&change.key, &stored, seq, is_known)?;
        if self.is_watched && plan.write != RowWrite::Keep {
            self.stage(change, &plan, &moved);
        }
        Ok(true)
    }

    /// Inserts a row that nobody here ever heard of, without looking first; false when it was not that.
    ///
    /// The metadata goes first and says whether the row is known; a data row that stands there without
    /// metadata refuses the second insert.
    fn insert_unseen(&mut self, change: &Change<'_>) -> Result<bool> {
        let looks = self.is_watched || self.is_careful || !self.expects_unseen || change.may_be_collected();
        let Some(seq) = self.mark.filter(|_| !looks && change.places.len() == change.table.columns.len())
        else {
            return Ok(false);
        };
        let Some(state) = merge_unseen(&incoming(change, &[])) else { return Ok(false) };
        self.check_clock(change, &RowState::unseen())?;
        let stored = Stored::of(self.replica.connection, &mut self.replica.sites, &state, &Registers::new())?;
        let statements = &mut self.statements[change.table_at];
        if statements.add_state(&change.key, &stored, seq)? {
            let shape = Shape { inserts: true, places: &change.places, defaults: &[] };
            let values = change.values.iter().map(SqliteValue::as_value);
            match statements.write(shape, &change.key, values) {
                Ok(1) => return Ok(true),
                Err(error) if !error.is_refusal() => return Err(error),
                Ok(_) | Err(_) => statements.remove_state(&change.key)?,
            }
        }
        self.expects_unseen = false;
        Ok(false)
    }

    /// What this file knows of a row, and whether that has metadata; a row without was there before
    /// `cloudsync_init`.
    pub(super) fn local_state(&mut self, change: &Change<'_>) -> Result<(RowState, bool)> {
        let statements = &mut self.statements[change.table_at];
        if let Some(state) = statements.state(&self.replica.sites, &change.key)? {
            return Ok((state, true));
        }
        let is_there = statements.with_row(&change.key, |_row| Ok(()))?.is_some();
        self.expects_unseen = !is_there;
        let state =
            if is_there { metadata::baseline(&change.table, self.replica.own()) } else { RowState::unseen() };
        Ok((state, false))
    }

    /// Refuses stamps from far ahead in payload files; what the server sends was checked there.
    pub(super) fn check_clock(&self, change: &Change<'_>, local: &RowState) -> Result<()> {
        if !self.source.is_unchecked() {
            return Ok(());
        }
        let limit = u64::try_from(self.corrected_ms).unwrap_or(0).saturating_add(AHEAD_MS_MAX);
        let check = |hlc: Hlc, held: Hlc| {
            let is_ahead = hlc.unix_ms() > limit && hlc.raw() > held.raw().saturating_add(MILLISECOND);
            if is_ahead { Err(hlc.unix_ms().saturating_sub(limit)) } else { Ok(()) }
        };
        let life = if change.kind == RowKind::Cells { Hlc::ZERO } else { change.stamp.hlc };
        let mut cells =
            change.stamps.iter().map(|cell| check(cell.stamp.hlc, local.stamp_of(cell.column).hlc));
        let refuse = |beyond_ms: u64| Error::ClockAhead {
            ahead_ms: beyond_ms.saturating_add(AHEAD_MS_MAX),
            ahead_ms_max: AHEAD_MS_MAX,
        };
        check(life, local.life_stamp().hlc).map_err(refuse)?;
        cells.try_for_each(|checked| checked.map_err(refuse))
    }

    /// Writes the row as planned.
    pub(super) fn write_row(
        &mut self,
        change: &Change<'_>,
        plan: &Plan,
        moved: &[(ColumnId, Value)],
    ) -> Result<()> {
        let statements = &mut self.statements[change.table_at];
        let asked = asked(change, plan, moved);
        let places: Vec<usize> = asked.iter().map(|(at, _)| *at).collect();
        let defaults = match plan.write {
            RowWrite::Replace => defaulted(&change.table, plan, &places),
            RowWrite::Keep | RowWrite::Delete | RowWrite::Insert | RowWrite::Update => Vec::new(),
        };
        let inserts = plan.write == RowWrite::Insert;
        let written = match plan.write {
            RowWrite::Keep => return Ok(()),
            RowWrite::Delete => statements.delete(&change.key)?,
            RowWrite::Replace if places.is_empty() && defaults.is_empty() => return Ok(()),
            RowWrite::Insert | RowWrite::Update | RowWrite::Replace => {
                let shape = Shape { inserts, places: &places, defaults: &defaults };
                statements.write(shape, &change.key, asked.iter().map(|(_, value)| *value))?
            }
        };
        // A row that a trigger deleted before is no longer there to be written.
        if written == 0 && (inserts || statements.with_row(&change.key, |_row| Ok(()))?.is_some()) {
            return Err(Error::RowIgnored);
        }
        Ok(())
    }

    /// Remembers what was asked for, to tell it later from what users' triggers made of it.
    pub(super) fn stage(&mut self, change: &Change<'_>, plan: &Plan, moved: &[(ColumnId, Value)]) {
        let row = (change.table.id, change.pk());
        let staged = self.staged.entry(row).or_insert_with(|| Staged {
            table: std::rc::Rc::clone(&change.table),
            key: change.key_values(),
            is_alive: true,
            has_life: false,
            cells: Vec::new(),
        });
        staged.is_alive = plan.state.is_alive();
        staged.has_life |= plan.write != RowWrite::Update;
        if !staged.is_alive {
            staged.cells.clear();
            return;
        }
        if plan.write == RowWrite::Replace {
            let gone = defaulted(&change.table, plan, &[]);
            staged.cells.retain(|(at, _)| !gone.contains(at));
        }
        for (at, value) in asked(change, plan, moved) {
            staged.cells.retain(|(known, _)| *known != at);
            staged.cells.push((at, value.to_owned_value()));
        }
    }
}

/// What a row holds in truth, where it was moved aside.
pub(super) fn aside_of<'s>(aside: &'s Aside, change: &Change<'_>) -> &'s [(usize, Value)] {
    if aside.is_empty() {
        return &[];
    }
    aside.get(&(change.table.id, change.pk())).map_or(&[], Vec::as_slice)
}

/// A change as merge takes it.
pub(super) fn incoming<'a>(change: &'a Change<'_>, uncarried: &'a [ColumnId]) -> Incoming<'a> {
    Incoming { kind: change.kind, stamp: change.stamp, cells: &change.stamps, uncarried }
}

/// Whether a live row of a table without rules of its own holds a change already.
fn is_held(statements: &mut RowStatements<'_>, change: &Change<'_>, local: &RowState) -> Result<bool> {
    if !merges_into_nothing(local, &incoming(change, &[]), &mut |_| true) {
        return Ok(false);
    }
    Ok(statements.with_row(&change.key, |row| Ok(holds(change, local, row, 0)))?.unwrap_or(false))
}

/// Whether a live row, whose values begin at column `first`, holds a change. Values are compared where they lie;
/// where one differs, merge has to be asked.
pub(super) fn holds(change: &Change<'_>, local: &RowState, row: &Row<'_>, first: usize) -> bool {
    merges_into_nothing(local, &incoming(change, &[]), &mut |at| {
        let held = column(row, first + change.places[at]);
        held.is_ok_and(|held| change.values[at].as_value().cmp_encoded(&held).is_eq())
    })
}

/// What becomes of a change in a table without rules of its own; None when nothing changes.
fn decide_plain(change: &Change<'_>, local: &RowState, mut held: Held<'_, '_>) -> Result<Option<Decided>> {
    let plan = decide(change, local, &mut held)?;
    if !plan.changed {
        return Ok(None);
    }
    let moved = held.moved(&plan)?;
    let kept = parked_values(change, &plan, &moved);
    Ok(Some(Decided { plan, moved, kept, registers: Registers::new(), lost: Vec::new() }))
}

/// Asks merge what becomes of a change.
pub(super) fn decide(change: &Change<'_>, local: &RowState, held: &mut Held<'_, '_>) -> Result<Plan> {
    let uncarried = change.uncarried();
    merge(local, &incoming(change, &uncarried), &mut |at| held.compare(at))
}

/// Places and values that a plan writes, by ascending place.
fn asked<'a>(
    change: &'a Change<'_>,
    plan: &Plan,
    moved: &'a [(ColumnId, Value)],
) -> Vec<(usize, ValueRef<'a>)> {
    let taken = change.cells().zip(&plan.cells);
    let mut asked: Vec<(usize, ValueRef<'a>)> = taken
        .filter(|(_, outcome)| **outcome == CellOutcome::Taken)
        .map(|((at, _, value), _)| (at, value))
        .collect();
    for column in &plan.show {
        let value = moved.iter().find(|(id, _)| id == column).map(|(_, value)| value.as_ref());
        asked.extend(change.table.position(*column).zip(value));
    }
    if !plan.show.is_empty() {
        asked.sort_by_key(|(at, _)| *at);
    }
    asked
}

/// Values of a row that merge may ask for, read when first needed.
pub(super) struct Held<'h, 'c> {
    statements: &'h mut RowStatements<'c>,
    change: &'h Change<'h>,
    is_alive: bool,
    /// Values that the row has in truth, where it was moved aside.
    aside: &'h [(usize, Value)],
    /// Of a live row the values by place, of any other the parked ones.
    read: Option<Vec<(ColumnId, Value)>>,
}

impl<'h, 'c> Held<'h, 'c> {
    pub(super) fn new(
        statements: &'h mut RowStatements<'c>,
        change: &'h Change<'h>,
        is_alive: bool,
        aside: &'h [(usize, Value)],
    ) -> Self {
        Self { statements, change, is_alive, aside, read: None }
    }

    /// The value of a column, live or parked; None when there is none.
    pub(super) fn value(&mut self, place: usize) -> Result<Option<Value>> {
        self.value_of(self.change.table.columns[place].id)
    }

    /// The same for a column by its number.
    pub(super) fn value_of(&mut self, column: ColumnId) -> Result<Option<Value>> {
        Ok(self.all()?.iter().find(|(id, _)| *id == column).map(|(_, value)| value.clone()))
    }

    /// How the value of an incoming cell orders against the one that this file holds, live or parked.
    pub(super) fn compare(&mut self, cell: usize) -> Result<Ordering> {
        let change = self.change;
        let (place, column) = (change.places[cell], change.stamps[cell].column);
        let at = if self.is_alive { Some(place) } else { None };
        let values = self.all()?;
        let held = match at {
            Some(at) => values.get(at),
            None => values.iter().find(|(id, _)| *id == column),
        };
        let held = held.map_or(ValueRef::Null, |(_, held)| held.as_ref());
        let order = change.values[cell].as_value().cmp_encoded(&held);
        // What another type of the column made of the same value is no other value.
        let is_same = order != Ordering::Equal
            && at.is_some_and(|at| self.aside.iter().all(|(aside, _)| *aside != at))
            && self.statements.would_hold(&change.key, place, change.values[cell].as_value())?;
        Ok(if is_same { Ordering::Equal } else { order })
    }

    fn all(&mut self) -> Result<&[(ColumnId, Value)]> {
        let values = match self.read.take() {
            Some(values) => values,
            None if self.is_alive => {
                let mut values = self.statements.values(&self.change.key)?.unwrap_or_default();
                for (at, value) in self.aside {
                    values[*at].clone_from(value);
                }
                self.change.table.columns.iter().map(|column| column.id).zip(values).collect()
            }
            None => self.statements.parked(&self.change.pk())?,
        };
        Ok(self.read.insert(values))
    }

    /// Values that the plan moves between the row and its tombstone, or leaves beside it.
    pub(super) fn moved(&mut self, plan: &Plan) -> Result<Vec<(ColumnId, Value)>> {
        let stays = !self.is_alive && parks(&plan.state);
        if plan.park.is_empty() && plan.show.is_empty() && !stays {
            return Ok(Vec::new());
        }
        let mut values = self.all()?.to_vec();
        values.retain(|(id, _)| plan.park.contains(id) || plan.show.contains(id) || stays);
        Ok(values)
    }
}

/// Whether a row that is not alive has cells beside it.
fn parks(state: &RowState) -> bool {
    !state.is_alive() && !state.cells.is_empty()
}

/// Values to keep beside the tombstone, if any are: those there, those that lost their row, those that came.
pub(super) fn parked_values(
    change: &Change<'_>,
    plan: &Plan,
    moved: &[(ColumnId, Value)],
) -> Vec<(ColumnId, Value)> {
    if !parks(&plan.state) {
        return Vec::new();
    }
    let mut values = moved.to_vec();
    for ((_, cell, value), outcome) in change.cells().zip(&plan.cells) {
        if *outcome == CellOutcome::Parked {
            values.retain(|(known, _)| *known != cell.column);
            values.push((cell.column, value.to_owned_value()));
        }
    }
    values
}

/// Places of a replaced row that go to their default: neither written nor newer than the new base.
fn defaulted(table: &TrackedTable, plan: &Plan, written: &[usize]) -> Vec<usize> {
    let base = plan.state.life_stamp();
    let keeps = |id: ColumnId| plan.state.cell(id).is_some_and(|stamp| stamp > base);
    let columns = table.columns.iter().enumerate();
    columns.filter(|(at, column)| !written.contains(at) && !keeps(column.id)).map(|(at, _)| at).collect()
}
