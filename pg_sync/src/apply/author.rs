//! Under whose name a change may stand. A site writes its own stamps; those of others it only repeats, as a client
//! does that sends a refused row whole.
//!
//! A repeated stamp that is held here already, or is older, says nothing new and passes. One that would win here was
//! never seen by this database under that name: were it taken as it is, the site that it names would drop the write as
//! its own echo and never show it. Such a write is taken as one of this database, just above the stamp it came with,
//! and so reaches everybody. Of a register a site says its own entries only: see `ruled.rs`. A person who brings the
//! changes of a whole database brings its registers as they are: who may update the column could say the same in SQL.

use shared_format::{CellStamp, Life, RowKind, RowState, SiteId, Stamp};

use super::incoming::Change;

/// Who hands changes over.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Author {
    /// One site, for itself. It is told which of its cells lost.
    Site(SiteId),
    /// A caller who is no site.
    Person,
    /// Somebody with the rights of our owner, who may say what any site wrote.
    Trusted,
}

impl Author {
    /// The site that is told what it lost.
    pub(super) fn site(self) -> Option<SiteId> {
        match self {
            Self::Site(site) => Some(site),
            Self::Person | Self::Trusted => None,
        }
    }

    /// Whether new writes may stand under the name of a site.
    pub(super) fn speaks_for(self, site: SiteId) -> bool {
        match self {
            Self::Site(own) => own == site,
            Self::Person => false,
            Self::Trusted => true,
        }
    }

    /// The change as this author may make it to a row of that state, if not as it is; `here` is this database.
    pub(super) fn restamped(self, change: &Change, held: &RowState, here: SiteId) -> Option<Change> {
        let stamps = change.cells.iter().map(|cell| cell.stamp).chain([change.stamp]);
        if stamps.map(|stamp| stamp.site).all(|site| self.speaks_for(site)) {
            return None;
        }
        let raised = |stamp: Stamp| Stamp { hlc: stamp.hlc.next(), site: here };
        let is_borrowed = |stamp: Stamp| !self.speaks_for(stamp.site);
        let life = if is_borrowed(change.stamp) && begins(change, held) {
            raised(change.stamp)
        } else {
            change.stamp
        };
        let least = if change.kind == RowKind::Created { life } else { Stamp::ZERO };
        let cell = |cell: &CellStamp| {
            let is_base = change.kind == RowKind::Created && cell.stamp == change.stamp;
            let stamp = if is_base {
                life
            } else if is_borrowed(cell.stamp) && cell.stamp > held.stamp_of(cell.column) {
                raised(cell.stamp)
            } else {
                cell.stamp
            };
            CellStamp { column: cell.column, stamp: stamp.max(least) }
        };
        let cells = change.cells.iter().map(cell).collect();
        Some(Change { stamp: life, cells, ..change.clone() })
    }
}

/// Whether the life that a change speaks of stands above the one that is held.
fn begins(change: &Change, held: &RowState) -> bool {
    let alive = match change.kind {
        RowKind::Cells => return false,
        RowKind::Created => true,
        RowKind::Deleted => false,
    };
    let order = |life: Life| (life.stamp, !life.alive);
    held.life.is_none_or(|held| order(held) < order(Life { alive, stamp: change.stamp }))
}
