//! From the plans of merge to one write per row: several changes of a row in one payload are merged one after
//! the other, and written once.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use schema_mapping::to_postgres_text;
use shared_format::{
    CellOutcome, ColumnId, Plan, Register, RowState, RowWrite, SiteId, Stamp, merge, merge_unseen,
};

use super::author::Author;
use super::incoming::{Change, IncomingRow};
use super::local::Local;
use crate::catalog::Tracked;
use crate::error::SyncError;
use crate::ruled::Registers;
use crate::sorted::Sorted;
use crate::stage::Expected;

/// What happens to the stored row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Write {
    /// Nothing, or metadata alone.
    Nothing,
    Insert,
    Update,
    /// The row becomes another: columns that are not asked for go to their defaults.
    Replace,
    Delete,
}

/// What is to be done with one row.
#[derive(Debug)]
pub(super) struct Decision {
    pub(super) write: Write,
    pub(super) state: RowState,
    /// Values to write, by place among the columns.
    pub(super) asked: Sorted<usize, Expected>,
    /// Values beside the tombstone, by place.
    pub(super) parked: BTreeMap<usize, Expected>,
    /// Which of them came with this payload, and have to travel on.
    pub(super) newly_parked: Vec<usize>,
    /// Whether a deletion that needs no data statement has to travel on.
    pub(super) buried: bool,
    pub(super) changed: bool,
    /// Cells of the author that another site's write stands above.
    pub(super) lost: Vec<LostCell>,
    /// Registers of the row afterwards, and what came for them: place, stamp to travel under, entries of one site.
    pub(super) registers: Registers,
    pub(super) travels: Vec<(usize, Stamp, Register)>,
}

/// A cell that lost.
#[derive(Clone, Debug)]
pub(super) struct LostCell {
    /// Its place among the columns.
    pub(super) place: usize,
    /// Its stamp.
    pub(super) stamp: Stamp,
    /// What it held, in the text form of its type.
    pub(super) value: Option<String>,
    /// The stamp that stays.
    pub(super) won: Stamp,
    /// Whether the row is here.
    pub(super) is_alive: bool,
}

/// The row while its changes are merged.
pub(super) struct Draft<'a> {
    pub(super) table: &'a Tracked,
    local: &'a Local,
    pub(super) state: RowState,
    exists: bool,
    replaced: bool,
    pub(super) asked: Sorted<usize, Expected>,
    pub(super) parked: BTreeMap<usize, Expected>,
    pub(super) newly_parked: Vec<usize>,
    pub(super) registers: Registers,
    pub(super) travels: Vec<(usize, Stamp, Register)>,
    pub(super) changed: bool,
    pub(super) author: Author,
    pub(super) here: SiteId,
    /// By place, the author's greatest stamp that did not stay, and its value.
    lost: BTreeMap<usize, (Stamp, Expected)>,
}

/// Merges the changes of a row into what is here.
pub(super) fn decide(
    table: &Tracked,
    row: &IncomingRow,
    local: &Local,
    parked: BTreeMap<usize, Expected>,
    (author, here): (Author, SiteId),
) -> Result<Decision, SyncError> {
    let is_plain = table.ruled.rules.are_plain();
    if is_plain && let Some(decision) = decide_unseen(row, local, &parked, author) {
        return Ok(decision);
    }
    let mut draft = Draft {
        table,
        local,
        state: local.state.clone(),
        exists: local.values.is_some(),
        replaced: false,
        asked: Sorted::default(),
        parked,
        newly_parked: Vec::new(),
        registers: local.registers.clone(),
        travels: Vec::new(),
        changed: false,
        author,
        here,
        lost: BTreeMap::new(),
    };
    for change in &row.changes {
        let restamped = draft.author.restamped(change, &draft.state, draft.here);
        let change = restamped.as_ref().unwrap_or(change);
        if is_plain { draft.merge(change)? } else { draft.merge_by_rules(change)? }
    }
    Ok(draft.finish())
}

/// The short way for a creation of a row that was never here.
fn decide_unseen(
    row: &IncomingRow,
    local: &Local,
    parked: &BTreeMap<usize, Expected>,
    author: Author,
) -> Option<Decision> {
    let [change] = row.changes.as_slice() else { return None };
    let is_unseen = local.metadata.is_none() && local.values.is_none() && parked.is_empty();
    if !is_unseen || !author.speaks_for(change.stamp.site) {
        return None;
    }
    let state = merge_unseen(&change.as_merged())?;
    Some(Decision {
        write: Write::Insert,
        state,
        asked: change.values.iter().cloned().collect(),
        parked: BTreeMap::new(),
        newly_parked: Vec::new(),
        buried: false,
        changed: true,
        lost: Vec::new(),
        registers: Registers::new(),
        travels: Vec::new(),
    })
}

