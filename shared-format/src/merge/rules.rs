//! Merge and local writes of tables whose rows or columns have an algorithm of their own.
//!
//! Columns that hold plain values go through the default merge; registers are joined beside it, under the life
//! that it decided. A table algorithm decides which part of a change says anything at all, so every one of them
//! stays a product of registers in which the greater entry stays.

use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;
use core::cmp::Ordering;

use super::{CellOutcome, Incoming, Plan, RowKind, RowWrite, cls};
use crate::clock::Stamp;
use crate::error::FormatError;
use crate::payload::TableAlgorithm;
use crate::register::{ColumnRule, LostEntry, Register};
use crate::row_state::{CellStamp, ColumnId, Life, RowState};
use crate::value::ValueRef;

/// The algorithms of one table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// How rows merge.
    pub table: TableAlgorithm,
    /// Columns whose rule is not the default one.
    pub columns: BTreeMap<ColumnId, ColumnRule>,
}

impl Rules {
    /// Whether [`super::merge`] does for the table.
    #[must_use]
    pub fn are_plain(&self) -> bool {
        self.table == TableAlgorithm::Cls && self.columns.is_empty()
    }

    /// Whether the table has columns that hold registers.
    #[must_use]
    pub fn have_registers(&self) -> bool {
        self.registers().next().is_some()
    }

    /// The columns that hold registers.
    pub fn registers(&self) -> impl Iterator<Item = (ColumnId, &ColumnRule)> {
        self.columns.iter().filter(|(_, rule)| rule.is_register()).map(|(id, rule)| (*id, rule))
    }

    /// The rule of a column.
    #[must_use]
    pub fn of(&self, column: ColumnId) -> &ColumnRule {
        self.columns.get(&column).unwrap_or(&ColumnRule::Lww)
    }

    pub(super) fn is_register(&self, column: ColumnId) -> bool {
        self.of(column).is_register()
    }

    /// Adds the other columns of every group that a write touches.
    #[must_use]
    pub fn with_groups(&self, written: &[ColumnId]) -> Vec<ColumnId> {
        let group = |column: &ColumnId| match self.of(*column) {
            ColumnRule::Group { name, .. } => Some(name),
            ColumnRule::Lww
            | ColumnRule::Counter
            | ColumnRule::Max
            | ColumnRule::Min
            | ColumnRule::Block { .. } => None,
        };
        let mut all = written.to_vec();
        for name in written.iter().filter_map(group) {
            all.extend(self.columns.keys().filter(|column| group(column) == Some(name)));
        }
        all.sort_unstable();
        all.dedup();
        all
    }
}

/// What merge may ask of the replica while it decides.
pub trait RowValues {
    /// What goes wrong where the values are kept.
    type Error: From<FormatError>;

    /// How the value of an incoming cell orders against the one held: see [`super::merge`].
    ///
    /// # Errors
    /// Where the values are kept.
    fn tie(&mut self, index: usize) -> Result<Ordering, Self::Error>;

    /// The value of an incoming cell.
    ///
    /// # Errors
    /// Where the values are kept.
    fn incoming(&mut self, index: usize) -> Result<ValueRef<'_>, Self::Error>;

    /// The register that the replica holds for a column, in the row or parked beside it.
    ///
    /// # Errors
    /// Where the values are kept.
    fn register(&mut self, column: ColumnId) -> Result<Option<Register>, Self::Error>;
}

/// A register after merge.
#[derive(Clone, Debug, PartialEq)]
pub struct MergedRegister {
    /// The column.
    pub column: ColumnId,
    /// What it holds now.
    pub register: Register,
    /// Entries that lost their place.
    pub lost: Vec<LostEntry>,
}

/// What merge decided for a row under rules.
#[derive(Clone, Debug, PartialEq)]
pub struct RulesPlan {
    /// As for any table; a cell of a register column has the outcome `Void` there. Where a register of a live
    /// row changed, its visible value is written along.
    pub plan: Plan,
    /// Registers that changed: of a live row, for the row; of any other, to be parked.
    pub registers: Vec<MergedRegister>,
    /// Whether registers that are not among these are gone.
    pub replaces_registers: bool,
}

/// Merges a change into a row under the table's rules.
///
/// # Errors
/// What `values` returns, or a cell that holds no register where one is wanted.
pub fn merge_with<V: RowValues>(
    local: &RowState,
    incoming: &Incoming<'_>,
    rules: &Rules,
    values: &mut V,
) -> Result<RulesPlan, V::Error> {
    let is_base = |cell: &CellStamp| incoming.kind == RowKind::Created && cell.stamp == incoming.stamp;
    match rules.table {
        TableAlgorithm::Cls => merge_columns(local, incoming, rules, values, &|_| true),
        TableAlgorithm::Dws if incoming.kind == RowKind::Deleted || is_dead(local) => {
            // The registers go with the row.
            let replaces_registers = local.is_alive();
            Ok(RulesPlan { replaces_registers, ..without_registers(bury(local, incoming)) })
        }
        TableAlgorithm::Dws => merge_columns(local, incoming, rules, values, &|_| true),
        TableAlgorithm::Gos if incoming.kind != RowKind::Created => {
            Ok(without_registers(nothing(local, incoming)))
        }
        TableAlgorithm::Aws if incoming.kind == RowKind::Cells => {
            Ok(without_registers(nothing(local, incoming)))
        }
        TableAlgorithm::Gos | TableAlgorithm::Aws => {
            let rules = Rules { table: rules.table, columns: BTreeMap::new() };
            merge_columns(local, incoming, &rules, values, &is_base)
        }
    }
}

fn is_dead(local: &RowState) -> bool {
    local.life.is_some_and(|life| !life.alive)
}

