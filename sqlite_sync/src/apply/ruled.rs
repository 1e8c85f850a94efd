//! What is different in the merge of a table whose rows or columns have an algorithm of their own.

use std::cmp::Ordering;

use shared_format::payload::TableAlgorithm;
use shared_format::{
    CellOutcome, ColumnId, KeptRegister, LostEntry, OwnEntries, Plan, Register, RowState, RowValues,
    RowWrite, Rules, RulesPlan, Stamp, Value, ValueRef, merge_with,
};

use super::Session;
use super::incoming::Change;
use super::row::{Decided, Held, incoming, parked_values};
use crate::conflicts::{Conflict, Reason, record};
use crate::error::{Error, Result};
use crate::guards;
use crate::metadata::Registers;

impl Session<'_, '_> {
    /// Writes the row past the triggers that hold users to the table's algorithm.
    pub(super) fn write_guarded(
        &mut self,
        change: &Change<'_>,
        plan: &Plan,
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
    pub(super) fn keep_lost_entries(
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

/// What becomes of a change under the table's rules; None when nothing changes.
pub(super) fn decide_by_rules(
    change: &Change<'_>,
    local: &RowState,
    former: &Registers,
    held: Held<'_, '_>,
) -> Result<Option<Decided>> {
    let rules = &change.table.rules;
    let mut asked = Asked { held, change, former, state: local, rules };
    let uncarried = change.uncarried();
    let merged = merge_with(local, &incoming(change, &uncarried), rules, &mut asked)?;
    if merged.plan.changed { asked.carry(merged).map(Some) } else { Ok(None) }
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
    /// Turns merged registers into values to write and to keep.
    fn carry(mut self, merged: RulesPlan) -> Result<Decided> {
        let table = &*self.change.table;
        let mut plan = merged.plan;
        let mut moved = self.held.moved(&plan)?;
        let mut registers = Registers::new();
        if !merged.replaces_registers {
            registers.clone_from(self.former);
        }
        let mut kept = parked_values(self.change, &plan, &moved);
        let mut lost = Vec::new();
        for one in merged.registers {
            let id = one.column;
            lost.extend(one.lost.into_iter().map(|entry| (id, entry)));
            if !plan.state.is_alive() {
                kept.retain(|(known, _)| *known != id);
                kept.push((id, Value::Blob(one.register.encode())));
                continue;
            }
            let visible = one.register.visible(self.rules.of(id), table.default_of(id));
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
        Ok(Decided { plan, moved, kept, registers, lost })
    }
}
