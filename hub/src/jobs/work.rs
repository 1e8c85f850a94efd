//! What each kind of job does, and how often.

use std::time::Duration;

use super::queue::Claimed;
use crate::error::{Error, Result};
use crate::http::databases::Database;
use crate::inbox::{BURIED, LANE};

/// How long segments stay that a snapshot stands for: a client that comes back within that reads the log alone.
const SEGMENTS_KEEP: Duration = Duration::from_secs(7 * 86_400);

/// A kind of job that recurs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Makes up for writes to tables that had changed without anybody being told.
    CatchUp,
    /// Joins small segments.
    Compaction,
    /// Removes segments, snapshots and parts of uploads that nobody needs.
    Expiry,
    /// Applies what waits in the inbox.
    Inbox,
    /// Makes a snapshot, so that new clients do not wait and old segments can go.
    Snapshot,
    /// Drops tombstones that every site has received.
    Tombstones,
}

impl Kind {
    pub(super) const ALL: [Kind; 6] =
        [Kind::CatchUp, Kind::Compaction, Kind::Expiry, Kind::Inbox, Kind::Snapshot, Kind::Tombstones];
    pub(super) const NAMES: [&'static str; 7] = [
        Kind::CatchUp.name(),
        Kind::Compaction.name(),
        Kind::Expiry.name(),
        Kind::Inbox.name(),
        Kind::Snapshot.name(),
        Kind::Tombstones.name(),
        BURIED,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Kind::CatchUp => "catch_up",
            Kind::Compaction => "compaction",
            Kind::Expiry => "expiry",
            Kind::Inbox => "inbox",
            Kind::Snapshot => "snapshot",
            Kind::Tombstones => "tombstones",
        }
    }

    /// Kinds of one lane are never done at once.
    pub(super) const fn lane(self) -> &'static str {
        match self {
            Kind::Compaction | Kind::Expiry => "store",
            Kind::Inbox => LANE,
            Kind::Snapshot => "snapshot",
            Kind::CatchUp | Kind::Tombstones => "tombstones",
        }
    }

    pub(super) const fn every(self) -> Duration {
        Duration::from_secs(match self {
            Kind::CatchUp | Kind::Compaction | Kind::Inbox => 60,
            Kind::Expiry => 600,
            Kind::Snapshot | Kind::Tombstones => 86_400,
        })
    }

    /// Whether it is so seldom that the time of the next one outlives a hub.
    pub(super) const fn is_kept(self) -> bool {
        match self {
            Kind::CatchUp | Kind::Compaction | Kind::Expiry | Kind::Inbox => false,
            Kind::Snapshot | Kind::Tombstones => true,
        }
    }

    /// The first time: not while everything starts at once.
    pub(super) const fn first_after(self) -> Duration {
        match self {
            Kind::CatchUp | Kind::Compaction | Kind::Expiry => self.every(),
            Kind::Inbox => Duration::ZERO,
            Kind::Snapshot => Duration::from_secs(3_600),
            // The snapshot of that day comes first: what it holds is not dropped while it is made.
            Kind::Tombstones => Duration::from_secs(7_200),
        }
    }

    fn of_name(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// Does one job.
pub(super) async fn run(database: &Database, claimed: &Claimed) -> Result<()> {
    if claimed.kind == BURIED {
        database.inbox.unbury(&claimed.key).await?;
        return database.inbox.apply_all(database).await;
    }
    let kind = Kind::of_name(&claimed.kind);
    recur(database, kind.ok_or_else(|| Error::JobKind { found: claimed.kind.clone() })?).await
}

/// Does a job that recurs.
pub(super) async fn recur(database: &Database, kind: Kind) -> Result<()> {
    match kind {
        Kind::CatchUp => database.backend.catch_up().await,
        Kind::Compaction => {
            while database.feed.compact().await?.more {}
            Ok(())
        }
        Kind::Expiry => {
            database.feed.expire(SEGMENTS_KEEP).await?;
            database.feed.expire_snapshots().await?;
            database.inbox.expire(database).await
        }
        Kind::Inbox => database.inbox.apply_all(database).await,
        Kind::Snapshot => database.feed.make_snapshot().await,
        Kind::Tombstones => {
            while database.backend.collect_tombstones().await? {}
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_found_by_its_name() {
        for (kind, name) in Kind::ALL.into_iter().zip(Kind::NAMES) {
            assert_eq!(Kind::of_name(name), Some(kind));
        }
        assert_eq!(Kind::of_name("other"), None);
    }
}
