//! What the store holds of one database: epochs, segments, idle markers.
//!
//! Leaders read it before they go on with a slot, followers to learn what is new.

use std::sync::Arc;

use bytes::Bytes;

use crate::epoch::{Epoch, EpochId};
use crate::error::{Error, Result};
use crate::keys::{Fence, Keys, SegmentName};
use crate::position::Lsn;
use crate::segment::{Segment, SegmentIndex};
use crate::store::{PutOutcome, Store};

/// Keys asked for at once. A directory is read as a whole for each page, so that pages are large.
const LIST_KEYS_MAX: usize = 1_000_000;

/// How often segments are listed again when one is missing between others.
pub(crate) const LIST_TRIES: usize = 3;

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
        let mut greatest = Lsn::ZERO;
        for key in self.list(&self.keys.idle_markers(epoch), None).await? {
            if let Some(object) = self.store.get(&key).await? {
                greatest = greatest.max(String::from_utf8_lossy(&object).parse()?);
            }
        }
        Ok(greatest)
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
}
