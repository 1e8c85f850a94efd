//! Merge of the rows of ruled tables: what merge asks of the row, and what becomes of registers.

use std::cmp::Ordering;

use shared_format::{
    KeptRegister, OwnEntries, Register, RowState, RowValues, RulesPlan, Stamp, Value, ValueRef, merge_with,
};

use super::author::Author;
use super::decide::Draft;
use super::incoming::Change;
use crate::edge::codec;
use crate::error::SyncError;
use crate::ruled::{by_site, kept};
use crate::stage::Expected;

impl Draft<'_> {
    /// Merges one change by the table's rules.
    pub(super) fn merge_by_rules(&mut self, change: &Change) -> Result<(), SyncError> {
        let own = self.without_foreign_entries(change)?;
        let change = own.as_ref().unwrap_or(change);
        let incoming = change.as_merged();
        let state: RowState = self.state.clone();
        let mut asked = Asked { draft: self, change, scratch: Value::Null };
        let merged = merge_with(&state, &incoming, &self.table.ruled.rules, &mut asked)?;
        self.note_lost(change, &merged.plan);
        if merged.plan.changed {
            self.changed = true;
            self.take(change, merged)?;
        }
        Ok(())
    }

    /// The change of a site with its own entries only, where its registers hold those of others: what these wrote came
    /// here from them, and what did not is nothing that this site may say. Counted twice if it were taken as a write of
    /// this database, as a cell is, since its author sends it as well.
    fn without_foreign_entries(&self, change: &Change) -> Result<Option<Change>, SyncError> {
        let Author::Site(site) = self.author else { return Ok(None) };
        let mut own: Option<Change> = None;
        for at in 0..change.values.len() {
            let Some(mut register) = change.register(at, self.table)? else { continue };
            let whole = register.clone();
            register.keep_only_of(site);
            if register == whole {
                continue;
            }
            let own = own.get_or_insert_with(|| change.clone());
            if let Some((_, expected)) = own.values.get_mut(at) {
                expected.value = Some(codec::bytea(&register.encode()));
            }
        }
        Ok(own)
    }

    fn take(&mut self, change: &Change, merged: RulesPlan) -> Result<(), SyncError> {
        let former = self.registers.clone();
        self.follow(change, merged.plan);
        if merged.replaces_registers {
            self.registers.clear();
        }
        for one in merged.registers {
            let id = one.column;
            let Some(place) = self.place(id) else { continue };
            if !self.state.is_alive() {
                let bytes = Some(codec::bytea(&one.register.encode()));
                self.parked.insert(place, Expected { value: bytes, sent: None });
                self.newly_parked.push(place);
                continue;
            }
            let visible = self.table.ruled.visible(id, &one.register);
            let column = self.table.columns.get(place);
            let value = column.and_then(|column| column.codec.datum(visible.as_ref()));
            self.asked.insert(place, Expected { value, sent: None });
            let own = former.get(&id).map_or_else(OwnEntries::default, |kept| kept.own);
            self.registers.insert(id, KeptRegister { own, register: one.register });
        }
        for (at, (place, _)) in change.values.iter().enumerate() {
            let Some(register) = change.register(at, self.table)? else { continue };
            for (stamp, part) in by_site(&register) {
                // Under the name of the site itself, that would drop what it never wrote as its own echo.
                let own = Stamp { hlc: stamp.hlc.next(), site: self.here };
                let stamp = if self.author.speaks_for(stamp.site) { stamp } else { own };
                self.travels.push((*place, stamp, part));
            }
        }
        Ok(())
    }
}

/// Answers what merge asks.
struct Asked<'a, 'd> {
    draft: &'a Draft<'d>,
    change: &'a Change,
    /// The value that merge is looking at.
    scratch: Value,
}

impl RowValues for Asked<'_, '_> {
    type Error = SyncError;

    fn tie(&mut self, index: usize) -> Result<Ordering, SyncError> {
        Ok(self.draft.tie(self.change, index))
    }

    fn incoming(&mut self, index: usize) -> Result<ValueRef<'_>, SyncError> {
        let Some((place, incoming)) = self.change.values.get(index) else { return Ok(ValueRef::Null) };
        if let Some(register) = self.change.register(index, self.draft.table)? {
            self.scratch = Value::Blob(register.encode());
        } else if let Some(column) = self.draft.table.columns.get(*place) {
            self.scratch = kept(column.codec.value(incoming.value));
        }
        Ok(self.scratch.as_ref())
    }

    fn register(&mut self, column: shared_format::ColumnId) -> Result<Option<Register>, SyncError> {
        let draft = self.draft;
        let rule = draft.table.ruled.rules.of(column);
        let Some(place) = draft.place(column) else { return Ok(None) };
        if !draft.state.is_alive() {
            let parked = draft.parked.get(&place).and_then(|parked| parked.value);
            return Ok(match parked {
                Some(bytes) => Some(Register::decode(rule, &codec::to_bytes(bytes))?),
                None => None,
            });
        }
        if let Some(kept) = draft.registers.get(&column) {
            return Ok(Some(kept.register.clone()));
        }
        if draft.state.cell(column) == Some(Stamp::ZERO) {
            return Ok(None);
        }
        // A row that was written while capture was off starts from what it holds.
        let held =
            draft.table.columns.get(place).map(|known| kept(known.codec.value(draft.value(place).value)));
        let held = held.unwrap_or(Value::Null);
        Ok(Register::new(rule).map(|register| register.with_start(draft.state.life_stamp(), held)))
    }
}
