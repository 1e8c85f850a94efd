//! A finished snapshot as it lies in the store, with the rows of all readers: for whoever looks at it beside the hub.

use std::sync::Arc;

use bytes::Bytes;

use super::manifest::Manifest;
use super::part::SplitPart;
use super::{EVERYBODY, LIST_KEYS_MAX};
use crate::epoch::EpochId;
use crate::error::{Error, Result};
use crate::keys::{Keys, parse_manifest_key};
use crate::position::Lsn;
use crate::store::Store;

/// A finished snapshot.
pub(crate) struct Whole {
    store: Arc<dyn Store>,
    keys: Keys,
    manifest: Manifest,
}

impl Whole {
    /// The newest one of an epoch; none if there is none.
    pub(crate) async fn newest(store: &Arc<dyn Store>, keys: &Keys, epoch: EpochId) -> Result<Option<Whole>> {
        let folder = keys.snapshots(epoch.number());
        let listed = store.list(&folder, None, LIST_KEYS_MAX).await?;
        let found = listed.iter().filter_map(|key| parse_manifest_key(&folder, EVERYBODY, key));
        let Some(id) = found.max_by_key(|id| id.lsn) else { return Ok(None) };
        let key = keys.snapshot_manifest(epoch.number(), id, EVERYBODY);
        let Some(object) = store.get(&key).await? else { return Ok(None) };
        let manifest = Manifest::decode(&object)?;
        if manifest.epoch != epoch {
            return Ok(None);
        }
        Ok(Some(Whole { store: Arc::clone(store), keys: keys.clone(), manifest }))
    }

    /// Everything that committed up to here is in it.
    pub(crate) const fn lsn(&self) -> Lsn {
        self.manifest.snapshot.lsn
    }

    /// The parts that may hold rows of a table.
    pub(crate) fn parts_of(&self, table: u32) -> impl Iterator<Item = u32> {
        (0..self.manifest.parts).filter(move |part| {
            let held = usize::try_from(*part).ok().and_then(|part| self.manifest.tables.get(part));
            held.is_none_or(|held| held.contains_key(&table))
        })
    }

    /// The bytes of a part that are frames, one after another.
    pub(crate) async fn frames(&self, part: u32) -> Result<Bytes> {
        let Manifest { epoch, snapshot, .. } = self.manifest;
        let key = self.keys.snapshot_part(epoch.number(), snapshot, EVERYBODY, part);
        let object = self.store.get(&key).await?.ok_or(Error::SnapshotManifest { part: "part" })?;
        if self.manifest.split.binary_search(&part).is_ok() {
            return Ok(SplitPart::read(object)?.all_frames());
        }
        Ok(object)
    }
}
