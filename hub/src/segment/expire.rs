//! Expiry: segments that nobody needs to read any more, and all of epochs that have ended, are removed.
//!
//! Invariant: what goes is the oldest part of the log, without a hole; it is behind a finished snapshot, and the
//! end of the log stays: a leader compares it with the slot. A reader who is behind it is given a snapshot.

use std::time::{Duration, SystemTime};

use super::SegmentIndex;
use crate::error::Result;
use crate::ingest::archive::{Archive, IdleMarker, StoredSegment};
use crate::keys::{Fence, SegmentName, parse_snapshot_key};
use crate::position::{Lsn, Position};

/// What one call removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expired {
    /// Segments of the newest epoch.
    pub segments: usize,
    /// Idle markers of leaders that are gone.
    pub idle_markers: usize,
    /// Objects of epochs that have ended.
    pub of_old_epochs: usize,
}

/// Removes what is older than `keep`. `epoch` is the newest.
pub(crate) async fn run(archive: &Archive, epoch: u32, keep: Duration, now: SystemTime) -> Result<Expired> {
    let before = now.checked_sub(keep).unwrap_or(SystemTime::UNIX_EPOCH);
    let mut removed = Expired::default();
    if let Some(snapshot) = newest_snapshot(archive, epoch).await? {
        let stored = archive.stored_segments(epoch).await?;
        for name in expired(&stored, snapshot, before) {
            archive.remove_segment(epoch, &name).await?;
            removed.segments += 1;
        }
    }
    for fence in superseded(&archive.idle_markers(epoch).await?) {
        archive.remove_idle(epoch, fence).await?;
        removed.idle_markers += 1;
    }
    for old in 1..epoch {
        for object in archive.objects(old).await?.iter().filter(|object| object.modified < before) {
            archive.remove(&object.key).await?;
            removed.of_old_epochs += 1;
        }
    }
    Ok(removed)
}

/// Where the newest finished snapshot of an epoch stands.
async fn newest_snapshot(archive: &Archive, epoch: u32) -> Result<Option<Lsn>> {
    let folder = archive.keys().snapshots(epoch);
    let objects = archive.snapshot_objects(epoch).await?;
    let manifests = objects.iter().filter_map(|object| match parse_snapshot_key(&folder, &object.key)? {
        (id, true) => Some(id.lsn),
        (_id, false) => None,
    });
    Ok(manifests.max())
}

/// The oldest segments, in order, up to the first that is still needed.
fn expired(stored: &[StoredSegment], snapshot: Lsn, before: SystemTime) -> Vec<SegmentName> {
    let Some(first) = stored.first() else { return Vec::new() };
    let mut index = SegmentIndex::new(first.name.previous);
    for segment in stored {
        index.add(segment.name);
    }
    let (place, end) = (Position::after(snapshot), index.last());
    let old = stored.iter().take_while(|segment| {
        let last = segment.name.last;
        segment.modified < before && last <= place && last < end
    });
    old.map(|segment| segment.name).collect()
}

