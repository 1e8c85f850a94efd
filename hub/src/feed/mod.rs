//! The feed of one database: what is new since a cursor, from memory, from segments, or from a snapshot.
//!
//! Starts ingest and serves beside it: the store is enough to answer from. A place that a client is at is never
//! skipped over: what cannot be had is an error, or a snapshot.

pub(crate) mod cache;
pub(crate) mod log;
mod reader;
mod refresh;
mod scopes;
mod scout;
pub(crate) mod tail;
mod waiters;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::audience::Readership;
use crate::auth::Caller;
use crate::backend::Backend;
use crate::config::DatabaseName;
use crate::cursor::{Cursor, SnapshotId};
use crate::epoch::{Epoch, EpochId, EpochReason};
use crate::error::{Error, Result};
use crate::ingest::archive::Archive;
use crate::ingest::{Ingest, IngestStatus};
use crate::keys::Keys;
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::position::{Lsn, Position};
use crate::segment::{Compacted, Expired, compact, expire};
use crate::snapshot::name::{PartsName, ReaderName, TablesName};
use crate::snapshot::{Build, Extent, PartRead, Snapshots};
use crate::store::{ObjectUrl, Store};
use crate::weigh::Weights;
use log::Log;
use reader::Reader;
use refresh::Refresh;
use scopes::ScopesOf;
use scout::Scout;
use waiters::Place;

/// Longest wait for an epoch to be opened: a hub that has just started needs a moment.
const EPOCH_WAIT_MAX: Duration = Duration::from_secs(5);

/// Bytes of a snapshot under which one answer takes further parts.
const PART_BYTES_MIN: usize = 256 * 1024;

/// Snapshots begun for one request, where making them fails: a serialization failure passes.
const SNAPSHOT_TRIES: usize = 3;

/// The feed of one database.
pub struct Feed {
    log: Arc<Log>,
    ingest: Arc<Ingest>,
    reader: Arc<Reader>,
    scopes: ScopesOf,
    /// Something was met that only some readers get.
    is_scoped: AtomicBool,
    refresh: Refresh,
    archive: Archive,
    snapshots: Snapshots,
    shutdown: watch::Receiver<bool>,
    task: Mutex<Option<JoinHandle<()>>>,
}

/// An answer to one download.
#[derive(Clone, Debug)]
pub struct ChangesAnswer {
    /// Payload frames; each piece is one or more of them.
    pub frames: Vec<Bytes>,
    /// Rows in them, or behind `url`, also those to forget, as far as they were counted.
    pub rows: u64,
    /// The client's place once it has applied them.
    pub cursor: String,
    /// The answer ends at the end of a transaction and nothing more is known.
    pub complete: bool,
    /// The frames are this part of a snapshot, counted from 0; None when they are of the log.
    pub part: Option<u32>,
    /// What the frames are called if they are of a snapshot.
    pub name: Option<PartsName>,
    /// Where the client fetches the frames of `name` itself; then there are none here.
    pub url: Option<ObjectUrl>,
    /// Whether the client's place was in another epoch.
    pub moved: Moved,
    /// The frames are of the tables that were asked for, and the client's place in the log is not moved by them.
    pub is_by_table: bool,
}

/// What a client asks for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Its place; none if it has nothing yet.
    pub cursor: Option<&'a str>,
    /// The tables to take anew, as they are at its place or later; none for what is new in the log.
    pub tables: &'a [u32],
    /// How long it waits.
    pub wait: Duration,
    /// How often it is looked up meanwhile whether it may read more or less.
    pub scopes_interval: Duration,
    /// An answer that it has in part.
    pub broken_off: Option<PartsName>,
    /// It fetches parts of snapshots from the store if it is told where.
    pub takes_urls: bool,
}

/// What is to be answered, and to whom.
#[derive(Clone, Copy)]
struct Asked<'a> {
    reader: &'a Arc<Readership>,
    cursor: Option<Cursor>,
    tables: &'a [u32],
    deadline: Instant,
    scopes_interval: Duration,
    broken_off: Option<PartsName>,
    takes_urls: bool,
}