fn without_registers(plan: Plan) -> RulesPlan {
    RulesPlan { plan, registers: Vec::new(), replaces_registers: false }
}

fn nothing(local: &RowState, incoming: &Incoming<'_>) -> Plan {
    Plan {
        state: local.clone(),
        write: RowWrite::Keep,
        cells: vec![CellOutcome::Void; incoming.cells.len()],
        park: Vec::new(),
        show: Vec::new(),
        changed: false,
    }
}

/// The row is dead for good; of two deletions the later one is kept.
fn bury(local: &RowState, incoming: &Incoming<'_>) -> Plan {
    let mut stamp = if is_dead(local) { local.life_stamp() } else { Stamp::ZERO };
    if incoming.kind == RowKind::Deleted {
        stamp = stamp.max(incoming.stamp);
    }
    let mut plan = nothing(local, incoming);
    plan.state = RowState { life: Some(Life { alive: false, stamp }), cells: Vec::new() };
    plan.changed = plan.state != *local;
    if local.is_alive() {
        plan.write = RowWrite::Delete;
    }
    plan
}

/// Merges plain cells by the default algorithm, then the registers under the life that came out.
fn merge_columns<V: RowValues>(
    local: &RowState,
    incoming: &Incoming<'_>,
    rules: &Rules,
    values: &mut V,
    says: &dyn Fn(&CellStamp) -> bool,
) -> Result<RulesPlan, V::Error> {
    let is_plain = |cell: &CellStamp| !rules.is_register(cell.column);
    let mut plain = Vec::new();
    let mut places = Vec::new();
    for (at, cell) in incoming.cells.iter().enumerate().filter(|(_, cell)| is_plain(cell) && says(cell)) {
        plain.push(*cell);
        places.push(at);
    }
    let uncarried: Vec<ColumnId> =
        incoming.uncarried.iter().copied().filter(|column| !rules.is_register(*column)).collect();
    let part = Incoming { cells: &plain, uncarried: &uncarried, ..*incoming };
    let held = RowState {
        life: local.life,
        cells: local.cells.iter().filter(|cell| is_plain(cell)).copied().collect(),
    };
    let mut plan = cls::merge(&held, &part, &mut |at| {
        let place = places.get(at).copied().unwrap_or(usize::MAX);
        tie_of_group(local, incoming, rules, values, place)
    })?;
    let mut cells = vec![CellOutcome::Void; incoming.cells.len()];
    for (place, outcome) in places.iter().zip(&plan.cells) {
        if let Some(cell) = cells.get_mut(*place) {
            *cell = *outcome;
        }
    }
    plan.cells = cells;
    let mut merged = RulesPlan { plan, registers: Vec::new(), replaces_registers: false };
    merge_registers(local, incoming, rules, values, &mut merged)?;
    merged.plan.changed |= merged.plan.state != *local || !merged.registers.is_empty();
    Ok(merged)
}

/// Equal stamps: of a group, the first column in which the two differ decides for all.
fn tie_of_group<V: RowValues>(
    local: &RowState,
    incoming: &Incoming<'_>,
    rules: &Rules,
    values: &mut V,
    at: usize,
) -> Result<Ordering, V::Error> {
    let own = values.tie(at)?;
    let Some(cell) = incoming.cells.get(at) else { return Ok(own) };
    let ColumnRule::Group { name: group, .. } = rules.of(cell.column) else { return Ok(own) };
    let mut members: Vec<(usize, usize)> = Vec::new();
    for (place, other) in incoming.cells.iter().enumerate() {
        if let ColumnRule::Group { name, rank } = rules.of(other.column)
            && name == group
            && other.stamp == cell.stamp
            && local.stamp_of(other.column) == cell.stamp
        {
            members.push((*rank, place));
        }
    }
    members.sort_unstable();
    for (_, place) in members {
        let order = values.tie(place)?;
        if order.is_ne() {
            return Ok(if own.is_eq() { own } else { order });
        }
    }
    Ok(own)
}

fn merge_registers<V: RowValues>(
    local: &RowState,
    incoming: &Incoming<'_>,
    rules: &Rules,
    values: &mut V,
    merged: &mut RulesPlan,
) -> Result<(), V::Error> {
    let state = &mut merged.plan.state;
    let begins = state.life != local.life;
    let life = state.life_stamp();
    let base = state.is_alive().then_some(life);
    let created = (incoming.kind == RowKind::Created).then_some(incoming.stamp);
    merged.replaces_registers = begins;
    for (column, rule) in rules.registers() {
        let at = incoming.cells.iter().position(|cell| cell.column == column);
        if !begins && at.is_none() {
            if let Some(stamp) = local.cell(column) {
                state.set_cell(column, stamp);
            }
            continue;
        }
        let held = values.register(column)?;
        let Some(mut register) = held.clone().or_else(|| Register::new(rule)) else { continue };
        register.keep_newer(life, base);
        let mut lost = Vec::new();
        if let Some((index, cell)) = at.and_then(|at| incoming.cells.get(at).map(|cell| (at, cell))) {
            let mut theirs = Register::from_cell(rule, created, cell.stamp, values.incoming(index)?)?;
            theirs.keep_newer(life, base);
            lost = register.join(&theirs);
        }
        match register.greatest() {
            Some(stamp) => state.set_cell(column, stamp),
            None if base.is_some() && register.start().is_none() => state.set_cell(column, Stamp::ZERO),
            None => {}
        }
        let says_something = register.greatest().is_some() || register.start().is_some();
        if says_something && (begins || held.as_ref() != Some(&register)) {
            merged.registers.push(MergedRegister { column, register, lost });
        }
    }
    let is_written = base.is_some() && !merged.registers.is_empty();
    if is_written && merged.plan.write == RowWrite::Keep {
        merged.plan.write = RowWrite::Update;
    }
    Ok(())
}
