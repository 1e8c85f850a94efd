//! The laws of merge for every algorithm, over generated histories of five to seven replicas that write, lose,
//! repeat and reorder what they send, and are cut into parts that do not hear each other.
//!
//! `SEED=<n>` runs one history again.

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::cmp::Ordering;

use super::laws::{Random, for_each_seed};
use super::{
    CellOutcome, Incoming, Local, LogPlace, RowKind, RowRegisters, RowValues, RowWrite, Rules, merge_with,
};
use crate::clock::{Hlc, SiteId, Stamp};
use crate::error::FormatError;
use crate::payload::TableAlgorithm;
use crate::register::{ColumnRule, Register};
use crate::row_state::{CellStamp, ColumnId, LocalWrite};
use crate::value::{Value, ValueRef};

const LWW: ColumnId = ColumnId::new(1);
const COUNTER: ColumnId = ColumnId::new(2);
const MAX: ColumnId = ColumnId::new(3);
const MIN: ColumnId = ColumnId::new(4);
const BLOCK: ColumnId = ColumnId::new(5);
const LEFT: ColumnId = ColumnId::new(6);
const RIGHT: ColumnId = ColumnId::new(7);
const ALL: [ColumnId; 7] = [LWW, COUNTER, MAX, MIN, BLOCK, LEFT, RIGHT];

/// What a column that a creation did not carry holds.
fn default_of(column: ColumnId) -> ValueRef<'static> {
    if column == COUNTER { ValueRef::Integer(7) } else { ValueRef::Null }
}

fn rules(table: TableAlgorithm, columns: &[ColumnId]) -> Rules {
    let group = |rank| ColumnRule::Group { name: "pair".into(), rank };
    let all = [
        (COUNTER, ColumnRule::Counter),
        (MAX, ColumnRule::Max),
        (MIN, ColumnRule::Min),
        (BLOCK, ColumnRule::Block { delimiter: "\n".into() }),
        (LEFT, group(0)),
        (RIGHT, group(1)),
    ];
    Rules { table, columns: all.into_iter().filter(|(id, _)| columns.contains(id)).collect() }
}

/// A change as it travels.
#[derive(Clone, Debug)]
struct Change {
    kind: RowKind,
    stamp: Stamp,
    cells: Vec<(CellStamp, Value)>,
}

/// A replica's row as a shell keeps it: metadata, the user's row, parked values.
#[derive(Clone, Debug, Default, PartialEq)]
struct Replica {
    row: RowRegisters,
    live: BTreeMap<ColumnId, Value>,
    parked: BTreeMap<ColumnId, Value>,
}

/// What merge asks of a replica.
struct Asked<'a> {
    replica: &'a Replica,
    rules: &'a Rules,
    change: &'a Change,
}

impl RowValues for Asked<'_> {
    type Error = FormatError;

    fn tie(&mut self, index: usize) -> Result<Ordering, FormatError> {
        let (cell, value) = &self.change.cells[index];
        let replica = self.replica;
        let held = if replica.row.state.is_alive() { &replica.live } else { &replica.parked };
        Ok(value.as_ref().cmp_encoded(&held[&cell.column].as_ref()))
    }

    fn incoming(&mut self, index: usize) -> Result<ValueRef<'_>, FormatError> {
        Ok(self.change.cells[index].1.as_ref())
    }

    fn register(&mut self, column: ColumnId) -> Result<Option<Register>, FormatError> {
        if self.replica.row.state.is_alive() {
            return Ok(self.replica.row.registers.get(&column).map(|kept| kept.register.clone()));
        }
        match self.replica.parked.get(&column) {
            Some(Value::Blob(bytes)) => Register::decode(self.rules.of(column), bytes).map(Some),
            _none => Ok(None),
        }
    }
}