/// Which parts of a snapshot are wanted, and for whom.
#[derive(Clone, Copy)]
struct PartsWanted<'a> {
    first: u32,
    /// The part behind the last of the same answer, when that was given before.
    same_next: Option<u32>,
    tables: &'a [u32],
    reader: &'a Readership,
    takes_urls: bool,
}

impl ChangesAnswer {
    /// Whether there is nothing in it, and nothing more to ask for.
    pub(crate) fn is_nothing(&self) -> bool {
        self.frames.is_empty() && self.complete
    }
}

/// How far a client is that has a cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reached {
    /// It has all that committed up to here.
    pub(crate) place: Lsn,
    /// It has the whole log, as far as this node knows that.
    pub(crate) is_end: bool,
}

/// What a wait for the log ended with.
enum Waited {
    Answer(ChangesAnswer),
    /// The place is too old.
    TooOld,
    /// The reader's scopes have to be asked for.
    ReaderWanted,
}

/// What a try to take parts of a snapshot ended with.
enum Taken {
    Answer(ChangesAnswer),
    /// The reader's scopes have to be asked for.
    ReaderWanted,
    /// Another snapshot has to be taken, for a reason that may be known.
    Failed(Option<String>),
}

/// What became of the epoch of a client's place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Moved {
    /// It is the newest, or the client had no place.
    #[default]
    No,
    /// Another came after it; the database may lack what the client was told that it has.
    On,
    /// The database was restored on purpose since: what it lacks is undone.
    Restored,
}

/// What a feed is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedStatus {
    /// Postgres answers ingest.
    pub connected: bool,
    /// This node leads.
    pub leader: bool,
    /// The newest epoch.
    pub epoch: Option<String>,
    /// The end of the log as far as this node knows it.
    pub position: Option<String>,
    /// What went wrong last and was not mended since.
    pub problem: Option<String>,
}

impl FeedStatus {
    /// Whether downloads can be answered and new changes will come.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.epoch.is_some() && self.connected && self.problem.is_none()
    }

    /// The status for `/readyz`.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "connected": self.connected,
            "leader": self.leader,
            "epoch": self.epoch,
            "position": self.position,
            "problem": self.problem,
        })
    }
}

impl Feed {
    /// Starts ingest of a database, and serves its log.
    #[must_use]
    pub(crate) fn start(
        database: DatabaseName,
        backend: Arc<dyn Backend>,
        store: Arc<dyn Store>,
        memory: &Arc<Memory>,
        metrics: &Metrics,
        shutdown: watch::Receiver<bool>,
    ) -> Arc<Feed> {
        let keys = Keys::new(database.as_str());
        let archive = Archive::new(Arc::clone(&store), keys.clone());
        let log = Arc::new(Log::new(memory.share()));
        let scopes = ScopesOf::new(Arc::clone(&backend));
        let snapshots =
            Snapshots::new(Arc::clone(&backend), store, keys, Arc::clone(&log), Arc::clone(memory));
        let ingest = Arc::new(Ingest {
            metrics: metrics.database(database.as_str()),
            database,
            backend,
            archive: archive.clone(),
            log: Arc::clone(&log),
            status: Mutex::new(IngestStatus::default()),
            stuck: Mutex::default(),
            shutdown: shutdown.clone(),
        });
        let task = tokio::spawn(Arc::clone(&ingest).run());
        let reader = Arc::new(Reader::new(Arc::clone(&log), archive.clone(), Arc::clone(memory)));
        let scout = Scout { log: Arc::clone(&log), reader: Arc::clone(&reader) };
        tokio::spawn(scout.run(shutdown.clone()));
        Arc::new(Feed {
            reader,
            scopes,
            is_scoped: AtomicBool::new(false),
            refresh: Refresh::new(Arc::clone(&log), archive.clone()),
            archive,
            log,
            ingest,
            snapshots,
            shutdown,
            task: Mutex::new(Some(task)),
        })
    }

    /// Waits until ingest has ended after the shutdown was asked for.
    pub async fn ended(&self) {
        let task = self.task.lock().expect("nothing panics with the task").take();
        if let Some(task) = task {
            // It has no value, and a panic in it was printed.
            drop(task.await);
        }
    }

