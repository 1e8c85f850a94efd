//! Under whose name a change may stand. A site writes its own stamps; those of others it only repeats, as a client
//! does that sends a refused row whole.
//!
//! A repeated stamp that is held here already, or is older, says nothing new and passes. One that would win here was
//! never seen by this replica under that name: were it taken as it is, the site that it names would drop the write as
//! its own echo and never show it. Such a write is taken as one of this replica, just above the stamp it came with, and
//! so reaches everybody.

use alloc::vec::Vec;

use super::{Incoming, RowKind};
use crate::clock::{SiteId, Stamp};
use crate::row_state::{CellStamp, Life, RowState};

/// Whether a change stands under a name that its author does not speak for.
pub fn names_others(incoming: &Incoming<'_>, speaks_for: impl Fn(SiteId) -> bool) -> bool {
    let life = (incoming.kind != RowKind::Cells).then_some(incoming.stamp);
    let mut stamps = incoming.cells.iter().map(|cell| cell.stamp).chain(life);
    stamps.any(|stamp| !speaks_for(stamp.site))
}

/// The stamps of a change as its author may make it to a row of this state: of the life, and of each cell. `here` is
/// this replica.
pub fn restamp(
    incoming: &Incoming<'_>,
    held: &RowState,
    here: SiteId,
    speaks_for: impl Fn(SiteId) -> bool,
) -> (Stamp, Vec<CellStamp>) {
    let raised = |stamp: Stamp| Stamp { hlc: stamp.hlc.next(), site: here };
    let is_borrowed = |stamp: Stamp| !speaks_for(stamp.site);
    let is_raised = is_borrowed(incoming.stamp) && begins(incoming, held);
    let life = if is_raised { raised(incoming.stamp) } else { incoming.stamp };
    let is_creation = incoming.kind == RowKind::Created;
    let least = if is_creation { life } else { Stamp::ZERO };
    let cell = |cell: &CellStamp| {
        let stamp = if is_creation && cell.stamp == incoming.stamp {
            life
        } else if is_borrowed(cell.stamp) && cell.stamp > held.stamp_of(cell.column) {
            raised(cell.stamp)
        } else {
            cell.stamp
        };
        CellStamp { column: cell.column, stamp: stamp.max(least) }
    };
    (life, incoming.cells.iter().map(cell).collect())
}

/// Whether the life that a change speaks of stands above the one that is held.
fn begins(incoming: &Incoming<'_>, held: &RowState) -> bool {
    let alive = match incoming.kind {
        RowKind::Cells => return false,
        RowKind::Created => true,
        RowKind::Deleted => false,
    };
    let order = |life: Life| (life.stamp, !life.alive);
    held.life.is_none_or(|held| order(held) < order(Life { alive, stamp: incoming.stamp }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Hlc;
    use crate::row_state::ColumnId;

    const OWN: SiteId = SiteId::from_bytes([1; 16]);
    const OTHER: SiteId = SiteId::from_bytes([2; 16]);
    const HERE: SiteId = SiteId::from_bytes([9; 16]);

    fn stamp(hlc: u64, site: SiteId) -> Stamp {
        Stamp { hlc: Hlc::from_raw(hlc), site }
    }

    /// Restamps a change of one cell to a row that was created at 10 and whose column was written at 20.
    fn restamped(kind: RowKind, life: Stamp, cell: Stamp) -> (Stamp, Stamp) {
        let column = ColumnId::new(1);
        let mut held = RowState::baseline(stamp(10, OTHER));
        held.set_cell(column, stamp(20, OTHER));
        let cells = [CellStamp { column, stamp: cell }];
        let incoming = Incoming { kind, stamp: life, cells: &cells, uncarried: &[] };
        let (life, cells) = restamp(&incoming, &held, HERE, |site| site == OWN);
        (life, cells[0].stamp)
    }

    #[test]
    fn what_a_site_repeats_passes_and_what_it_borrows_becomes_a_write_of_this_replica() {
        let nothing = Stamp::ZERO;
        for (kind, life, cell, wanted) in [
            (RowKind::Cells, nothing, stamp(30, OWN), (nothing, stamp(30, OWN))),
            (RowKind::Cells, nothing, stamp(20, OTHER), (nothing, stamp(20, OTHER))),
            (RowKind::Cells, nothing, stamp(30, OTHER), (nothing, stamp(31, HERE))),
            (RowKind::Created, stamp(30, OTHER), stamp(30, OTHER), (stamp(31, HERE), stamp(31, HERE))),
            (RowKind::Created, stamp(30, OTHER), stamp(30, OWN), (stamp(31, HERE), stamp(31, HERE))),
            (RowKind::Created, stamp(10, OTHER), stamp(30, OWN), (stamp(10, OTHER), stamp(30, OWN))),
            (RowKind::Deleted, stamp(30, OTHER), stamp(20, OTHER), (stamp(31, HERE), stamp(20, OTHER))),
        ] {
            assert_eq!(restamped(kind, life, cell), wanted, "{kind:?} {life:?} {cell:?}");
        }
    }

    #[test]
    fn a_change_of_cells_has_no_life_that_could_name_another() {
        let cells = [CellStamp { column: ColumnId::new(1), stamp: stamp(5, OWN) }];
        let named = |kind, cells| {
            let incoming = Incoming { kind, stamp: stamp(5, OTHER), cells, uncarried: &[] };
            names_others(&incoming, |site| site == OWN)
        };
        assert!(!named(RowKind::Cells, &cells));
        assert!(named(RowKind::Created, &cells));
        assert!(named(RowKind::Cells, &[CellStamp { column: ColumnId::new(1), stamp: stamp(5, OTHER) }]));
    }
}
