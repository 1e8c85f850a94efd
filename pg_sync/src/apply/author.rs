//! Who hands changes over, and for whom that one speaks: a change that stands under the name of another site is taken
//! as `shared_format::restamp` says. Of a register a site says its own entries only: see `ruled.rs`. A person who brings
//! the changes of a whole database brings its registers as they are: who may update the column could say the same in SQL.

use shared_format::{RowState, SiteId, names_others, restamp};

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
        let incoming = change.as_merged();
        if !names_others(&incoming, |site| self.speaks_for(site)) {
            return None;
        }
        let (stamp, cells) = restamp(&incoming, held, here, |site| self.speaks_for(site));
        Some(Change { stamp, cells, ..change.clone() })
    }
}