    /// What the feed is doing.
    #[must_use]
    pub fn status(&self) -> FeedStatus {
        let IngestStatus { connected, leading, problem, verified: _ } = self.ingest.status();
        let place = |(end, _bytes): (Position, u64)| end.commit_end.to_string();
        FeedStatus {
            connected,
            leader: leading,
            epoch: self.log.epoch_id().map(|epoch| epoch.to_string()),
            position: self.log.end().map(place),
            problem,
        }
    }

    /// How far a client is; none when its cursor is of an epoch that ended, and says nothing in this one.
    pub(crate) fn reached(&self, cursor: &Cursor) -> Option<Reached> {
        if self.log.epoch_id() != Some(cursor.epoch()) {
            return None;
        }
        let reached = match cursor {
            Cursor::Log { position, transaction_end, .. } => Reached {
                // Of a transaction that it has in part it has nothing yet.
                place: if *transaction_end { position.commit_end } else { position.commit_end.before() },
                is_end: *transaction_end && self.log.end().is_none_or(|(end, _bytes)| *position >= end),
            },
            // What is behind the snapshot is not there.
            Cursor::Snapshot { snapshot, .. } => Reached { place: snapshot.lsn, is_end: false },
        };
        Some(reached)
    }

    /// Refuses to write to a server that is not known to be the centre.
    pub(crate) fn check_writable(&self) -> Result<()> {
        if self.ingest.status().verified {
            return Ok(());
        }
        let reason = "the database is not known to be the one that the log comes from";
        Err(Error::Unavailable { reason: reason.to_owned() })
    }

