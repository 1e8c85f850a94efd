//! Merges one change into one row of a table whose rows or columns have an algorithm of their own.

use std::cmp::Ordering;

use shared_format::payload::TableAlgorithm;
use shared_format::{
    CellOutcome, ColumnId, KeptRegister, LostEntry, OwnEntries, Register, RowState, RowValues, RowWrite,
    Rules, RulesPlan, Stamp, Value, ValueRef, merge_with,
};

use super::Session;
use super::collected::check_horizon;
use super::incoming::Change;
use super::row::{Held, aside_of, incoming, parked_values};
use crate::conflicts::{Conflict, Reason, record};
use crate::error::{Error, Result};
use crate::guards;
use crate::metadata::{Registers, Stored};
use crate::parked;
use crate::tracked_table::TrackedTable;

impl Session<'_, '_> {
    /// Merges a change under the table's rules; says whether anything changed.
    pub(super) fn merge_by_rules(&mut self, change: &Change<'_>) -> Result<bool> {
        let connection = self.replica.connection;
        let table = &*change.table;
        let (local, is_known) = self.local_state(change)?;
        self.check_clock(change, &local)?;
        check_horizon(connection, change, &local)?;
        let statements = &mut self.statements[change.table_at];
        let former = statements.registers(&change.key)?;
        let aside = aside_of(&self.aside, change);
        let held = Held::new(statements, change, local.is_alive(), aside);
        let mut asked = Asked { held, change, former: &former, state: &local, rules: &table.rules };
        let uncarried = change.uncarried();
        let merged = merge_with(&local, &incoming(change, &uncarried), &table.rules, &mut asked)?;
        if !merged.plan.changed {
            return Ok(false);
        }
        let mut decided = asked.carry(merged)?;
        let plan = &mut decided.plan;
        let parks = !plan.state.is_alive() && !plan.state.cells.is_empty();
        let mut kept = if parks { parked_values(change, plan, &decided.moved) } else { Vec::new() };
        for (column, value) in decided.parked {
            kept.retain(|(known, _)| *known != column);
            kept.push((column, value));
        }
        let losing = self.losing(change, &local, plan)?;
        if self.is_watched {
            // What triggers write comes behind it.
            self.mark()?;
        }
        self.write_guarded(change, plan, &decided.moved)?;
        let seq = self.mark()?;
        self.keep_lost(change, &losing)?;
        self.keep_lost_entries(change, &former, &decided.lost)?;
        if parks {
            plan.state.cells.retain(|cell| kept.iter().any(|(id, _)| *id == cell.column));
            parked::store_cells(connection, table, &change.key_values(), &plan.state, &kept)?;
        } else if !local.is_alive() && !local.cells.is_empty() {
            parked::forget_cells(connection, table, &change.pk())?;
        }
        let stored =
            Stored::with_registers(connection, &mut self.replica.sites, &plan.state, &decided.registers)?;
        self.statements[change.table_at].write_state(&change.key, &stored, seq, is_known)?;
        if self.is_watched && plan.write != RowWrite::Keep {
            self.stage(change, plan, &decided.moved);
        }
        Ok(true)
    }

    /// Writes the row past the triggers that hold users to the table's algorithm.
    fn write_guarded(
        &mut self,
        change: &Change<'_>,
        plan: &shared_format::Plan,
        moved: &[(ColumnId, Value)],
    ) -> Result<()> {
        let connection = self.replica.connection;
        match change.table.rules.table {
            TableAlgorithm::Gos if self.is_watched => {
                guards::opened(connection, || self.write_row(change, plan, moved))
            }
            TableAlgorithm::Dws if self.is_watched && plan.write == RowWrite::Insert => {
                // What is marked was evicted or is in the metadata, which merge has asked.
                guards::forget_dead(connection, &change.table)?;
                self.write_row(change, plan, moved)
            }
            TableAlgorithm::Cls | TableAlgorithm::Gos | TableAlgorithm::Dws | TableAlgorithm::Aws => {
                self.write_row(change, plan, moved)
            }
        }
    }

