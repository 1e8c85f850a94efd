//! What the store holds of one database: epochs, segments, idle markers.
//!
//! Leaders read it before they go on with a slot, followers to learn what is new.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

use crate::epoch::{Epoch, EpochId};
use crate::error::{Error, Result};
use crate::keys::{Fence, Keys, SegmentName};
use crate::position::Lsn;
use crate::segment::{Segment, SegmentIndex};
use crate::store::{Entry, PutOutcome, Store};

/// Keys asked for at once. A directory is read as a whole for each page, so that pages are large.
const LIST_KEYS_MAX: usize = 1_000_000;

/// How often segments are listed again when one is missing between others.
pub(crate) const LIST_TRIES: usize = 3;

/// A segment as a listing shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StoredSegment {
    pub(crate) name: SegmentName,
    pub(crate) bytes: u64,
    pub(crate) modified: SystemTime,
}

/// An idle marker: who wrote it, and up to where nothing happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IdleMarker {
    pub(crate) fence: Fence,
    pub(crate) lsn: Lsn,
}

/// The objects of one database.
#[derive(Clone)]
pub(crate) struct Archive {
    store: Arc<dyn Store>,
    keys: Keys,
}

impl Archive {
    pub(crate) fn new(store: Arc<dyn Store>, keys: Keys) -> Archive {
        Archive { store, keys }
    }

    /// The newest epoch, if any was opened yet.
    pub(crate) async fn newest_epoch(&self) -> Result<Option<Epoch>> {
        let names = self.list(&self.keys.epochs(), None).await?;
        let Some(key) = names.last() else { return Ok(None) };
        match self.store.get(key).await? {
            Some(object) => Epoch::decode(&object).map(Some),
            None => Err(Error::EpochObject { part: "object" }),
        }
    }

    /// The number of the newest epoch, without reading it.
    pub(crate) async fn newest_epoch_number(&self) -> Result<Option<u32>> {
        let folder = self.keys.epochs();
        let names = self.list(&folder, None).await?;
        Ok(names.last().and_then(|key| key.strip_prefix(&folder)?.parse().ok()))
    }

    /// An epoch by its number.
    pub(crate) async fn epoch(&self, number: u32) -> Result<Option<Epoch>> {
        let object = self.store.get(&self.keys.epoch(number)).await?;
        object.map(|object| Epoch::decode(&object)).transpose()
    }

    /// Opens an epoch, unless another hub did.
    pub(crate) async fn open_epoch(&self, epoch: &Epoch) -> Result<()> {
        let number = epoch.id.number();
        let object = Bytes::from(epoch.encode());
        match self.store.put_new(&self.keys.epoch(number), object.clone()).await? {
            PutOutcome::Created => Ok(()),
            PutOutcome::Exists => {
                let found = self.store.get(&self.keys.epoch(number)).await?;
                if found == Some(object) { Ok(()) } else { Err(Error::EpochTaken { epoch: number }) }
            }
        }
    }

    /// All segments of an epoch.
    pub(crate) async fn segments(&self, epoch: &Epoch) -> Result<SegmentIndex> {
        let mut index = SegmentIndex::new(epoch.start_position());
        for _ in 0..LIST_TRIES {
            for name in self.segments_after(epoch.id.number(), index.unbroken()).await? {
                index.add(name);
            }
            if index.is_unbroken() {
                break;
            }
        }
        Ok(index)
    }

    /// The segments of an epoch whose names are greater than this one.
    pub(crate) async fn segments_after(
        &self,
        epoch: u32,
        after: Option<&SegmentName>,
    ) -> Result<Vec<SegmentName>> {
        let folder = self.keys.segments(epoch);
        let after = after.map(|name| self.keys.segment(epoch, name));
        let keys = self.list(&folder, after).await?;
        let names = keys.iter().filter_map(|key| SegmentName::parse(key.strip_prefix(&folder)?));
        Ok(names.collect())
    }

    /// All segments of an epoch in order, with what the store knows of them.
    pub(crate) async fn stored_segments(&self, epoch: u32) -> Result<Vec<StoredSegment>> {
        let folder = self.keys.segments(epoch);
        let entries = self.entries(&folder).await?;
        let read = |Entry { key, bytes, modified }: Entry| {
            let name = SegmentName::parse(key.strip_prefix(&folder)?)?;
            Some(StoredSegment { name, bytes, modified })
        };
        let mut segments: Vec<StoredSegment> = entries.into_iter().filter_map(read).collect();
        segments.sort_unstable_by_key(|segment| segment.name);
        Ok(segments)
    }

    /// Removes a segment.
    pub(crate) async fn remove_segment(&self, epoch: u32, name: &SegmentName) -> Result<()> {
        self.store.delete(&self.keys.segment(epoch, name)).await
    }

    /// All objects of an epoch, but not the one that opens it.
    pub(crate) async fn objects(&self, epoch: u32) -> Result<Vec<Entry>> {
        self.entries(&self.keys.folder(epoch)).await
    }