    /// Refuses what a site writes that does not know of a restore on purpose: it is told by a download, and sends then
    /// what the restore left of it.
    pub(crate) async fn check_not_restored(&self, cursor: &Cursor) -> Result<()> {
        match self.log.epoch() {
            Some(epoch) if epoch.id.number() > cursor.epoch().number() => {
                let restored = self.was_restored_since(cursor.epoch(), &epoch).await?;
                if restored { Err(Error::Restored) } else { Ok(()) }
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Whether the database was restored on purpose in an epoch behind this one, up to the newest.
    async fn was_restored_since(&self, at: EpochId, newest: &Epoch) -> Result<bool> {
        if newest.reason == EpochReason::Restore {
            return Ok(true);
        }
        for number in at.number().saturating_add(1)..newest.id.number() {
            let epoch = self.archive.epoch(number).await?;
            if epoch.is_none_or(|epoch| epoch.reason == EpochReason::Restore) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Joins small segments of the newest epoch; nothing to do while there is none.
    pub async fn compact(&self) -> Result<Compacted> {
        let Some(epoch) = self.archive.newest_epoch().await? else { return Ok(Compacted::default()) };
        let compacted = compact::run(&self.archive, epoch.id.number(), SystemTime::now()).await?;
        if compacted.removed > 0 {
            self.log.relist(epoch.id, &self.archive.segments(&epoch).await?);
        }
        Ok(compacted)
    }

    /// Removes segments older than `keep` that a snapshot stands for, and what is left of older epochs.
    pub async fn expire(&self, keep: Duration) -> Result<Expired> {
        let Some(epoch) = self.archive.newest_epoch().await? else { return Ok(Expired::default()) };
        let expired = expire::run(&self.archive, epoch.id.number(), keep, SystemTime::now()).await?;
        if expired.segments > 0 {
            self.log.relist(epoch.id, &self.archive.segments(&epoch).await?);
        }
        Ok(expired)
    }

    /// Adds up what the store holds of the newest epoch; none while that is not known.
    pub async fn weigh(&self) -> Result<Option<Weights>> {
        let Some(epoch) = self.log.epoch_id().map(EpochId::number) else { return Ok(None) };
        let segments = self.archive.stored_segments(epoch).await?;
        let snapshots = self.archive.snapshot_objects(epoch).await?;
        let folder = self.archive.keys().snapshots(epoch);
        Ok(Some(Weights::of(segments.iter().map(|segment| segment.bytes), &snapshots, &folder)))
    }

    /// Makes a snapshot, unless one is good enough, and waits until it is whole.
    pub(crate) async fn make_snapshot(&self) -> Result<()> {
        match self.log.epoch() {
            Some(epoch) => self.snapshots.make(&epoch).await,
            None => Ok(()),
        }
    }

    /// Removes snapshots of the newest epoch that nobody can still be taking; tells how many.
    pub async fn expire_snapshots(&self) -> Result<usize> {
        match self.archive.newest_epoch().await? {
            Some(epoch) => self.snapshots.expire(epoch.id, SystemTime::now()).await,
            None => Ok(0),
        }
    }

    /// What is new since a cursor; without anything new, waits for it.
    pub async fn changes(&self, caller: &Caller, wanted: Wanted<'_>) -> Result<ChangesAnswer> {
        let cursor = wanted.cursor.map(str::parse::<Cursor>).transpose()?;
        let deadline = Instant::now() + wanted.wait;
        if !self.log.is_leading() {
            Box::pin(self.refresh.at_once()).await?;
        }
        let epoch = match self.log.epoch() {
            Some(epoch) => epoch,
            None => Box::pin(self.await_epoch(deadline)).await?,
        };
        loop {
            let reader = self.reader_of(caller, cursor).await?;
            let Wanted { tables, scopes_interval, broken_off, takes_urls, .. } = wanted;
            let reader = &reader;
            let asked = Asked { reader, cursor, tables, deadline, scopes_interval, broken_off, takes_urls };
            if let Some(answer) = self.changes_for(caller, &epoch, asked).await? {
                return Ok(answer);
            }
            // What it may read is not, or no more, what was thought.
            self.is_scoped.store(true, Ordering::Relaxed);
        }
    }

    /// What a caller may read. Nobody is asked while all that was met is for everybody.
    async fn reader_of(&self, caller: &Caller, cursor: Option<Cursor>) -> Result<Arc<Readership>> {
        let had_scopes = cursor.is_some_and(|cursor| cursor.scopes().is_some());
        if had_scopes || self.is_scoped.load(Ordering::Relaxed) || self.log.is_scoped() {
            self.scopes.reader(caller).await
        } else {
            Ok(Arc::new(Readership::unknown(caller.kind)))
        }
    }

    /// The same for a reader; None if it has to be asked again what it may read.
    async fn changes_for(
        &self,
        caller: &Caller,
        epoch: &Epoch,
        asked: Asked<'_>,
    ) -> Result<Option<ChangesAnswer>> {
        let Asked { reader, cursor, tables, .. } = asked;
        // Boxed, since thousands wait for the log, and what each of them waits with would hold room for this.
        let take = |place, extent| Box::pin(self.snapshot(asked, place, extent));
        match cursor {
            Some(cursor) if cursor.epoch() != epoch.id => {
                let restored = self.was_restored_since(cursor.epoch(), epoch).await?;
                let moved = if restored { Moved::Restored } else { Moved::On };
                let answer = take(None, Extent::WHOLE).await?;
                Ok(answer.map(|answer| ChangesAnswer { moved, ..answer }))
            }
            // It gained or lost scopes: a snapshot of what it may read now, and it forgets the rest.
            Some(cursor) if cursor.scopes() != reader.mark() => take(None, Extent::WHOLE).await,
            Some(Cursor::Log { position, .. }) if !tables.is_empty() => {
                let extent = Extent { tables, not_before: position.commit_end };
                take(None, extent).await
            }
            Some(Cursor::Log { position, transaction_end, .. }) => {
                match self.await_log(caller, epoch, asked, (position, transaction_end)).await? {
                    Waited::Answer(answer) => Ok(Some(answer)),
                    Waited::ReaderWanted => Ok(None),
                    Waited::TooOld => take(None, Extent::WHOLE).await,
                }
            }
            Some(Cursor::Snapshot { snapshot, part, .. }) => {
                // Another one that takes its place is no older.
                let not_before = if tables.is_empty() { Lsn::ZERO } else { snapshot.lsn };
                take(Some((snapshot, part)), Extent { tables, not_before }).await
            }
            None => take(None, Extent::WHOLE).await,
        }
    }

    async fn await_epoch(&self, deadline: Instant) -> Result<Arc<Epoch>> {
        let deadline = deadline.max(Instant::now() + EPOCH_WAIT_MAX);
        let mut changed = self.log.subscribe();
        loop {
            changed.mark_unchanged();
            if let Some(epoch) = self.log.epoch() {
                return Ok(epoch);
            }
            let missing = || Error::Unavailable { reason: "no epoch is open yet".to_owned() };
            tokio::select! {
                () = self.refresh.when_due() => self.refresh.run().await?,
                changed = tokio::time::timeout_at(deadline, changed.changed()) => {
                    changed.map_err(|_elapsed| missing())?.map_err(|_ended| missing())?;
                }
                () = self.shut_down() => return Err(missing()),
            }
        }
    }

    /// Reads the log from a place on.
    async fn await_log(
        &self,
        caller: &Caller,
        epoch: &Epoch,
        asked: Asked<'_>,
        place: Place,
    ) -> Result<Waited> {
        let Asked { reader, deadline, scopes_interval, .. } = asked;
        let begun = Instant::now();
        let (mut position, mut transaction_end) = place;
        loop {
            let Some((read, more)) = self.reader.read(reader, epoch.id, position, transaction_end).await?
            else {
                return Ok(Waited::TooOld);
            };
            if read.has_pieces && !self.still_reads(caller, reader, begun).await? {
                return Ok(Waited::ReaderWanted);
            }
            (position, transaction_end) = (read.place, read.transaction_end);
            let over = Instant::now() >= deadline || *self.shutdown.borrow();
            if over || !read.frames.is_empty() {
                let cursor =
                    Cursor::Log { epoch: epoch.id, position, transaction_end, scopes: reader.mark() };
                return Ok(Waited::Answer(ChangesAnswer {
                    frames: read.frames,
                    rows: read.rows,
                    cursor: cursor.to_string(),
                    complete: transaction_end && !more,
                    part: None,
                    name: None,
                    url: None,
                    moved: Moved::No,
                    is_by_table: false,
                }));
            }
            let place = (position, transaction_end);
            let Some(wait) = self.log.wait_behind(epoch.id, place, reader) else { continue };
            let leading = self.log.is_leading();
            tokio::select! {
                () = wait.told() => {}
                () = self.scopes.changed(caller, reader, scopes_interval), if reader.is_known() => {
                    return Ok(Waited::ReaderWanted);
                }
                () = self.refresh.when_due(), if !leading => Box::pin(self.refresh.run()).await?,
                () = tokio::time::sleep_until(deadline) => {}
                () = self.shut_down() => {}
            }
            (position, transaction_end) = wait.end().unwrap_or(place);
        }
    }

    /// Whether a reader may still read what it might when a wait began.
    async fn still_reads(&self, caller: &Caller, reader: &Readership, begun: Instant) -> Result<bool> {
        if !reader.is_known() {
            return Ok(false);
        }
        Ok(begun.elapsed() < scopes::FRESH || self.scopes.reader(caller).await?.mark() == reader.mark())
    }

    /// Gives a part of a snapshot: of the one that the client is taking, else the first of a new one. None if the
    /// reader's scopes have to be asked for.
    async fn snapshot(
        &self,
        asked: Asked<'_>,
        place: Option<(SnapshotId, u32)>,
        extent: Extent<'_>,
    ) -> Result<Option<ChangesAnswer>> {
        let epoch = self.await_epoch(Instant::now()).await?;
        let (reader, tables) = (asked.reader, extent.tables);
        let names = (TablesName::of(tables), ReaderName::of(reader));
        let broken_off = asked.broken_off.filter(|name| {
            name.epoch == epoch.id
                && (name.tables, name.reader) == names
                && name.snapshot.lsn >= extent.not_before
        });
        let wanted = PartsWanted { first: 0, same_next: None, tables, reader, takes_urls: asked.takes_urls };
        let begun = || broken_off.filter(|name| name.first == 0).map(|name| (name.snapshot, 0));
        if let Some((id, part)) = place.or_else(begun)
            && let Some(build) = self.snapshots.find(epoch.id, id).await?
        {
            let same = broken_off.filter(|name| name.snapshot == id && name.first == part);
            let wanted = PartsWanted { first: part, same_next: same.map(|name| name.next), ..wanted };
            match self.parts(&epoch, &build, wanted).await? {
                Taken::Answer(answer) => return Ok(Some(answer)),
                Taken::ReaderWanted => return Ok(None),
                Taken::Failed(_) => {}
            }
        }
        let mut reason = "the snapshot was removed while it was read".to_owned();
        for _ in 0..SNAPSHOT_TRIES {
            let build = self.snapshots.obtain(&epoch, extent.not_before).await?;
            match self.parts(&epoch, &build, wanted).await? {
                Taken::Answer(answer) => return Ok(Some(answer)),
                Taken::ReaderWanted => return Ok(None),
                Taken::Failed(why) => reason = why.unwrap_or(reason),
            }
        }
        Err(Error::Unavailable { reason })
    }

    /// The answer with a part, and with those behind it while they hold little for this reader: as many as there are
    /// now, or as there were when the same answer was given before. Or where the part is to be fetched.
    async fn parts(&self, epoch: &Epoch, build: &Build, wanted: PartsWanted<'_>) -> Result<Taken> {
        let PartsWanted { first, same_next, tables, reader, takes_urls } = wanted;
        let id = build.id;
        let mut frames: Vec<Bytes> = Vec::new();
        let mut rows = 0_u64;
        let mut url = None;
        let mut next = first;
        let one = first.saturating_add(1);
        let takes_urls = takes_urls && tables.is_empty() && same_next.is_none_or(|same| same == one);
        let ended = loop {
            let by_url = takes_urls && next == first;
            let is_last = match self.snapshots.part(build, next, tables, reader, by_url).await? {
                PartRead::Part { frames: more, rows: counted, is_last } => {
                    frames.extend(more);
                    rows = rows.saturating_add(counted);
                    is_last
                }
                PartRead::Elsewhere { url: found, rows: counted } => {
                    url = Some(found);
                    rows = counted;
                    next = one;
                    break false;
                }
                PartRead::End => break true,
                PartRead::ReaderWanted => return Ok(Taken::ReaderWanted),
                PartRead::Gone => return Ok(Taken::Failed(None)),
                PartRead::Failed(why) => return Ok(Taken::Failed(Some(why))),
            };
            next = next.saturating_add(1);
            let length: usize = frames.iter().map(Bytes::len).sum();
            let are_all = same_next.map_or(!self.snapshots.has_part(build, next), |same| next >= same);
            if is_last || length >= PART_BYTES_MIN || are_all {
                break is_last;
            }
        };
        let scopes = reader.mark();
        let cursor = if ended {
            Cursor::Log { epoch: epoch.id, position: Position::after(id.lsn), transaction_end: true, scopes }
        } else {
            Cursor::Snapshot { epoch: epoch.id, snapshot: id, part: next, scopes }
        };
        let (names, reader) = (TablesName::of(tables), ReaderName::of(reader));
        let name = PartsName { epoch: epoch.id, snapshot: id, first, next, tables: names, reader };
        Ok(Taken::Answer(ChangesAnswer {
            frames,
            rows,
            cursor: cursor.to_string(),
            complete: ended && (!tables.is_empty() || self.is_end(id.lsn)),
            part: Some(first),
            name: Some(name),
            url,
            moved: Moved::No,
            is_by_table: !tables.is_empty(),
        }))
    }

    /// Whether nothing is known that committed after this LSN.
    fn is_end(&self, lsn: Lsn) -> bool {
        self.log.end().is_none_or(|(end, _bytes)| end <= Position::after(lsn))
    }

    async fn shut_down(&self) {
        let mut shutdown = self.shutdown.clone();
        crate::shutdown::asked(&mut shutdown).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_feed_is_ready_when_new_changes_will_come() {
        let ready = FeedStatus {
            connected: true,
            leader: false,
            epoch: Some("1-00000001".to_owned()),
            position: None,
            problem: None,
        };
        assert!(ready.ready());
        assert!(!FeedStatus { epoch: None, ..ready.clone() }.ready());
        assert!(!FeedStatus { connected: false, ..ready.clone() }.ready());
        assert!(!FeedStatus { problem: Some("slot is lost".to_owned()), ..ready }.ready());
    }
}
