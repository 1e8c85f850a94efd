//! Snapshots: the merged state of one scope at one place in the log, in parts.
//!
//! Owns when a snapshot is made, when one is used again, and where its parts lie. Clients read the parts while
//! the later ones are still being written; the manifest comes last, and only with it another node can go on.

mod build;
pub(crate) mod expire;
mod manifest;
pub(crate) mod name;
pub(crate) mod part;
pub(crate) mod visibility;
pub(crate) mod whole;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use crate::audience::Readership;
use crate::backend::Backend;
use crate::cursor::SnapshotId;
use crate::epoch::{Epoch, EpochId};
use crate::error::{Error, Result};
use crate::feed::cache::Kept;
use crate::feed::log::Log;
use crate::keys::{Keys, parse_manifest_key};
use crate::memory::Memory;
use crate::position::{Lsn, Position};
use crate::store::{ObjectUrl, Store};
use manifest::{Manifest, TablePlaces, TableRows};
use part::SplitPart;

/// A snapshot is used again for so many times as long as it took to make: making them takes a tenth of the time
/// at most, and a small one is made anew at once.
const REUSE_FACTOR: u32 = 10;

/// But for no longer than this.
const REUSE_AGE_MAX: Duration = Duration::from_secs(600);

/// A snapshot is used again however old it is while the log behind it has less than a quarter of its bytes, and
/// less than this.
const REUSE_LOG_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Longest wait of one request for the next part.
const PART_WAIT_MAX: Duration = Duration::from_secs(50);

/// Parts and manifests that are looked at for the newest snapshot.
const LIST_KEYS_MAX: usize = 1_000_000;

/// The folder of the scope that everybody reads: the first digits of the SHA-256 of no bytes.
const EVERYBODY: &str = "e3b0c44298fc1c14";

/// Makes and finds the snapshots of one database.
pub(crate) struct Snapshots {
    backend: Arc<dyn Backend>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) keys: Keys,
    pub(crate) log: Arc<Log>,
    memory: Arc<Memory>,
    current: Mutex<Current>,
}

/// The newest snapshot that this node knows, and when it last removed old ones.
#[derive(Debug, Default)]
struct Current {
    build: Option<Arc<Build>>,
    expired: Option<Instant>,
}

/// A snapshot, finished or in the making.
#[derive(Clone, Debug)]
pub(crate) struct Build {
    pub(crate) epoch: EpochId,
    pub(crate) id: SnapshotId,
    begun: SystemTime,
    /// The count of the log's bytes when it was begun; None if it was begun elsewhere.
    log_bytes: Option<u64>,
    progress: watch::Receiver<Progress>,
}

/// How far a snapshot is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Progress {
    parts: u32,
    /// Parts that hold the rows of several audiences.
    split: Vec<u32>,
    /// Where tables lie in each part, as far as somebody noted that.
    tables: Arc<Vec<TablePlaces>>,
    /// How many rows are there.
    rows: Arc<Vec<TableRows>>,
    bytes: u64,
    /// How long it took, or why it failed.
    ended: Option<std::result::Result<Duration, String>>,
}

/// What is wanted of a snapshot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent<'a> {
    /// Only what may have rows of these tables; all if there are none.
    pub(crate) tables: &'a [u32],
    /// It stands for this place or a later one.
    pub(crate) not_before: Lsn,
}

impl Extent<'static> {
    /// A snapshot of everything.
    pub(crate) const WHOLE: Extent<'static> = Extent { tables: &[], not_before: Lsn::ZERO };
}

/// What one request gets of a snapshot.
#[derive(Debug)]
pub(crate) enum PartRead {
    /// A part.
    Part {
        /// Payload frames, one after another.
        frames: Vec<Bytes>,
        /// Rows in them, as far as they were counted.
        rows: u64,
        /// None follows.
        is_last: bool,
    },
    /// The part is whole in the store, where the reader can fetch it. Others follow it.
    Elsewhere {
        /// The address.
        url: ObjectUrl,
        /// Rows in it, as far as they were counted.
        rows: u64,
    },
    /// The part holds rows of several audiences, and nobody asked yet which of them the reader is.
    ReaderWanted,
    /// The snapshot has no such part: it ended before.
    End,
    /// The snapshot is gone.
    Gone,
    /// The snapshot could not be made, for this reason.
    Failed(String),
}

impl Snapshots {
    pub(crate) fn new(
        backend: Arc<dyn Backend>,
        store: Arc<dyn Store>,
        keys: Keys,
        log: Arc<Log>,
        memory: Arc<Memory>,
    ) -> Snapshots {
        Snapshots { backend, store, keys, log, memory, current: Mutex::default() }
    }

