//! Puts what was decoded into the store, in order: segments, and idle markers in between.
//!
//! A segment is cut at once when nothing is on its way, otherwise it takes what gathered meanwhile, up to its
//! limit. Only after the store has it, `stored` moves, and with it the slot.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, mpsc, watch};

use super::archive::Archive;
use super::gather::Gathered;
use crate::definitions::Definitions;
use crate::epoch::EpochId;
use crate::feed::log::Log;
use crate::keys::{Fence, SegmentName};
use crate::metrics::DatabaseMetrics;
use crate::position::{Lsn, Position};
use crate::segment::{SEGMENT_BYTES_MAX, Segment, into_blocks};

/// First wait after a failed write; it doubles up to `RETRY_MAX`.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// What the store holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    /// The last position in a segment.
    pub(crate) position: Position,
    /// The slot may move here.
    pub(crate) confirm: Lsn,
}

/// What waits to be written.
#[derive(Debug, Default)]
struct Waiting {
    frames: VecDeque<Gathered>,
    bytes: usize,
    idle: Option<Lsn>,
}

/// What to write next.
#[derive(Debug)]
enum Next {
    Segment(Vec<Gathered>),
    Idle(Lsn),
}

/// A write that must not fail.
enum Write {
    Segment(Segment),
    Idle(Lsn),
}

/// The way from the decoder to the store.
pub(crate) struct Outbox {
    waiting: Mutex<Waiting>,
    arrived: Notify,
    stored: watch::Sender<Stored>,
}

/// Where and for whom an outbox writes.
pub(crate) struct Destination {
    pub(crate) archive: Archive,
    pub(crate) log: Arc<Log>,
    pub(crate) metrics: DatabaseMetrics,
    pub(crate) definitions: Arc<Mutex<Definitions>>,
    pub(crate) epoch: EpochId,
    pub(crate) fence: Fence,
    /// Takes the name of each segment that is stored.
    pub(crate) news: mpsc::UnboundedSender<SegmentName>,
}

impl Outbox {
    /// Begins where the store ends.
    pub(crate) fn new(stored: Stored) -> Outbox {
        Outbox { waiting: Mutex::default(), arrived: Notify::new(), stored: watch::Sender::new(stored) }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().expect("no step on the outbox panics")
    }

    /// Adds a frame.
    pub(crate) fn push(&self, gathered: Gathered) {
        let mut waiting = self.waiting();
        waiting.bytes = waiting.bytes.saturating_add(gathered.frame.byte_len());
        waiting.frames.push_back(gathered);
        drop(waiting);
        self.arrived.notify_one();
    }

    /// Asks for a marker that nothing happens up to here.
    pub(crate) fn mark_idle(&self, lsn: Lsn) {
        self.waiting().idle = Some(lsn);
        self.arrived.notify_one();
    }

    /// Bytes that are not written yet.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.waiting().bytes
    }

    /// Follows what the store holds.
    pub(crate) fn stored(&self) -> watch::Receiver<Stored> {
        self.stored.subscribe()
    }

    fn take(&self) -> Option<Next> {
        let mut waiting = self.waiting();
        let mut taken: Vec<Gathered> = Vec::new();
        let mut bytes = 0_usize;
        while let Some(gathered) = waiting.frames.front() {
            let length = gathered.frame.byte_len();
            if !taken.is_empty() && bytes.saturating_add(length) > SEGMENT_BYTES_MAX {
                break;
            }
            bytes = bytes.saturating_add(length);
            taken.extend(waiting.frames.pop_front());
        }
        if taken.is_empty() {
            return waiting.idle.take().map(Next::Idle);
        }
        Some(Next::Segment(taken))
    }

    async fn next(&self) -> Next {
        loop {
            if let Some(next) = self.take() {
                return next;
            }
            self.arrived.notified().await;
        }
    }

    /// Writes until the task is dropped.
    pub(crate) async fn run(self: Arc<Self>, to: Destination) {
        loop {
            match self.next().await {
                Next::Segment(taken) => self.write_segment(&to, taken).await,
                Next::Idle(lsn) => {
                    to.write(&Write::Idle(lsn)).await;
                    self.stored.send_modify(|stored| stored.confirm = stored.confirm.max(lsn));
                }
            }
        }
    }

    async fn write_segment(&self, to: &Destination, taken: Vec<Gathered>) {
        let bytes: usize = taken.iter().map(|gathered| gathered.frame.byte_len()).sum();
        let confirm = taken.iter().filter_map(|gathered| gathered.confirm).next_back();
        let previous = self.stored.borrow().position;
        let Some(segment) = assemble(previous, to, taken) else { return };
        let name = segment.name;
        to.write(&Write::Segment(segment)).await;
        to.metrics.segments_written.inc();
        to.log.add_segment(to.epoch, name);
        // Nobody to tell means that the reign ends.
        let _ended = to.news.send(name);
        let mut waiting = self.waiting();
        waiting.bytes = waiting.bytes.saturating_sub(bytes);
        drop(waiting);
        self.stored.send_modify(|stored| {
            stored.position = name.last;
            stored.confirm = stored.confirm.max(confirm.unwrap_or(Lsn::ZERO));
        });
    }
}

impl Destination {
    /// Tries a write until the store takes it: nothing behind it may be written before.
    async fn write(&self, write: &Write) {
        let mut wait = RETRY_MIN;
        let epoch = self.epoch.number();
        loop {
            let outcome = match write {
                Write::Segment(segment) => self.archive.put_segment(epoch, segment).await,
                Write::Idle(lsn) => self.archive.put_idle(epoch, self.fence, *lsn).await,
            };
            let Err(error) = outcome else { return };
            tracing::warn!(problem = error.logged(), "store refused a write of ingest, trying again");
            tokio::time::sleep(super::jittered(wait)).await;
            wait = wait.saturating_mul(2).min(RETRY_MAX);
        }
    }
}

/// Joins frames to a segment.
fn assemble(previous: Position, to: &Destination, taken: Vec<Gathered>) -> Option<Segment> {
    let end = taken.last()?;
    let name = SegmentName { previous, last: end.frame.last, fence: to.fence };
    let transaction_end = end.frame.transaction_end;
    let mut used = BTreeSet::new();
    let mut frames = Vec::new();
    let mut transactions = Vec::new();
    for gathered in taken {
        used.extend(gathered.used);
        transactions.extend(gathered.transactions);
        frames.push(gathered.frame);
    }
    let definitions = to.definitions.lock().expect("no step on definitions panics").in_force(&used);
    Some(Segment {
        name,
        transaction_end,
        scopes: into_blocks(frames),
        transactions,
        definitions: Bytes::from(definitions),
    })
}
