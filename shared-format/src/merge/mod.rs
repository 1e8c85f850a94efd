//! Merge of one incoming change into what a replica knows of the row: the rules of DESIGN section 5.
//!
//! A row is a life register and one register per cell; in each the greater stamp stays. Cells not newer than
//! the base are void, cells newer than the life of a row that is not alive are parked. Pure: it decides and
//! changes nothing; the shell carries the [`Plan`] out.

mod author;
mod cls;
#[cfg(test)]
mod laws;
mod local;
mod rules;
#[cfg(test)]
mod rules_laws;

pub use author::{names_others, restamp};
pub use local::{KeptRegister, Local, LogPlace, RowRegisters};
pub use rules::{MergedRegister, RowValues, Rules, RulesPlan, merge_with};

use alloc::vec::Vec;
use core::cmp::Ordering;

use crate::clock::Stamp;
use crate::row_state::{CellStamp, ColumnId, RowState};

/// What a change says of its row's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RowKind {
    /// Nothing: some cells were written.
    Cells = 0,
    /// The row was created, with every column that its author knows.
    Created = 1,
    /// The row was deleted.
    Deleted = 2,
}

/// One change of one row, its columns already numbered as this replica numbers them.
#[derive(Clone, Copy, Debug)]
pub struct Incoming<'a> {
    /// What it says of the life.
    pub kind: RowKind,
    /// Stamp of the creation or deletion; not looked at for `Cells`.
    pub stamp: Stamp,
    /// Cells it carries, each column at most once; of a creation, all at or above `stamp`.
    pub cells: &'a [CellStamp],
    /// For a creation: columns of this replica that its author does not know.
    pub uncarried: &'a [ColumnId],
}

/// What has to happen to the stored row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowWrite {
    /// Nothing.
    Keep,
    /// The row is made: taken cells, shown cells, defaults for the rest.
    Insert,
    /// Taken cells are written into the live row.
    Update,
    /// The live row becomes another: taken cells are written, a column with an entry in the new state that is
    /// above the base and was not taken keeps its value, every other column goes to its default.
    Replace,
    /// The row goes.
    Delete,
}

/// What becomes of one incoming cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CellOutcome {
    /// It is written into the row.
    Taken,
    /// It is kept beside the row that is not alive.
    Parked,
    /// It is not newer than the life and says nothing.
    Void,
    /// The replica holds a newer one.
    Lost,
    /// The replica holds the same.
    Same,
}

/// What merge decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What the replica knows of the row afterwards.
    pub state: RowState,
    /// What happens to the stored row.
    pub write: RowWrite,
    /// One outcome per incoming cell.
    pub cells: Vec<CellOutcome>,
    /// Columns whose live value moves beside the tombstone, before the row is deleted.
    pub park: Vec<ColumnId>,
    /// Columns whose parked value moves into the row.
    pub show: Vec<ColumnId>,
    /// Whether anything at all changes.
    pub changed: bool,
}

/// Merges a change into a row under the algorithm `cls`.
///
/// `tie` is asked about the incoming cell of a given index when its stamp equals that of the value which the
/// replica holds, live or parked: how the incoming value orders against it by [`cmp_encoded`], both in the
/// form this replica stores. The greater value stays.
///
/// [`cmp_encoded`]: crate::ValueRef::cmp_encoded
///
/// # Errors
/// Only what `tie` returns.
pub fn merge<E>(
    local: &RowState,
    incoming: &Incoming<'_>,
    tie: &mut dyn FnMut(usize) -> Result<Ordering, E>,
) -> Result<Plan, E> {
    cls::merge(local, incoming, tie)
}

/// Whether [`merge`] changes nothing: no stamp of the change is above what the replica holds, and `stays` says of
/// each cell with an equal stamp, by its index, that the incoming value is not the greater one.
///
/// It keeps nothing: for the many changes that a replica is sent again.
pub fn merges_into_nothing(
    local: &RowState,
    incoming: &Incoming<'_>,
    stays: &mut dyn FnMut(usize) -> bool,
) -> bool {
    cls::merges_into_nothing(local, incoming, stays)
}

/// What [`merge`] leaves of a row that the replica never heard of, where that needs no look at the cells one by
/// one: a creation that carries every column at its own stamp. All of its cells are taken, the row is
/// inserted. None where merge has to be asked.
#[must_use]
pub fn merge_unseen(incoming: &Incoming<'_>) -> Option<RowState> {
    let is_plain = incoming.kind == RowKind::Created
        && incoming.uncarried.is_empty()
        && incoming.cells.iter().all(|cell| cell.stamp == incoming.stamp);
    is_plain.then(|| RowState::baseline(incoming.stamp))
}