impl Draft<'_> {
    pub(super) fn place(&self, column: ColumnId) -> Option<usize> {
        self.table.columns.iter().position(|known| known.column_id() == column)
    }

    /// The value that the row holds, or will hold, in a column.
    pub(super) fn value(&self, place: usize) -> Expected {
        if let Some(asked) = self.asked.get(&place) {
            return asked.clone();
        }
        if self.replaced {
            return Expected::default();
        }
        let value = self.local.values.as_ref().and_then(|values| values.get(place).copied().flatten());
        Expected { value, sent: None }
    }

    fn merge(&mut self, change: &Change) -> Result<(), SyncError> {
        let incoming = change.as_merged();
        let mut tie = |at: usize| Ok::<_, SyncError>(self.tie(change, at));
        let plan = merge(&self.state, &incoming, &mut tie)?;
        self.note_lost(change, &plan);
        if plan.changed {
            self.changed = true;
            self.follow(change, plan);
        }
        Ok(())
    }

    pub(super) fn tie(&self, change: &Change, at: usize) -> Ordering {
        let is_borrowed = change.cells.get(at).is_some_and(|cell| !self.author.speaks_for(cell.stamp.site));
        if is_borrowed {
            // What its author wrote under this stamp is held here.
            return Ordering::Equal;
        }
        let Some((place, incoming)) = change.values.get(at) else { return Ordering::Equal };
        let Some(column) = self.table.columns.get(*place) else { return Ordering::Equal };
        let held = if self.exists { Some(self.value(*place)) } else { self.parked.get(place).cloned() };
        let held = held.and_then(|held| held.value);
        column.codec.value(incoming.value).cmp_encoded(&column.codec.value(held))
    }

    pub(super) fn note_lost(&mut self, change: &Change, plan: &Plan) {
        let cells = change.cells.iter().zip(&change.values).zip(&plan.cells);
        for ((cell, (place, value)), outcome) in cells {
            let is_beaten = matches!(outcome, CellOutcome::Lost | CellOutcome::Void);
            let is_greatest = self.lost.get(place).is_none_or(|(known, _)| *known < cell.stamp);
            // A register is joined, whatever its stamp.
            let is_plain = !self.table.ruled.is_register(cell.column);
            if is_plain && is_beaten && is_greatest && self.author.site() == Some(cell.stamp.site) {
                self.lost.insert(*place, (cell.stamp, value.clone()));
            }
        }
    }

    /// What is told of the cells that did not stay: those above which another site wrote something else.
    fn told(&self) -> Vec<LostCell> {
        let is_alive = self.state.is_alive();
        let cells = self.lost.iter().filter_map(|(place, (stamp, value))| {
            let column = self.table.columns.get(*place)?;
            let won = self.state.stamp_of(column.column_id()).max(self.state.life_stamp());
            let is_same = || {
                let held = column.codec.value(self.value(*place).value);
                column.codec.value(value.value).cmp_encoded(&held) == Ordering::Equal
            };
            let is_lost = won > *stamp && won.site != stamp.site && !(is_alive && is_same());
            let printed = || {
                let text = to_postgres_text(column.codec.value(value.value)).ok().flatten();
                text.map(std::borrow::Cow::into_owned)
            };
            is_lost.then(|| LostCell { place: *place, stamp: *stamp, value: printed(), won, is_alive })
        });
        cells.collect()
    }

    pub(super) fn follow(&mut self, change: &Change, plan: Plan) {
        let parked: Vec<usize> = plan.park.iter().filter_map(|column| self.place(*column)).collect();
        let shown: Vec<usize> = plan.show.iter().filter_map(|column| self.place(*column)).collect();
        match plan.write {
            RowWrite::Keep | RowWrite::Update => {}
            RowWrite::Insert => {
                self.asked.clear();
                self.replaced = true;
                self.exists = true;
            }
            RowWrite::Replace => self.replace(&plan),
            RowWrite::Delete => {
                for place in parked {
                    self.parked.insert(place, self.value(place));
                }
                self.asked.clear();
                self.exists = false;
            }
        }
        for place in shown {
            if let Some(value) = self.parked.remove(&place) {
                self.asked.insert(place, value);
            }
        }
        for ((place, value), outcome) in change.values.iter().zip(&plan.cells) {
            match outcome {
                CellOutcome::Taken => {
                    self.asked.insert(*place, value.clone());
                }
                CellOutcome::Parked => {
                    self.parked.insert(*place, value.clone());
                    self.newly_parked.push(*place);
                }
                CellOutcome::Void | CellOutcome::Lost | CellOutcome::Same => {}
            }
        }
        self.state = plan.state;
        if self.exists {
            self.parked.clear();
            self.newly_parked.clear();
        } else {
            let state = &self.state;
            let columns = &self.table.columns;
            let is_parked = |place: &usize| {
                columns.get(*place).is_some_and(|column| state.cell(column.column_id()).is_some())
            };
            self.parked.retain(|place, _| is_parked(place));
            self.newly_parked.retain(is_parked);
        }
    }

    /// A live row becomes another: what is newer than the new base keeps its value.
    fn replace(&mut self, plan: &Plan) {
        let base = plan.state.life_stamp();
        let kept = plan.state.cells.iter().filter(|cell| cell.stamp > base);
        let kept: Vec<usize> = kept.filter_map(|cell| self.place(cell.column)).collect();
        self.asked = kept.into_iter().map(|place| (place, self.value(place))).collect();
        self.replaced = true;
    }

    fn finish(self) -> Decision {
        let write = match (self.local.values.is_some(), self.exists) {
            (false, false) => Write::Nothing,
            (false, true) => Write::Insert,
            (true, false) => Write::Delete,
            (true, true) if self.replaced => Write::Replace,
            (true, true) if !self.asked.is_empty() => Write::Update,
            (true, true) => Write::Nothing,
        };
        let lost = self.told();
        let died = !self.exists && self.state.life != self.local.state.life;
        Decision {
            write,
            buried: write == Write::Nothing && died,
            state: self.state,
            asked: self.asked,
            parked: self.parked,
            newly_parked: self.newly_parked,
            changed: self.changed,
            lost,
            registers: self.registers,
            travels: self.travels,
        }
    }
}