    /// A snapshot of the epoch that is new enough; one is begun if there is none. Who asks meanwhile gets the
    /// same.
    pub(crate) async fn obtain(&self, epoch: &Epoch, not_before: Lsn) -> Result<Arc<Build>> {
        let mut current = self.current.lock().await;
        if current.build.as_ref().is_none_or(|build| build.epoch != epoch.id) {
            current.build = self.newest_stored(epoch.id).await?.map(Arc::new);
        }
        let is_late_enough = |build: &&Arc<Build>| build.id.lsn >= not_before;
        if let Some(build) = current.build.as_ref().filter(is_late_enough)
            && self.is_reusable(build)
        {
            return Ok(Arc::clone(build));
        }
        let expire = current.expired.is_none_or(|expired| expired.elapsed() > expire::INTERVAL);
        match self.begin(epoch, not_before, expire).await {
            Ok(build) => {
                let build = Arc::new(build);
                current.build = Some(Arc::clone(&build));
                if expire {
                    current.expired = Some(Instant::now());
                }
                Ok(build)
            }
            // While Postgres is away, an old snapshot with a long log behind it is as true as a new one.
            Err(error) => match current.build.as_ref().filter(is_late_enough) {
                Some(build) if !build.has_failed() => Ok(Arc::clone(build)),
                Some(_) | None => Err(error),
            },
        }
    }

    /// Makes a snapshot, unless one is good enough, and waits until it is whole.
    pub(crate) async fn make(&self, epoch: &Epoch) -> Result<()> {
        let build = self.obtain(epoch, Lsn::ZERO).await?;
        let mut progress = build.progress.clone();
        let ended = progress.wait_for(|progress| progress.ended.is_some()).await;
        let ended = ended.ok().and_then(|progress| progress.ended.clone());
        let broken = |reason| Error::Unavailable { reason };
        ended.unwrap_or_else(|| Err("making the snapshot broke off".to_owned())).map(drop).map_err(broken)
    }

    /// Finds the snapshot that a cursor names.
    pub(crate) async fn find(&self, epoch: EpochId, id: SnapshotId) -> Result<Option<Arc<Build>>> {
        let current = self.current.lock().await.build.clone();
        if let Some(build) = current.filter(|build| build.epoch == epoch && build.id == id) {
            return Ok(Some(build));
        }
        Ok(self.stored(epoch, id).await?.map(Arc::new))
    }

    /// Reads a part, and waits for it if it is still being made. One without the wanted tables is empty. `by_url` lets
    /// the reader fetch it from the store: but never one that holds rows which are not for everybody, and not the
    /// last, which may be small.
    pub(crate) async fn part(
        &self,
        build: &Build,
        part: u32,
        tables: &[u32],
        reader: &Readership,
        by_url: bool,
    ) -> Result<PartRead> {
        let next = part.saturating_add(1);
        let mut progress = build.progress.clone();
        let known = progress.wait_for(|progress| progress.parts > next || progress.ended.is_some());
        let known = match tokio::time::timeout(PART_WAIT_MAX, known).await {
            Ok(Ok(progress)) => progress.clone(),
            Ok(Err(_ended)) => return Ok(PartRead::Gone),
            Err(_elapsed) => {
                return Err(Error::Unavailable { reason: "snapshot is still being made".to_owned() });
            }
        };
        if let Some(Err(reason)) = known.ended {
            return Ok(PartRead::Failed(reason));
        }
        if part >= known.parts {
            return Ok(PartRead::End);
        }
        let key = self.keys.snapshot_part(build.epoch.number(), build.id, EVERYBODY, part);
        let is_last = next >= known.parts;
        let places = known.places(part, tables);
        if places.as_ref().is_some_and(Vec::is_empty) {
            return Ok(PartRead::Part { frames: Vec::new(), rows: 0, is_last });
        }
        if known.split.binary_search(&part).is_ok() {
            if !reader.is_known() {
                return Ok(PartRead::ReaderWanted);
            }
            let Some(found) = self.split_part(&key).await? else { return Ok(PartRead::Gone) };
            let (frames, rows) = found.frames(reader);
            return Ok(PartRead::Part { frames, rows, is_last });
        }
        if by_url
            && !is_last
            && places.is_none()
            && let Some(url) = self.url_of(&key).await
        {
            return Ok(PartRead::Elsewhere { url, rows: known.rows(part, tables) });
        }
        let read = async { Ok(self.store.get(&key).await?.map(Kept::Part)) };
        match self.memory.cache.get(&key, read).await? {
            Some(Kept::Part(bytes)) => {
                let frames = match places {
                    Some(places) => slices(&bytes, &places)?,
                    None => vec![bytes],
                };
                Ok(PartRead::Part { frames, rows: known.rows(part, tables), is_last })
            }
            Some(Kept::Segment(_) | Kept::SplitPart(_)) | None => Ok(PartRead::Gone),
        }
    }

