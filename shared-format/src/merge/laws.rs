//! The laws of merge over generated histories: order, grouping and repetition do not matter.
//!
//! `SEED=<n>` runs one history again.

use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;
use core::cmp::Ordering;
use core::convert::Infallible;

use super::{CellOutcome, Incoming, RowKind, RowWrite, merge, merge_unseen, merges_into_nothing};
use crate::clock::{Hlc, SiteId, Stamp};
use crate::row_state::{CellStamp, ColumnId, LocalWrite, RowState};

const COLUMNS: [ColumnId; 4] = [ColumnId::new(1), ColumnId::new(2), ColumnId::new(3), ColumnId::new(4)];

/// A small random source: xorshift64*.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let bits = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(bits).unwrap() % bound
    }

    pub(super) fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, self.below(at + 1));
        }
    }
}

/// A change with its values.
#[derive(Clone, Debug)]
struct Change {
    kind: RowKind,
    stamp: Stamp,
    cells: Vec<(CellStamp, i64)>,
}

/// A replica's row as a shell would keep it: metadata, live values, parked values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Replica {
    state: RowState,
    row: BTreeMap<ColumnId, i64>,
    parked: BTreeMap<ColumnId, i64>,
}

impl Replica {
    fn apply(&mut self, change: &Change) -> bool {
        let stamps: Vec<CellStamp> = change.cells.iter().map(|(cell, _)| *cell).collect();
        let uncarried: Vec<ColumnId> = match change.kind {
            RowKind::Created => {
                COLUMNS.into_iter().filter(|c| stamps.iter().all(|cell| cell.column != *c)).collect()
            }
            RowKind::Cells | RowKind::Deleted => vec![],
        };
        let incoming =
            Incoming { kind: change.kind, stamp: change.stamp, cells: &stamps, uncarried: &uncarried };
        let held = if self.state.is_alive() { &self.row } else { &self.parked };
        let mut tie = |index: usize| -> Result<Ordering, Infallible> {
            let (cell, value) = change.cells[index];
            Ok(value.cmp(held.get(&cell.column).expect("merge asks about a value that is held")))
        };
        let plan = merge(&self.state, &incoming, &mut tie).unwrap();
        let mut stays = |index: usize| tie(index).is_ok_and(Ordering::is_le);
        let is_known = merges_into_nothing(&self.state, &incoming, &mut stays);
        assert_eq!(is_known, !plan.changed, "the short way decides as merge: {change:?} on {self:?}");
        let before = self.clone();
        for column in &plan.park {
            self.parked.insert(*column, self.row[column]);
        }
        match plan.write {
            RowWrite::Keep | RowWrite::Update => {}
            RowWrite::Insert | RowWrite::Delete => self.row.clear(),
            RowWrite::Replace => self.row.retain(|column, _| {
                plan.state.cell(*column).is_some_and(|stamp| stamp > plan.state.life_stamp())
            }),
        }
        for column in &plan.show {
            self.row.insert(*column, self.parked[column]);
        }
        for ((cell, value), outcome) in change.cells.iter().zip(&plan.cells) {
            match outcome {
                CellOutcome::Taken => drop(self.row.insert(cell.column, *value)),
                CellOutcome::Parked => drop(self.parked.insert(cell.column, *value)),
                CellOutcome::Void | CellOutcome::Lost | CellOutcome::Same => {}
            }
        }
        if plan.state.is_alive() {
            self.parked.clear();
        } else {
            self.parked.retain(|column, _| plan.state.cell(*column).is_some());
        }
        self.state = plan.state;
        assert_eq!(plan.changed, *self != before, "changed says what happened: {change:?} on {before:?}");
        self.check_invariants();
        plan.changed
    }

    fn check_invariants(&self) {
        assert!(self.state.cells.is_sorted_by(|a, b| a.column < b.column));
        let life = self.state.life_stamp();
        for cell in &self.state.cells {
            let uncarried = self.state.is_alive() && cell.stamp == Stamp::ZERO;
            assert!(uncarried || cell.stamp > life || self.state.life.is_none(), "{self:?}");
        }
        if !self.state.is_alive() {
            let columns: Vec<_> = self.state.cells.iter().map(|cell| cell.column).collect();
            assert_eq!(columns, self.parked.keys().copied().collect::<Vec<_>>(), "{self:?}");
        }
    }
}

fn stamp(random: &mut Random) -> Stamp {
    let hlc = Hlc::from_raw(1 + u64::try_from(random.below(12)).unwrap());
    Stamp { hlc, site: SiteId::from_bytes([u8::try_from(random.below(3)).unwrap(); 16]) }
}

/// Any change, also one that only copied files or clock faults could produce.
fn wild_change(random: &mut Random) -> Change {
    let kind = [RowKind::Cells, RowKind::Created, RowKind::Deleted][random.below(3)];
    let at = stamp(random);
    let known = if random.below(4) == 0 { 2 } else { COLUMNS.len() };
    let mut cells = Vec::new();
    for column in COLUMNS.into_iter().take(known) {
        let own = stamp(random);
        let value = i64::try_from(random.below(3)).unwrap();
        match kind {
            RowKind::Cells if random.below(2) == 0 => {
                cells.push((CellStamp { column, stamp: own }, value));
            }
            RowKind::Created => cells.push((CellStamp { column, stamp: own.max(at) }, value)),
            RowKind::Cells | RowKind::Deleted => {}
        }
    }
    Change { kind, stamp: at, cells }
}

