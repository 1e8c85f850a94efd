//! The default algorithm: last writer wins, for the life and for each cell on its own.

use alloc::vec::Vec;
use core::cmp::Ordering;

use super::{CellOutcome, Incoming, Plan, RowKind, RowWrite};
use crate::clock::Stamp;
use crate::row_state::{ColumnId, Life, RowState};

/// See [`super::merge`].
pub(super) fn merge<E>(
    local: &RowState,
    incoming: &Incoming<'_>,
    tie: &mut dyn FnMut(usize) -> Result<Ordering, E>,
) -> Result<Plan, E> {
    let life = later_life(local.life, incoming);
    let mut state = RowState { life, cells: Vec::new() };
    let begins = life != local.life;
    if begins {
        carry_over(local, &mut state, incoming);
    } else {
        state.cells.clone_from(&local.cells);
    }
    let mut cells = Vec::with_capacity(incoming.cells.len());
    for (index, cell) in incoming.cells.iter().enumerate() {
        let held = held_stamp(&state, cell.column, begins);
        let outcome = match weigh(&state, incoming, cell.stamp, held) {
            Weight::Tie => settle(&state, tie(index)?),
            Weight::Newer => taken(&state),
            Weight::Older => CellOutcome::Lost,
            Weight::Void => CellOutcome::Void,
        };
        if matches!(outcome, CellOutcome::Taken | CellOutcome::Parked) {
            place(&mut state, cell.column, cell.stamp);
        }
        cells.push(outcome);
    }
    Ok(finish(local, incoming, state, cells))
}

/// See [`super::merges_into_nothing`].
pub(super) fn merges_into_nothing(
    local: &RowState,
    incoming: &Incoming<'_>,
    stays: &mut dyn FnMut(usize) -> bool,
) -> bool {
    later_life(local.life, incoming) == local.life
        && (0..).zip(incoming.cells).all(|(index, cell)| {
            match weigh(local, incoming, cell.stamp, held_stamp(local, cell.column, false)) {
                Weight::Newer => false,
                Weight::Tie => stays(index),
                Weight::Older | Weight::Void => true,
            }
        })
}

/// The greater of two lives; of equal stamps, the deletion.
fn later_life(local: Option<Life>, incoming: &Incoming<'_>) -> Option<Life> {
    let alive = match incoming.kind {
        RowKind::Cells => return local,
        RowKind::Created => true,
        RowKind::Deleted => false,
    };
    let other = Life { alive, stamp: incoming.stamp };
    let order = |life: &Life| (life.stamp, !life.alive);
    match local {
        Some(life) if order(&life) >= order(&other) => Some(life),
        Some(_) | None => Some(other),
    }
}

/// Keeps of the former life what is newer than the new one.
fn carry_over(local: &RowState, state: &mut RowState, incoming: &Incoming<'_>) {
    let base = state.life_stamp();
    state.cells = local.cells.iter().filter(|cell| cell.stamp > base).copied().collect();
    if state.is_alive() {
        for column in incoming.uncarried {
            if state.cell(*column).is_none() {
                state.set_cell(*column, Stamp::ZERO);
            }
        }
    }
}

/// Stamp of the value that is still in the race for a column; of a life that begins, only what carried over.
fn held_stamp(state: &RowState, column: ColumnId, begins: bool) -> Option<Stamp> {
    let own = state.cell(column);
    if begins { own } else { own.or_else(|| state.life.map(|life| life.stamp)) }
}

enum Weight {
    Newer,
    Tie,
    Older,
    Void,
}

fn weigh(state: &RowState, incoming: &Incoming<'_>, stamp: Stamp, held: Option<Stamp>) -> Weight {
    if let Some(life) = state.life {
        let is_base = life.alive && incoming.kind == RowKind::Created && incoming.stamp == life.stamp;
        if stamp < life.stamp || (stamp == life.stamp && !is_base) {
            return Weight::Void;
        }
    }
    match held.map(|held| stamp.cmp(&held)) {
        None | Some(Ordering::Greater) => Weight::Newer,
        Some(Ordering::Equal) => Weight::Tie,
        Some(Ordering::Less) => Weight::Older,
    }
}

fn settle(state: &RowState, order: Ordering) -> CellOutcome {
    match order {
        Ordering::Greater => taken(state),
        Ordering::Equal => CellOutcome::Same,
        Ordering::Less => CellOutcome::Lost,
    }
}

fn taken(state: &RowState) -> CellOutcome {
    if state.is_alive() { CellOutcome::Taken } else { CellOutcome::Parked }
}

/// Writes a stamp into the state; the base speaks for a cell that has its stamp.
fn place(state: &mut RowState, column: ColumnId, stamp: Stamp) {
    if state.is_alive() && stamp == state.life_stamp() {
        state.clear_cell(column);
    } else {
        state.set_cell(column, stamp);
    }
}

fn finish(local: &RowState, incoming: &Incoming<'_>, state: RowState, cells: Vec<CellOutcome>) -> Plan {
    let wins = |column: ColumnId| {
        let mut placed = incoming.cells.iter().zip(&cells);
        placed.any(|(cell, outcome)| {
            cell.column == column && matches!(outcome, CellOutcome::Taken | CellOutcome::Parked)
        })
    };
    let moved = |from: bool, to: bool| -> Vec<ColumnId> {
        if local.is_alive() != from || state.is_alive() != to {
            return Vec::new();
        }
        let columns = state.cells.iter().map(|cell| cell.column);
        columns.filter(|c| local.cell(*c).is_some() && !wins(*c) && newer_than_life(&state, *c)).collect()
    };
    let park = moved(true, false);
    let show = moved(false, true);
    let has_taken = cells.iter().any(|outcome| matches!(outcome, CellOutcome::Taken | CellOutcome::Parked));
    let write = match (local.is_alive(), state.is_alive()) {
        (false, false) => RowWrite::Keep,
        (false, true) => RowWrite::Insert,
        (true, false) => RowWrite::Delete,
        (true, true) if state.life != local.life => RowWrite::Replace,
        (true, true) if has_taken => RowWrite::Update,
        (true, true) => RowWrite::Keep,
    };
    let changed = has_taken || state != *local;
    Plan { state, write, cells, park, show, changed }
}