    /// Where a reader can fetch a part itself.
    async fn url_of(&self, key: &str) -> Option<ObjectUrl> {
        self.store.url_of(key).await.unwrap_or_else(|error| {
            tracing::warn!(key, problem = error.logged(), "no address for a part, it goes through the hub");
            None
        })
    }

    /// Whether a part can be had without waiting.
    pub(crate) fn has_part(&self, build: &Build, part: u32) -> bool {
        let progress = build.progress.borrow();
        progress.parts > part.saturating_add(1) || matches!(progress.ended, Some(Ok(_)))
    }

    async fn split_part(&self, key: &str) -> Result<Option<Arc<SplitPart>>> {
        let read = async {
            let Some(bytes) = self.store.get(key).await? else { return Ok(None) };
            Ok(Some(Kept::SplitPart(Arc::new(SplitPart::read(bytes)?))))
        };
        match self.memory.cache.get(key, read).await? {
            Some(Kept::SplitPart(part)) => Ok(Some(part)),
            Some(Kept::Segment(_) | Kept::Part(_)) | None => Ok(None),
        }
    }

    fn is_reusable(&self, build: &Build) -> bool {
        let progress = build.progress.borrow().clone();
        let took = match progress.ended {
            Some(Ok(took)) => took,
            Some(Err(_)) => return false,
            None => return !build.has_failed(),
        };
        let age = build.begun.elapsed().unwrap_or(Duration::MAX).saturating_sub(took);
        let behind = self.log.end().and_then(|(end, bytes)| {
            let nothing = end <= Position::after(build.id.lsn);
            let count = build.log_bytes.map(|then| bytes.saturating_sub(then));
            if nothing { Some(0) } else { count }
        });
        is_fresh(age, took, progress.bytes, behind)
    }

    async fn newest_stored(&self, epoch: EpochId) -> Result<Option<Build>> {
        let folder = self.keys.snapshots(epoch.number());
        let keys = self.store.list(&folder, None, LIST_KEYS_MAX).await?;
        let found = keys.iter().filter_map(|key| parse_manifest_key(&folder, EVERYBODY, key));
        match found.max_by_key(|id| id.lsn) {
            Some(id) => self.stored(epoch, id).await,
            None => Ok(None),
        }
    }

    async fn stored(&self, epoch: EpochId, id: SnapshotId) -> Result<Option<Build>> {
        let key = self.keys.snapshot_manifest(epoch.number(), id, EVERYBODY);
        let Some(object) = self.store.get(&key).await? else { return Ok(None) };
        let manifest = match Manifest::decode(&object) {
            Ok(manifest) => manifest,
            Err(error) => {
                // Any other snapshot will do: one more is made.
                tracing::warn!(key, problem = error.logged(), "snapshot is left aside");
                return Ok(None);
            }
        };
        if manifest.epoch != epoch || manifest.snapshot != id {
            return Ok(None);
        }
        let ended = Some(Ok(Duration::from_millis(manifest.took_ms)));
        let (_done, progress) = watch::channel(Progress {
            parts: manifest.parts,
            split: manifest.split,
            tables: manifest.tables,
            rows: manifest.rows,
            bytes: manifest.bytes,
            ended,
        });
        let begun = UNIX_EPOCH + Duration::from_millis(manifest.begun_ms);
        Ok(Some(Build { epoch, id, begun, log_bytes: None, progress }))
    }

    /// Removes snapshots of an epoch that nobody can still be taking; tells how many.
    pub(crate) async fn expire(&self, epoch: EpochId, now: SystemTime) -> Result<usize> {
        expire::run(&self.store, &self.keys, epoch.number(), now).await
    }

    /// Opens a view of the database, and lets a task write it.
    async fn begin(&self, epoch: &Epoch, not_before: Lsn, expire: bool) -> Result<Build> {
        let log_bytes = self.log.end().map(|(_end, bytes)| bytes);
        let rows = self.backend.open_snapshot(&self.log, epoch).await?;
        if rows.lsn() < not_before {
            let reason = format!("what committed at {not_before} is not visible yet");
            return Err(Error::Unavailable { reason });
        }
        let build = getrandom::u64().map_err(|_unsupported| Error::RandomBytes)?;
        let id = SnapshotId { lsn: rows.lsn(), build };
        let begun = SystemTime::now();
        let (sender, progress) = watch::channel(Progress::default());
        let writer = build::Writer {
            store: Arc::clone(&self.store),
            keys: self.keys.clone(),
            manifest: Manifest {
                epoch: epoch.id,
                snapshot: id,
                parts: 0,
                split: Vec::new(),
                tables: Arc::default(),
                rows: Arc::default(),
                bytes: 0,
                begun_ms: since_1970_ms(begun),
                took_ms: 0,
            },
            progress: sender,
            expire,
        };
        tracing::info!(epoch = %epoch.id, lsn = %id.lsn, "snapshot begun");
        tokio::spawn(writer.run(rows));
        Ok(Build { epoch: epoch.id, id, begun, log_bytes, progress })
    }
}

