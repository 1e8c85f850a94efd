//! Removes snapshots that nobody can still be taking, and what is left of those that were never finished.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::LIST_KEYS_MAX;
use crate::cursor::SnapshotId;
use crate::error::Result;
use crate::keys::{Keys, parse_snapshot_key};
use crate::position::Lsn;
use crate::store::{Entry, Store};

/// How long the parts of a snapshot stay: a client that takes longer begins another.
const KEEP: Duration = Duration::from_secs(3_600);

/// Time between two looks at what may be removed.
pub(super) const INTERVAL: Duration = Duration::from_secs(600);

/// The objects of one snapshot.
#[derive(Debug, Default)]
struct Objects {
    manifests: Vec<String>,
    parts: Vec<String>,
    newest: Option<SystemTime>,
}

/// Removes what is too old, and tells how many snapshots that were. The newest that is finished stays, because it
/// serves while Postgres is away.
pub(crate) async fn run(store: &Arc<dyn Store>, keys: &Keys, epoch: u32, now: SystemTime) -> Result<usize> {
    let folder = keys.snapshots(epoch);
    let snapshots = group(&folder, store.entries(&folder, None, LIST_KEYS_MAX).await?);
    let finished = snapshots.iter().filter(|(_id, objects)| !objects.manifests.is_empty());
    let kept = finished.max_by_key(|(id, objects)| (id.0, objects.newest)).map(|(id, _objects)| *id);
    let mut removed = 0;
    for (id, objects) in &snapshots {
        if Some(*id) == kept || !objects.newest.is_some_and(|newest| is_expired(newest, now)) {
            continue;
        }
        // Without its manifest nobody begins to take it any more.
        for key in objects.manifests.iter().chain(&objects.parts) {
            store.delete(key).await?;
        }
        removed += 1;
    }
    Ok(removed)
}

/// The objects by snapshot, ordered by where it stands.
fn group(folder: &str, entries: Vec<Entry>) -> BTreeMap<(Lsn, u64), Objects> {
    let mut snapshots: BTreeMap<_, Objects> = BTreeMap::new();
    for Entry { key, modified, .. } in entries {
        let Some((SnapshotId { lsn, build }, is_manifest)) = parse_snapshot_key(folder, &key) else {
            continue;
        };
        let objects = snapshots.entry((lsn, build)).or_default();
        objects.newest = objects.newest.max(Some(modified));
        if is_manifest { objects.manifests.push(key) } else { objects.parts.push(key) }
    }
    snapshots
}

fn is_expired(newest: SystemTime, now: SystemTime) -> bool {
    now.duration_since(newest).is_ok_and(|age| age > KEEP)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::EVERYBODY;
    use super::*;
    use crate::store::directory::DirectoryStore;

    const NOTHING: Bytes = Bytes::from_static(b"x");

    async fn put(store: &Arc<dyn Store>, keys: &Keys, lsn: u64, is_finished: bool) {
        let snapshot = SnapshotId { lsn: Lsn::new(lsn), build: lsn };
        for part in 0..2 {
            let key = keys.snapshot_part(1, snapshot, EVERYBODY, part);
            store.put(&key, NOTHING).await.unwrap();
        }
        if is_finished {
            store.put(&keys.snapshot_manifest(1, snapshot, EVERYBODY), NOTHING).await.unwrap();
        }
    }

    #[tokio::test]
    async fn an_old_snapshot_goes_with_its_parts_and_the_newest_that_is_finished_stays() {
        let folder = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(DirectoryStore::open(folder.path().to_owned()).await.unwrap());
        let keys = Keys::new("demo");
        for (lsn, is_finished) in [(10, true), (20, true), (30, false)] {
            put(&store, &keys, lsn, is_finished).await;
        }
        let now = SystemTime::now();
        assert_eq!(run(&store, &keys, 1, now).await.unwrap(), 0, "clients may still take them");
        assert_eq!(run(&store, &keys, 1, now + KEEP * 2).await.unwrap(), 2);
        let left = store.list(&keys.snapshots(1), None, 100).await.unwrap();
        let of_20 = keys.snapshot_manifest(1, SnapshotId { lsn: Lsn::new(20), build: 20 }, EVERYBODY);
        assert_eq!(left.len(), 3, "{left:?}");
        assert!(left.contains(&of_20), "{left:?}");
        assert_eq!(run(&store, &keys, 1, now + KEEP * 2).await.unwrap(), 0);
    }
}
