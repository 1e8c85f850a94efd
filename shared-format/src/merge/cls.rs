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
        let held = held_stamp(local, &state, cell.column, begins);
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

/// Stamp of the value that the replica holds for a column and that is still in the race.
fn held_stamp(local: &RowState, state: &RowState, column: ColumnId, begins: bool) -> Option<Stamp> {
    let own = state.cell(column);
    if begins || !local.is_alive() { own } else { own.or_else(|| local.life.map(|life| life.stamp)) }
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