impl Progress {
    /// How many rows of the wanted tables, or of all, are in a part for everybody.
    fn rows(&self, part: u32, tables: &[u32]) -> u64 {
        let held = usize::try_from(part).ok().and_then(|part| self.rows.get(part)).into_iter().flatten();
        let wanted = held.filter(|(table, _rows)| tables.is_empty() || tables.contains(table));
        wanted.fold(0, |sum, (_table, rows)| sum.saturating_add(*rows))
    }

    /// Where the wanted tables lie in a part; none if all of it is wanted, or where nobody noted them.
    fn places(&self, part: u32, tables: &[u32]) -> Option<Vec<(usize, usize)>> {
        let held = usize::try_from(part).ok().and_then(|part| self.tables.get(part));
        held.filter(|_| !tables.is_empty())
            .map(|held| tables.iter().filter_map(|table| held.get(table)).copied().collect())
    }
}

/// The frames at these places of a part.
fn slices(part: &Bytes, places: &[(usize, usize)]) -> Result<Vec<Bytes>> {
    let wrong = || Error::SnapshotManifest { part: "table place" };
    let slice = |(begin, end): &(usize, usize)| {
        part.get(*begin..*end).map(|frames| part.slice_ref(frames)).ok_or_else(wrong)
    };
    places.iter().map(slice).collect()
}

impl Build {
    fn has_failed(&self) -> bool {
        let progress = self.progress.borrow();
        let ended_early = progress.ended.is_none() && self.progress.has_changed().is_err();
        ended_early || matches!(progress.ended, Some(Err(_)))
    }
}

/// Whether a finished snapshot is good enough for another client: by its age since it was finished, how long it
/// took, its bytes, and the bytes of the log behind it.
fn is_fresh(age: Duration, took: Duration, bytes: u64, log_bytes: Option<u64>) -> bool {
    let age_max = took.saturating_mul(REUSE_FACTOR).min(REUSE_AGE_MAX);
    let log_bytes_max = (bytes / 4).clamp(1, REUSE_LOG_BYTES_MAX);
    age < age_max || log_bytes.is_some_and(|log_bytes| log_bytes < log_bytes_max)
}

fn since_1970_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_taken_from_where_it_lies_in_a_part() {
        let tables = Arc::new(vec![TablePlaces::from([(1, (0, 2)), (2, (2, 6))]), TablePlaces::new()]);
        let rows = Arc::new(vec![TableRows::from([(1, 20), (2, 3)])]);
        let progress = Progress { tables, rows, ..Progress::default() };
        for (part, tables, wanted, rows) in [
            (0, vec![], None, 23),
            (0, vec![2, 1, 3], Some(vec![(2, 6), (0, 2)]), 23),
            (0, vec![1], Some(vec![(0, 2)]), 20),
            (1, vec![2], Some(vec![]), 0),
            (2, vec![2], None, 0),
        ] {
            assert_eq!(progress.places(part, &tables), wanted, "{part} {tables:?}");
            assert_eq!(progress.rows(part, &tables), rows, "{part} {tables:?}");
        }
        let part = Bytes::from_static(b"aabbbb");
        assert_eq!(slices(&part, &[(2, 6), (0, 2)]).unwrap(), ["bbbb", "aa"]);
        assert!(matches!(slices(&part, &[(2, 7)]), Err(Error::SnapshotManifest { .. })));
    }

    #[test]
    fn a_snapshot_is_used_again_while_it_is_young_or_little_was_written() {
        let seconds = Duration::from_secs;
        let large = u64::MAX;
        for (age, took, bytes, log_bytes, wanted) in [
            (seconds(9), seconds(1), 0, None, true),
            (seconds(10), seconds(1), 0, None, false),
            (REUSE_AGE_MAX, seconds(3_600), 0, None, false),
            (seconds(10), seconds(1), 0, Some(0), true),
            (seconds(10), seconds(1), 400, Some(99), true),
            (seconds(10), seconds(1), 400, Some(100), false),
            (seconds(10), seconds(1), large, Some(REUSE_LOG_BYTES_MAX - 1), true),
            (seconds(10), seconds(1), large, Some(REUSE_LOG_BYTES_MAX), false),
        ] {
            assert_eq!(
                is_fresh(age, took, bytes, log_bytes),
                wanted,
                "{age:?} {took:?} {bytes} {log_bytes:?}"
            );
        }
    }
}
