//! Removes snapshots that nobody can still be taking.

use std::sync::Arc;
use std::time::Duration;

use super::manifest::Manifest;
use super::{EVERYBODY, LIST_KEYS_MAX};
use crate::cursor::SnapshotId;
use crate::epoch::EpochId;
use crate::error::Result;
use crate::keys::{Keys, parse_manifest_key};
use crate::store::Store;

/// How long the parts of a snapshot stay: a client that takes longer begins another.
const KEEP: Duration = Duration::from_secs(3_600);

/// Time between two looks at what may be removed.
pub(super) const INTERVAL: Duration = Duration::from_secs(600);

/// Removes what is too old; the newest stays, because it serves while Postgres is away.
pub(super) async fn run(
    store: &Arc<dyn Store>,
    keys: &Keys,
    epoch: EpochId,
    newest: SnapshotId,
    now_ms: u64,
) -> Result<()> {
    let folder = keys.snapshots(epoch.number());
    for key in store.list(&folder, None, LIST_KEYS_MAX).await? {
        let Some(id) = parse_manifest_key(&folder, EVERYBODY, &key).filter(|id| *id != newest) else {
            continue;
        };
        let Some(object) = store.get(&key).await? else { continue };
        let manifest = Manifest::decode(&object).ok();
        if manifest.as_ref().is_some_and(|manifest| !is_expired(manifest, now_ms)) {
            continue;
        }
        // Without its manifest nobody begins to take it any more.
        store.delete(&key).await?;
        for part in 0..manifest.map_or(0, |manifest| manifest.parts) {
            store.delete(&keys.snapshot_part(epoch.number(), id, EVERYBODY, part)).await?;
        }
    }
    Ok(())
}

fn is_expired(manifest: &Manifest, now_ms: u64) -> bool {
    let ended_ms = manifest.begun_ms.saturating_add(manifest.took_ms);
    Duration::from_millis(now_ms.saturating_sub(ended_ms)) > KEEP
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::position::Lsn;
    use crate::store::directory::DirectoryStore;

    const HOUR_MS: u64 = 3_600_000;

    async fn put(store: &Arc<dyn Store>, keys: &Keys, lsn: u64, ended_ms: u64) -> SnapshotId {
        let (epoch, snapshot) = (EpochId::new(1, 7), SnapshotId { lsn: Lsn::new(lsn), build: lsn });
        let manifest = Manifest { epoch, snapshot, parts: 2, bytes: 0, begun_ms: ended_ms - 5, took_ms: 5 };
        for part in 0..2 {
            let key = keys.snapshot_part(1, snapshot, EVERYBODY, part);
            store.put(&key, Bytes::from_static(b"part")).await.unwrap();
        }
        let key = keys.snapshot_manifest(1, snapshot, EVERYBODY);
        store.put(&key, Bytes::from(manifest.encode())).await.unwrap();
        snapshot
    }

    #[tokio::test]
    async fn an_old_snapshot_goes_with_its_parts_and_the_newest_stays() {
        let folder = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(DirectoryStore::open(folder.path().to_owned()).await.unwrap());
        let keys = Keys::new("demo");
        put(&store, &keys, 10, 100).await;
        put(&store, &keys, 20, HOUR_MS).await;
        let newest = put(&store, &keys, 30, 100).await;
        run(&store, &keys, EpochId::new(1, 7), newest, HOUR_MS + 101).await.unwrap();
        let left = store.list(&keys.snapshots(1), None, 100).await.unwrap();
        let lsns: Vec<&str> = left.iter().filter_map(|key| key.split('/').nth_back(2)).collect();
        assert_eq!(left.len(), 6, "{left:?}");
        assert!(lsns.iter().all(|lsn| lsn.ends_with("14") || lsn.ends_with("1e")), "{lsns:?}");
    }
}