impl Replica {
    /// Merges a change; `columns` are those that the replica has.
    fn apply(&mut self, rules: &Rules, columns: &[ColumnId], change: &Change) -> bool {
        let mut change = change.clone();
        change.cells.retain(|(cell, _)| columns.contains(&cell.column));
        let stamps: Vec<CellStamp> = change.cells.iter().map(|(cell, _)| *cell).collect();
        let is_carried = |column: &ColumnId| stamps.iter().any(|cell| cell.column == *column);
        let mut uncarried: Vec<ColumnId> = columns.iter().copied().filter(|c| !is_carried(c)).collect();
        if change.kind != RowKind::Created {
            uncarried.clear();
        }
        let incoming =
            Incoming { kind: change.kind, stamp: change.stamp, cells: &stamps, uncarried: &uncarried };
        let before = self.clone();
        let mut asked = Asked { replica: &before, rules, change: &change };
        let merged = merge_with(&self.row.state, &incoming, rules, &mut asked).unwrap();
        let plan = merged.plan;
        for column in &plan.park {
            self.parked.insert(*column, self.live[column].clone());
        }
        match plan.write {
            RowWrite::Keep | RowWrite::Update => {}
            RowWrite::Delete => self.live.clear(),
            RowWrite::Insert | RowWrite::Replace => {
                let base = plan.state.life_stamp();
                let keeps = |id: ColumnId| plan.state.cell(id).is_some_and(|stamp| stamp > base);
                for column in columns {
                    if plan.write == RowWrite::Insert || !keeps(*column) {
                        self.live.insert(*column, default_of(*column).to_owned_value());
                    }
                }
            }
        }
        for column in &plan.show {
            self.live.insert(*column, self.parked[column].clone());
        }
        for ((cell, value), outcome) in change.cells.iter().zip(&plan.cells) {
            match outcome {
                CellOutcome::Taken => drop(self.live.insert(cell.column, value.clone())),
                CellOutcome::Parked => drop(self.parked.insert(cell.column, value.clone())),
                CellOutcome::Void | CellOutcome::Lost | CellOutcome::Same => {}
            }
        }
        let former = core::mem::take(&mut self.row.registers);
        if !merged.replaces_registers {
            self.row.registers.clone_from(&former);
        }
        for merged in merged.registers {
            let column = merged.column;
            if plan.state.is_alive() {
                let visible = merged.register.visible(rules.of(column), default_of(column));
                self.live.insert(column, visible);
                let own = former.get(&column).map(|kept| kept.own).unwrap_or_default();
                let kept = super::KeptRegister { own, register: merged.register };
                self.row.registers.insert(column, kept);
            } else {
                self.parked.insert(column, Value::Blob(merged.register.encode()));
            }
        }
        if plan.state.is_alive() {
            self.parked.clear();
        } else {
            assert!(self.row.registers.is_empty(), "registers go with their row: {change:?} on {before:?}");
            self.parked.retain(|column, _| plan.state.cell(*column).is_some());
        }
        self.row.state = plan.state;
        assert_eq!(plan.changed, *self != before, "changed says what happened: {change:?} on {before:?}");
        self.check_invariants(rules);
        plan.changed
    }

    /// Everything but what only this file knows.
    fn shared(&self) -> Replica {
        let mut shared = self.clone();
        shared.row.registers.values_mut().for_each(|kept| kept.own = crate::register::OwnEntries::default());
        shared
    }

    fn check_invariants(&self, rules: &Rules) {
        let state = &self.row.state;
        assert!(state.cells.is_sorted_by(|a, b| a.column < b.column));
        let life = state.life_stamp();
        for cell in &state.cells {
            let uncarried = state.is_alive() && cell.stamp == Stamp::ZERO;
            assert!(uncarried || cell.stamp > life || state.life.is_none(), "{self:?}");
        }
        for (column, kept) in &self.row.registers {
            let greatest = kept.register.greatest();
            let stamp = state.cell(*column).filter(|stamp| *stamp != Stamp::ZERO);
            assert_eq!(stamp, greatest, "{column:?} {self:?}");
            let visible = kept.register.visible(rules.of(*column), default_of(*column));
            assert_eq!(self.live[column], visible, "{column:?}");
            let stored = super::KeptRegister::decode(rules.of(*column), &kept.encode()).unwrap();
            assert_eq!(&stored, kept);
        }
        if !state.is_alive() {
            let columns: Vec<_> = state.cells.iter().map(|cell| cell.column).collect();
            assert_eq!(columns, self.parked.keys().copied().collect::<Vec<_>>(), "{self:?}");
        }
    }

    /// The user's write of some columns, or of the whole row, or a deletion; returns what is sent.
    fn write(&mut self, rules: &Rules, write: LocalWrite<'_>, wall_ms: i64, site: SiteId) -> Option<Change> {
        let live = self.live.clone();
        let now = |column: ColumnId| {
            (live.get(&column).map_or(ValueRef::Null, |value| value.as_ref()), default_of(column))
        };
        let log = LogPlace { seq: wall_ms + 1, acknowledged: wall_ms / 2 };
        let put_back = self.row.write_local(rules, &Local { write, now: &now, wall_ms, site, log });
        for (column, _) in put_back {
            let register = &self.row.registers[&column].register;
            self.live.insert(column, register.visible(rules.of(column), default_of(column)));
        }
        let state = &self.row.state;
        if !state.is_alive() {
            self.live.clear();
            self.parked.clear();
            let life = state.life?;
            return Some(Change { kind: RowKind::Deleted, stamp: life.stamp, cells: vec![] });
        }
        let is_whole = state.cells.is_empty();
        self.parked.clear();
        self.check_invariants(rules);
        match write {
            LocalWrite::Update(columns) if !is_whole => {
                let mut cells = Vec::new();
                for column in rules.with_groups(columns) {
                    cells.extend(self.own_cell(rules, column, site));
                }
                let stamp = cells.first()?.0.stamp;
                Some(Change { kind: RowKind::Cells, stamp, cells })
            }
            LocalWrite::Update(_) | LocalWrite::Create | LocalWrite::Delete => self.whole().pop(),
        }
    }