    /// The snapshots of an epoch.
    pub(crate) async fn snapshot_objects(&self, epoch: u32) -> Result<Vec<Entry>> {
        self.entries(&self.keys.snapshots(epoch)).await
    }

    /// What the keys of this database are called.
    pub(crate) const fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Removes an object.
    pub(crate) async fn remove(&self, key: &str) -> Result<()> {
        self.store.delete(key).await
    }

    /// Reads a segment.
    pub(crate) async fn segment(&self, epoch: u32, name: SegmentName) -> Result<Option<Segment>> {
        match self.store.get(&self.keys.segment(epoch, &name)).await? {
            Some(object) => Segment::decode(name, object).map(Some),
            None => Ok(None),
        }
    }

    /// Writes a segment. One of this name that exists is our own, from a try whose answer was lost: the name
    /// holds our fence number and every position in it.
    pub(crate) async fn put_segment(&self, epoch: u32, segment: &Segment) -> Result<()> {
        let key = self.keys.segment(epoch, &segment.name);
        match self.store.put_new(&key, segment.encode()?).await? {
            PutOutcome::Created | PutOutcome::Exists => Ok(()),
        }
    }

    /// The greatest LSN that an idle marker of the epoch holds.
    pub(crate) async fn idle_up_to(&self, epoch: u32) -> Result<Lsn> {
        let markers = self.idle_markers(epoch).await?;
        Ok(markers.iter().map(|marker| marker.lsn).max().unwrap_or(Lsn::ZERO))
    }

    /// The idle markers of an epoch.
    pub(crate) async fn idle_markers(&self, epoch: u32) -> Result<Vec<IdleMarker>> {
        let folder = self.keys.idle_markers(epoch);
        let mut markers = Vec::new();
        for key in self.list(&folder, None).await? {
            let Some(fence) = key.strip_prefix(&folder).and_then(Lsn::from_hex) else { continue };
            if let Some(object) = self.store.get(&key).await? {
                let lsn = String::from_utf8_lossy(&object).parse()?;
                markers.push(IdleMarker { fence: fence.raw(), lsn });
            }
        }
        Ok(markers)
    }

    /// Removes the idle marker of a leader.
    pub(crate) async fn remove_idle(&self, epoch: u32, fence: Fence) -> Result<()> {
        self.store.delete(&self.keys.idle_marker(epoch, fence)).await
    }

    /// When the server was started that an epoch was last led on, as it was noted.
    pub(crate) async fn server_start(&self, epoch: EpochId) -> Result<Option<String>> {
        let object = self.store.get(&self.keys.server_start(epoch.number())).await?;
        Ok(object.map(|object| String::from_utf8_lossy(&object).into_owned()))
    }

    /// Notes when the server was started that an epoch is led on.
    pub(crate) async fn put_server_start(&self, epoch: EpochId, started: String) -> Result<()> {
        self.store.put(&self.keys.server_start(epoch.number()), Bytes::from(started)).await
    }

    /// How far an epoch was merged again, as it was noted.
    pub(crate) async fn replayed(&self, epoch: EpochId) -> Result<Option<String>> {
        let object = self.store.get(&self.keys.replayed(epoch.number())).await?;
        Ok(object.and_then(|object| String::from_utf8(object.to_vec()).ok()))
    }

    /// Notes how far an epoch was merged again.
    pub(crate) async fn put_replayed(&self, epoch: EpochId, mark: String) -> Result<()> {
        self.store.put(&self.keys.replayed(epoch.number()), Bytes::from(mark)).await
    }

    /// Notes that nothing happened up to an LSN. Each leader writes its own marker.
    pub(crate) async fn put_idle(&self, epoch: u32, fence: Fence, lsn: Lsn) -> Result<()> {
        self.store.put(&self.keys.idle_marker(epoch, fence), Bytes::from(lsn.to_string())).await
    }

    async fn list(&self, prefix: &str, start_after: Option<String>) -> Result<Vec<String>> {
        let mut keys = Vec::new();
        let mut start_after = start_after;
        loop {
            let page = self.store.list(prefix, start_after.as_deref(), LIST_KEYS_MAX).await?;
            let full = page.len() >= LIST_KEYS_MAX;
            start_after = page.last().cloned();
            keys.extend(page);
            if !full {
                return Ok(keys);
            }
        }
    }

    async fn entries(&self, prefix: &str) -> Result<Vec<Entry>> {
        let mut entries: Vec<Entry> = Vec::new();
        loop {
            let after = entries.last().map(|entry| entry.key.clone());
            let page = self.store.entries(prefix, after.as_deref(), LIST_KEYS_MAX).await?;
            let full = page.len() >= LIST_KEYS_MAX;
            entries.extend(page);
            if !full {
                return Ok(entries);
            }
        }
    }
}