/// Changes as sites really make them: each writes with its own clock on what it has seen.
fn real_history(random: &mut Random) -> Vec<Change> {
    let mut sites: Vec<Replica> = vec![Replica::default(); 5];
    let mut changes: Vec<Change> = Vec::new();
    for step in 0..12 + random.below(20) {
        let at = random.below(sites.len());
        let site = SiteId::from_bytes([u8::try_from(at).unwrap() + 1; 16]);
        if !changes.is_empty() && random.below(2) == 0 {
            let change = changes[random.below(changes.len())].clone();
            sites[at].apply(&change);
            continue;
        }
        let wall_ms = i64::try_from(random.below(6)).unwrap();
        let replica = &mut sites[at];
        let mut after = replica.state.clone();
        let value = i64::try_from(step).unwrap();
        let change = match (replica.state.is_alive(), random.below(3)) {
            (false, _) => {
                let stamp = after.write_local(LocalWrite::Create, wall_ms, site);
                let cells = COLUMNS.map(|column| (CellStamp { column, stamp }, value));
                Change { kind: RowKind::Created, stamp, cells: cells.to_vec() }
            }
            (true, 0) => {
                let stamp = after.write_local(LocalWrite::Delete, wall_ms, site);
                Change { kind: RowKind::Deleted, stamp, cells: vec![] }
            }
            (true, _) => {
                let column = COLUMNS[random.below(COLUMNS.len())];
                let stamp = after.write_local(LocalWrite::Update(&[column]), wall_ms, site);
                Change { kind: RowKind::Cells, stamp, cells: vec![(CellStamp { column, stamp }, value)] }
            }
        };
        assert!(replica.apply(&change), "a local write beats what it replaces");
        assert_eq!(replica.state, after, "merge of one's own write gives what write_local gave");
        changes.push(change);
    }
    changes
}

fn check_any_order(seed: u64, random: &mut Random, changes: &[Change]) {
    let mut expected = Replica::default();
    for change in changes {
        expected.apply(change);
    }
    for _ in 0..6 {
        let mut deliveries: Vec<&Change> = changes.iter().collect();
        for _ in 0..random.below(6) {
            deliveries.push(&changes[random.below(changes.len())]);
        }
        random.shuffle(&mut deliveries);
        let mut replica = Replica::default();
        for change in &deliveries {
            replica.apply(change);
        }
        assert_eq!(replica, expected, "SEED={seed}: {changes:#?}\ndelivered as {deliveries:#?}");
        for change in changes {
            assert!(!replica.apply(change), "SEED={seed}: applying again changes nothing: {change:?}");
        }
    }
}

/// Names the seed of a history that fails in any way.
struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::eprintln!("SEED={}", self.0);
        }
    }
}

pub(super) fn for_each_seed(histories: u64, mut run: impl FnMut(u64, &mut Random)) {
    let seeds = match std::env::var("SEED") {
        Ok(seed) => vec![seed.parse().expect("SEED is a number")],
        Err(_) => (1..histories).collect::<Vec<u64>>(),
    };
    for seed in seeds {
        let _named = Named(seed);
        run(seed, &mut Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    }
}

#[test]
fn any_set_of_changes_gives_one_result_in_any_order() {
    for_each_seed(4_000, |seed, random| {
        let changes: Vec<Change> = (0..2 + random.below(7)).map(|_| wild_change(random)).collect();
        check_any_order(seed, random, &changes);
    });
}

#[test]
fn real_histories_give_one_result_in_any_order() {
    for_each_seed(4_000, |seed, random| {
        let changes = real_history(random);
        if !changes.is_empty() {
            check_any_order(seed, random, &changes);
        }
    });
}

#[test]
fn what_needs_no_look_at_the_cells_is_what_merge_decides() {
    let mut plain = 0;
    for_each_seed(4_000, |seed, random| {
        let mut change = wild_change(random);
        if random.below(2) == 0 {
            change.cells.iter_mut().for_each(|(cell, _)| cell.stamp = change.stamp);
        }
        let cells: Vec<CellStamp> = change.cells.iter().map(|(cell, _)| *cell).collect();
        let uncarried = &COLUMNS[cells.len().max(random.below(COLUMNS.len() + 1))..];
        let incoming = Incoming { kind: change.kind, stamp: change.stamp, cells: &cells, uncarried };
        let mut tie = |_: usize| -> Result<Ordering, Infallible> { panic!("SEED={seed}: nothing is held") };
        let plan = merge(&RowState::unseen(), &incoming, &mut tie).unwrap();
        let Some(state) = merge_unseen(&incoming) else { return };
        plain += 1;
        assert_eq!((plan.write, &plan.state), (RowWrite::Insert, &state), "SEED={seed}: {change:?}");
        assert!(plan.cells.iter().all(|outcome| *outcome == CellOutcome::Taken), "SEED={seed}: {change:?}");
        assert!(plan.changed && plan.park.is_empty() && plan.show.is_empty(), "SEED={seed}: {change:?}");
    });
    assert!(plain > 100 || std::env::var("SEED").is_ok(), "the case has to occur, it did {plain} times");
}