    /// Keeps blocks of this site that lost before the server had acknowledged them.
    fn keep_lost_entries(
        &self,
        change: &Change<'_>,
        former: &Registers,
        lost: &[(ColumnId, LostEntry)],
    ) -> Result<()> {
        let table = &*change.table;
        let own = self.replica.own();
        for (id, entry) in lost {
            let sent = former.get(id).map_or(shared_format::Hlc::ZERO, |kept| kept.own.sent_hlc);
            let Some(at) = table.position(*id).filter(|_| entry.stamp.site == own && entry.stamp.hlc > sent)
            else {
                continue;
            };
            let conflict = Conflict {
                column: &table.columns[at].name,
                lost: (entry.value.as_ref(), entry.stamp),
                won: (entry.won_value.as_ref(), entry.won_stamp),
                reason: Reason::Algorithm(table.rules.of(*id).algorithm()),
            };
            record(self.replica.connection, table, &change.key_values(), &[conflict], self.corrected_ms)?;
        }
        Ok(())
    }
}

/// A plan with all that it writes.
struct Decided {
    plan: shared_format::Plan,
    /// Values that move between row and tombstone, and visible values of registers; all are shown.
    moved: Vec<(ColumnId, Value)>,
    /// Registers of the row, if it is alive.
    registers: Registers,
    /// Registers to keep beside the row, if it is not.
    parked: Vec<(ColumnId, Value)>,
    lost: Vec<(ColumnId, LostEntry)>,
}

/// Answers what merge asks.
struct Asked<'a, 'h, 'c> {
    held: Held<'h, 'c>,
    change: &'a Change<'a>,
    former: &'a Registers,
    state: &'a RowState,
    rules: &'a Rules,
}

impl RowValues for Asked<'_, '_, '_> {
    type Error = Error;

    fn tie(&mut self, index: usize) -> Result<Ordering> {
        self.held.compare(index)
    }

    fn incoming(&mut self, index: usize) -> Result<ValueRef<'_>> {
        Ok(self.change.values[index].as_value())
    }

    fn register(&mut self, column: ColumnId) -> Result<Option<Register>> {
        let rule = self.rules.of(column);
        if !self.state.is_alive() {
            return match self.held.value_of(column)? {
                Some(Value::Blob(bytes)) => Ok(Register::decode(rule, &bytes).map(Some)?),
                _none => Ok(None),
            };
        }
        if let Some(kept) = self.former.get(&column) {
            return Ok(Some(kept.register.clone()));
        }
        if self.state.cell(column) == Some(Stamp::ZERO) {
            return Ok(None);
        }
        // A row of which nobody has heard yet starts from what it holds.
        let value = self.held.value_of(column)?.unwrap_or(Value::Null);
        Ok(Register::new(rule).map(|register| register.with_start(self.state.life_stamp(), value)))
    }
}

impl Asked<'_, '_, '_> {
    /// Turns merged registers into values to write, to park and to keep.
    fn carry(mut self, merged: RulesPlan) -> Result<Decided> {
        let table = &*self.change.table;
        let mut plan = merged.plan;
        let mut moved = self.held.moved(&plan)?;
        let mut registers = Registers::new();
        if !merged.replaces_registers {
            registers.clone_from(self.former);
        }
        let (mut parked, mut lost) = (Vec::new(), Vec::new());
        for one in merged.registers {
            let id = one.column;
            lost.extend(one.lost.into_iter().map(|entry| (id, entry)));
            if !plan.state.is_alive() {
                parked.push((id, Value::Blob(one.register.encode())));
                continue;
            }
            let visible = one.register.visible(self.rules.of(id), default_of(table, id));
            let is_same =
                plan.write == RowWrite::Update && self.held.value_of(id)?.as_ref() == Some(&visible);
            if !is_same {
                plan.show.push(id);
                moved.push((id, visible));
            }
            let own = self.former.get(&id).map_or_else(OwnEntries::default, |kept| kept.own);
            registers.insert(id, KeptRegister { own, register: one.register });
        }
        // A register may change without what a user sees of it.
        if plan.write == RowWrite::Update && plan.show.is_empty() && !plan.cells.contains(&CellOutcome::Taken)
        {
            plan.write = RowWrite::Keep;
        }
        Ok(Decided { plan, moved, registers, parked, lost })
    }
}

fn default_of(table: &TrackedTable, id: ColumnId) -> ValueRef<'_> {
    table.defaults.get(&id).map_or(ValueRef::Null, Value::as_ref)
}