fn newer_than_life(state: &RowState, column: ColumnId) -> bool {
    state.cell(column).is_some_and(|stamp| stamp > state.life_stamp()) || state.life.is_none()
}

#[cfg(test)]
mod tests {
    use alloc::vec;
    use core::convert::Infallible;

    use super::*;
    use crate::clock::{Hlc, SiteId};
    use crate::row_state::CellStamp;

    const TITLE: ColumnId = ColumnId::new(1);
    const DONE: ColumnId = ColumnId::new(2);

    fn at(hlc: u64) -> Stamp {
        Stamp { hlc: Hlc::from_raw(hlc), site: SiteId::from_bytes([1; 16]) }
    }

    fn cell(column: ColumnId, hlc: u64) -> CellStamp {
        CellStamp { column, stamp: at(hlc) }
    }

    fn live(base: u64, cells: &[CellStamp]) -> RowState {
        RowState { life: Some(Life { alive: true, stamp: at(base) }), cells: cells.to_vec() }
    }

    fn dead(since: u64, parked: &[CellStamp]) -> RowState {
        RowState { life: Some(Life { alive: false, stamp: at(since) }), cells: parked.to_vec() }
    }

    /// Merges with every tie won by the local value.
    fn plan(local: &RowState, kind: RowKind, hlc: u64, cells: &[CellStamp]) -> Plan {
        let incoming = Incoming { kind, stamp: at(hlc), cells, uncarried: &[] };
        let mut tie = |_| Ok::<_, Infallible>(Ordering::Less);
        let Ok(plan) = merge(local, &incoming, &mut tie);
        plan
    }

    fn check(
        local: &RowState,
        kind: RowKind,
        hlc: u64,
        cells: &[CellStamp],
        write: RowWrite,
        after: &RowState,
    ) {
        let plan = plan(local, kind, hlc, cells);
        assert_eq!((plan.write, &plan.state), (write, after));
    }

    #[test]
    fn the_later_write_of_a_cell_stays() {
        let row = live(1, &[cell(TITLE, 5)]);
        let update = [cell(TITLE, 4), cell(DONE, 4)];
        let after = live(1, &[cell(TITLE, 5), cell(DONE, 4)]);
        check(&row, RowKind::Cells, 4, &update, RowWrite::Update, &after);
        let outcomes = plan(&row, RowKind::Cells, 4, &update).cells;
        assert_eq!(outcomes, vec![CellOutcome::Lost, CellOutcome::Taken]);
        check(&row, RowKind::Cells, 1, &[cell(TITLE, 1)], RowWrite::Keep, &row);
    }

    #[test]
    fn a_deletion_beats_older_updates_and_parks_newer_ones() {
        let row = live(1, &[cell(TITLE, 3), cell(DONE, 9)]);
        check(&row, RowKind::Deleted, 5, &[], RowWrite::Delete, &dead(5, &[cell(DONE, 9)]));
        assert_eq!(plan(&row, RowKind::Deleted, 5, &[]).park, vec![DONE]);
        check(&dead(5, &[]), RowKind::Cells, 4, &[cell(TITLE, 4)], RowWrite::Keep, &dead(5, &[]));
        check(
            &dead(5, &[]),
            RowKind::Cells,
            6,
            &[cell(TITLE, 6)],
            RowWrite::Keep,
            &dead(5, &[cell(TITLE, 6)]),
        );
    }

    #[test]
    fn parked_cells_show_when_a_creation_arrives() {
        let unseen = RowState { life: None, cells: vec![cell(TITLE, 3), cell(DONE, 9)] };
        let carried = [cell(TITLE, 5), cell(DONE, 5)];
        check(&unseen, RowKind::Created, 5, &carried, RowWrite::Insert, &live(5, &[cell(DONE, 9)]));
        let plan = plan(&unseen, RowKind::Created, 5, &carried);
        assert_eq!(plan.show, vec![DONE]);
        assert_eq!(plan.cells, vec![CellOutcome::Taken, CellOutcome::Lost]);
    }

    #[test]
    fn a_later_creation_replaces_the_row() {
        let row = live(1, &[cell(TITLE, 3), cell(DONE, 9)]);
        let carried = [cell(TITLE, 5), cell(DONE, 5)];
        check(&row, RowKind::Created, 5, &carried, RowWrite::Replace, &live(5, &[cell(DONE, 9)]));
        check(&live(5, &[]), RowKind::Created, 1, &[cell(TITLE, 1)], RowWrite::Keep, &live(5, &[]));
        check(&dead(3, &[]), RowKind::Created, 5, &carried, RowWrite::Insert, &live(5, &[]));
    }

    #[test]
    fn of_a_creation_and_a_deletion_in_one_instant_the_deletion_stays() {
        check(&live(5, &[]), RowKind::Deleted, 5, &[], RowWrite::Delete, &dead(5, &[]));
        check(&dead(5, &[]), RowKind::Created, 5, &[cell(TITLE, 5)], RowWrite::Keep, &dead(5, &[]));
    }
}