/// Idle markers of former leaders that say nothing any more.
///
/// The newest leader's stays, and the one that reaches farthest: the slot may stand where it says. A former leader
/// moves neither its marker nor the slot once a later one wrote a marker of its own.
fn superseded(markers: &[IdleMarker]) -> Vec<Fence> {
    let newest = markers.iter().map(|marker| marker.fence).max();
    let farthest = markers.iter().max_by_key(|marker| marker.lsn).map(|marker| marker.fence);
    let fences = markers.iter().map(|marker| marker.fence);
    fences.filter(|fence| Some(*fence) != newest && Some(*fence) != farthest).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::cursor::SnapshotId;
    use crate::keys::Keys;
    use crate::segment::Segment;
    use crate::store::Store;
    use crate::store::directory::DirectoryStore;

    const DAY: Duration = Duration::from_secs(86_400);

    fn at(commit_end: u64) -> Position {
        Position::new(Lsn::new(commit_end), Lsn::new(1))
    }

    fn name(previous: u64, last: u64) -> SegmentName {
        SegmentName { previous: at(previous), last: at(last), fence: 1 }
    }

    fn check(ages: &[(u64, u64, u32)], snapshot: u64, wanted: usize) {
        let now = SystemTime::now();
        let stored: Vec<StoredSegment> = ages
            .iter()
            .map(|(previous, last, days)| StoredSegment {
                name: name(*previous, *last),
                bytes: 1,
                modified: now - DAY * *days,
            })
            .collect();
        let found = expired(&stored, Lsn::new(snapshot), now - DAY * 7);
        let oldest: Vec<SegmentName> = stored.iter().map(|segment| segment.name).take(wanted).collect();
        assert_eq!(found, oldest, "{ages:?} {snapshot}");
    }

    #[test]
    fn the_oldest_segments_behind_a_snapshot_go() {
        check(&[(10, 20, 9), (20, 30, 8), (30, 40, 1)], 99, 2);
        check(&[(10, 20, 9), (20, 30, 8), (30, 40, 1)], 25, 1);
        check(&[(10, 20, 9), (20, 30, 8), (30, 40, 1)], 19, 0);
    }

    #[test]
    fn the_end_of_the_log_stays_however_old_it_is() {
        check(&[(10, 20, 90), (20, 30, 90)], 99, 1);
        check(&[(10, 30, 90), (20, 30, 90)], 99, 0);
        check(&[], 99, 0);
    }

    #[test]
    fn what_is_behind_a_younger_segment_stays() {
        check(&[(10, 20, 9), (20, 30, 1), (30, 40, 9), (40, 50, 9)], 99, 1);
    }

    #[test]
    fn the_markers_of_the_newest_leader_and_of_the_farthest_stay() {
        let marker = |fence, lsn| IdleMarker { fence, lsn: Lsn::new(lsn) };
        assert_eq!(superseded(&[]), [0; 0]);
        assert_eq!(superseded(&[marker(1, 50)]), [0; 0]);
        assert_eq!(superseded(&[marker(1, 40), marker(2, 50), marker(3, 45)]), [1]);
        assert_eq!(superseded(&[marker(1, 40), marker(2, 45), marker(3, 50)]), [1, 2]);
    }

    #[tokio::test]
    async fn nothing_of_the_newest_epoch_goes_without_a_snapshot_and_old_epochs_go_whole() {
        let folder = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(DirectoryStore::open(folder.path().to_owned()).await.unwrap());
        let keys = Keys::new("demo");
        let archive = Archive::new(Arc::clone(&store), keys.clone());
        for (epoch, previous, last) in [(1, 10, 20), (2, 20, 30), (2, 30, 40), (2, 40, 50)] {
            let segment = Segment {
                name: name(previous, last),
                transaction_end: true,
                scopes: Vec::new(),
                transactions: Vec::new(),
                definitions: Bytes::new(),
            };
            archive.put_segment(epoch, &segment).await.unwrap();
        }
        let later = SystemTime::now() + DAY * 8;
        let removed = run(&archive, 2, DAY * 7, later).await.unwrap();
        assert_eq!(removed, Expired { of_old_epochs: 1, ..Expired::default() });
        let snapshot = SnapshotId { lsn: Lsn::new(41), build: 1 };
        let manifest = keys.snapshot_manifest(2, snapshot, "all");
        store.put(&manifest, Bytes::from_static(b"manifest")).await.unwrap();
        let part = keys.snapshot_part(2, SnapshotId { lsn: Lsn::new(99), build: 2 }, "all", 0);
        store.put(&part, Bytes::from_static(b"of one that is not finished")).await.unwrap();
        let removed = run(&archive, 2, DAY * 7, later).await.unwrap();
        assert_eq!(removed, Expired { segments: 2, ..Expired::default() });
        let left = archive.stored_segments(2).await.unwrap();
        assert_eq!(left.iter().map(|segment| segment.name).collect::<Vec<_>>(), [name(40, 50)]);
        assert_eq!(run(&archive, 2, DAY * 9, later).await.unwrap(), Expired::default());
    }
}