    fn own_cell(&self, rules: &Rules, column: ColumnId, site: SiteId) -> Option<(CellStamp, Value)> {
        if rules.of(column).is_register() {
            let own = self.row.registers.get(&column)?.register.written_by(site, Hlc::ZERO)?;
            let stamp = own.greatest()?;
            return Some((CellStamp { column, stamp }, Value::Blob(own.encode())));
        }
        let stamp = self.row.state.cell(column)?;
        Some((CellStamp { column, stamp }, self.live[&column].clone()))
    }

    /// Everything that the replica knows of the row, as changes.
    fn whole(&self) -> Vec<Change> {
        let state = &self.row.state;
        let stamp = state.life_stamp();
        let mut changes = Vec::new();
        if state.is_alive() {
            let mut cells = Vec::new();
            for (column, value) in &self.live {
                let own = state.cell(*column);
                let register = self.row.registers.get(column).map(|kept| &kept.register);
                let value = match (own, register) {
                    (Some(Stamp::ZERO), _) => continue,
                    (Some(_), Some(register)) => Value::Blob(register.encode()),
                    (Some(_) | None, _) => value.clone(),
                };
                cells.push((CellStamp { column: *column, stamp: own.unwrap_or(stamp) }, value));
            }
            changes.push(Change { kind: RowKind::Created, stamp, cells });
            return changes;
        }
        if state.life.is_some() {
            changes.push(Change { kind: RowKind::Deleted, stamp, cells: vec![] });
        }
        let cells: Vec<_> =
            state.cells.iter().map(|cell| (*cell, self.parked[&cell.column].clone())).collect();
        if let Some((first, _)) = cells.first() {
            changes.push(Change { kind: RowKind::Cells, stamp: first.stamp, cells });
        }
        changes
    }
}

fn site(at: usize) -> SiteId {
    SiteId::from_bytes([u8::try_from(at).unwrap() + 1; 16])
}

/// A value that a user might write over the one there.
fn written_value(random: &mut Random, column: ColumnId, held: Option<&Value>) -> Value {
    let small = |random: &mut Random| i64::try_from(random.below(20)).unwrap();
    match column {
        COUNTER => match (held, random.below(8)) {
            (_, 0) => Value::Text("not a number".into()),
            (_, 1) => Value::Integer(small(random)),
            (Some(Value::Integer(held)), _) => Value::Integer(held.wrapping_add(small(random) - 5)),
            _other => Value::Integer(small(random)),
        },
        MAX | MIN => match random.below(6) {
            0 => Value::Null,
            1 => Value::Text("text".into()),
            2 => Value::Real(f64::from(u8::try_from(random.below(40)).unwrap()) / 2.0),
            _other => Value::Integer(small(random)),
        },
        BLOCK => written_text(random, held),
        _plain => Value::Integer(small(random)),
    }
}

fn written_text(random: &mut Random, held: Option<&Value>) -> Value {
    let word = |random: &mut Random| ["a", "b", "c", "", "long line"][random.below(5)].to_string();
    let mut lines: Vec<String> = match held {
        Some(Value::Text(text)) => text.split('\n').map(String::from).collect(),
        _other => vec![],
    };
    for _ in 0..1 + random.below(3) {
        let at = random.below(lines.len() + 1);
        match random.below(4) {
            0 if at < lines.len() => drop(lines.remove(at)),
            1 if at < lines.len() => lines[at] = word(random),
            _other => lines.insert(at, word(random)),
        }
    }
    match random.below(12) {
        0 => Value::Null,
        1 => Value::Blob(vec![1]),
        _other => Value::Text(lines.join("\n")),
    }
}

/// Lets replicas write and hear of each other; returns them with everything that was sent.
fn history(random: &mut Random, rules: &Rules, columns: &[ColumnId]) -> (Vec<Replica>, Vec<Change>) {
    let mut replicas: Vec<Replica> = vec![Replica::default(); 5 + random.below(3)];
    let mut parts: Vec<usize> = vec![0; replicas.len()];
    let mut changes: Vec<(usize, Change)> = Vec::new();
    for step in 0..20 + random.below(30) {
        let at = random.below(replicas.len());
        if random.below(10) == 0 {
            parts.iter_mut().for_each(|part| *part = random.below(2));
        }
        if !changes.is_empty() && random.below(2) == 0 {
            let (from, change) = &changes[random.below(changes.len())];
            if parts[*from] == parts[at] {
                replicas[at].apply(rules, columns, change);
            }
            continue;
        }
        let replica = &mut replicas[at];
        let wall_ms = i64::try_from(step / 4 + random.below(4)).unwrap();
        let is_alive = replica.row.state.is_alive();
        let is_dead = replica.row.state.life.is_some() && !is_alive;
        if is_dead && rules.table == TableAlgorithm::Dws && random.below(4) > 0 {
            continue;
        }
        let mut written = vec![];
        let write = match (is_alive, random.below(if is_alive { 8 } else { 1 })) {
            (false, _) => LocalWrite::Create,
            (true, 0) if rules.table != TableAlgorithm::Gos => LocalWrite::Delete,
            (true, 1) if rules.table == TableAlgorithm::Cls => LocalWrite::Create,
            (true, _) => {
                written = columns.iter().copied().filter(|_| random.below(3) == 0).collect();
                if written.is_empty() {
                    written.push(columns[random.below(columns.len())]);
                }
                LocalWrite::Update(&written)
            }
        };
        let filled = if matches!(write, LocalWrite::Create) { columns } else { &written };
        for column in filled {
            let value = written_value(random, *column, replica.live.get(column));
            replica.live.insert(*column, value);
        }
        let change = replica.write(rules, write, wall_ms, site(at));
        changes.extend(change.map(|change| (at, change)));
        if random.below(6) == 0 {
            changes.extend(replicas[at].whole().into_iter().map(|change| (at, change)));
        }
    }
    (replicas, changes.into_iter().map(|(_, change)| change).collect())
}

/// Everything is heard at last: in any order, more than once, by itself or summed up by others.
fn check(table: TableAlgorithm, columns: &[ColumnId]) {
    let rules = rules(table, columns);
    for_each_seed(200, |seed, random| {
        let (mut replicas, changes) = history(random, &rules, columns);
        let mut expected = Replica::default();
        for change in &changes {
            expected.apply(&rules, columns, change);
        }
        let hear = |replica: &mut Replica, random: &mut Random, parts: &mut Vec<Change>| {
            for _ in 0..random.below(6) {
                parts.extend(changes.get(random.below(changes.len().max(1))).cloned());
            }
            random.shuffle(parts);
            parts.iter().for_each(|change| {
                replica.apply(&rules, columns, change);
            });
        };
        for replica in &mut replicas {
            hear(replica, random, &mut changes.clone());
            assert_eq!(replica.shared(), expected.shared(), "SEED={seed}: {changes:#?}");
            for change in &changes {
                assert!(!replica.apply(&rules, columns, change), "SEED={seed}: twice is once: {change:?}");
            }
        }
        // A replica that lacks a column ends with the same values in the others.
        if let Some((_, fewer)) = columns.split_last().filter(|(_, fewer)| !fewer.is_empty()) {
            let mut narrow = Replica::default();
            let mut parts = changes.clone();
            random.shuffle(&mut parts);
            for change in &parts {
                narrow.apply(&rules, fewer, change);
            }
            let shared = expected.live.iter().filter(|(column, _)| fewer.contains(column));
            assert!(narrow.live.iter().eq(shared), "SEED={seed}: without a column: {changes:#?}");
        }
        let mut summed = Vec::new();
        for part in changes.chunks(1 + random.below(5)) {
            let mut between = Replica::default();
            part.iter().for_each(|change| {
                between.apply(&rules, columns, change);
            });
            summed.extend(between.whole());
        }
        let mut last = Replica::default();
        hear(&mut last, random, &mut summed);
        assert_eq!(last.shared(), expected.shared(), "SEED={seed}: in groups: {changes:#?}");
    });
}

#[test]
fn plain_columns_converge_in_every_order() {
    check(TableAlgorithm::Cls, &[LWW]);
}

#[test]
fn counters_converge_in_every_order() {
    check(TableAlgorithm::Cls, &[COUNTER]);
}

#[test]
fn greatest_values_converge_in_every_order() {
    check(TableAlgorithm::Cls, &[MAX]);
}

#[test]
fn least_values_converge_in_every_order() {
    check(TableAlgorithm::Cls, &[MIN]);
}

#[test]
fn text_by_blocks_converges_in_every_order() {
    check(TableAlgorithm::Cls, &[BLOCK]);
}

#[test]
fn groups_converge_in_every_order() {
    check(TableAlgorithm::Cls, &[LEFT, RIGHT]);
}

#[test]
fn columns_of_all_algorithms_converge_in_every_order() {
    check(TableAlgorithm::Cls, &ALL);
}

#[test]
fn grow_only_tables_converge_in_every_order() {
    check(TableAlgorithm::Gos, &[LWW, LEFT]);
}

#[test]
fn tables_whose_deletions_stand_converge_in_every_order() {
    check(TableAlgorithm::Dws, &ALL);
}

#[test]
fn tables_of_one_register_a_row_converge_in_every_order() {
    check(TableAlgorithm::Aws, &[LWW, LEFT]);
}
