//! One reign: from the lock to the end of the connection.
//!
//! Everything is compared with the store before anything is skipped. Then frames of the plugin become payload
//! frames: they go to the tail at once and to the store behind it, and the slot follows the store. Only synchronous
//! standbys are waited for.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use prometheus::IntGauge;
use shared_format::payload::{Payload, Reload};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::control::Control;
use super::gather::Gatherer;
use super::ground::{Ground, random_tag};
use super::lag::{Unstored, postgres_time};
use super::news::{News, SEGMENTS_MAX};
use super::outbox::{Outbox, Stored};
use super::reign::Reign;
use super::slice::Slice;
use super::standby::HeldBack;
use super::verify::{Skip, Verifier};
use super::{Ingest, RETRY_MIN};
use crate::definitions::Definitions;
use crate::epoch::{Epoch, EpochId, EpochReason};
use crate::error::{Error, Result};
use crate::feed::log::Log;
use crate::keys::SegmentName;
use crate::position::{Lsn, Position};
use crate::replication::{
    FrameMessage, ReplicationConnection, ReplicationStream, StreamMessage, TransactionFrame,
};
use crate::segment::SegmentIndex;
use crate::shutdown::asked;
use crate::snapshot::visibility::DecodedTransactions;

/// How often the server is told where we are, and asked for a sign of life.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);

/// A server silent for so long, though asked, is gone.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Time between two idle markers: see DESIGN section 10.
const IDLE_INTERVAL: Duration = Duration::from_secs(60);

/// How often the lock's connection is used, and decoded transactions are looked for in a snapshot.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);

/// Longest time that a slot stays in use after the connection that used it has ended.
pub(super) const SLOT_RELEASE_MAX: Duration = Duration::from_secs(5);

/// Longest wait at shutdown for what is decoded to be stored.
const DRAIN_MAX: Duration = Duration::from_secs(3);

/// How a reign ended in peace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// The process stops.
    Shutdown,
    /// A new epoch was opened; lead it from its start.
    NewEpoch,
}

/// A reign.
struct Leader<'a> {
    ingest: &'a Ingest,
    control: &'a Control,
    epoch: &'a Epoch,
    verifier: Verifier,
    definitions: Arc<Mutex<Definitions>>,
    outbox: Arc<Outbox>,
    stored: watch::Receiver<Stored>,
    stream: ReplicationStream,
    gatherer: Gatherer,
    slice: Slice,
    held: HeldBack,
    unstored: Unstored,
    transaction: Option<OpenTransaction>,
    /// Messages up to here are in the store already.
    skip_up_to: Position,
    /// The store ends within a transaction, so that the end of it has still to be told.
    stored_within: bool,
    /// All transactions that committed up to here arrived.
    received: Lsn,
    heard: Instant,
    marked_idle: Option<Instant>,
    /// Where the next epoch begins, once everything before is stored.
    next_epoch: Option<Lsn>,
}

/// The transaction that is being received.
#[derive(Clone, Copy, Debug, Default)]
struct OpenTransaction {
    xid: Option<u64>,
    reload: bool,
    /// A message of it was passed over, and the log says so.
    is_told: bool,
}

impl Ingest {
    /// Leads until something ends it. The lock is held by `control`.
    pub(super) async fn lead(&self, control: &Arc<Control>) -> Result<Ended> {
        let Ground { connection, slot, epoch, index, stored } = self.find_ground(control).await?;
        let epoch = &epoch;
        // Taken after the store's end was read, so all that was decoded before is below it.
        let snapshot = control.snapshot().await?;
        let fence = control.next_fence().await?;
        let (definitions, stored_within) = self.known_definitions(control, epoch, &index).await?;
        let key = control.message_key().await?;
        let end = index.last();
        let stream = start(control, connection, &slot).await?;
        let (news, stored_names) = mpsc::unbounded_channel();
        let reign = Reign {
            epoch: epoch.clone(),
            index,
            fence,
            server_start: control.server_start().await?,
            decoded: DecodedTransactions::begin(end.commit_end, &snapshot),
            definitions: Arc::clone(&definitions),
            news,
        };
        let (outbox, mut tasks) = self.begin_reign(reign).await?;
        tasks.spawn(tell(Arc::clone(control), epoch.id, key.clone(), stored_names));
        let mut heartbeat = JoinSet::new();
        heartbeat.spawn(beat(
            Arc::clone(control),
            Arc::clone(&self.log),
            slot,
            self.metrics.slot_retained_bytes.clone(),
        ));
        let held = HeldBack::follow(control, &mut heartbeat).await?;
        let mut leader = Leader {
            ingest: self,
            control,
            epoch,
            verifier: Verifier::new(key),
            definitions,
            stored: outbox.stored(),
            outbox,
            stream,
            gatherer: Gatherer::default(),
            slice: Slice::default(),
            held,
            unstored: Unstored::default(),
            transaction: None,
            skip_up_to: end,
            stored_within,
            received: stored,
            heard: Instant::now(),
            marked_idle: None,
            next_epoch: None,
        };
        let outcome = leader.run(&mut heartbeat).await;
        self.metrics.standby_held_bytes.set(0);
        if let Err(error) = &outcome {
            // What clients were given from memory must not be lost with a server that does not come back.
            leader.keep_what_was_given().await;
            self.note_ending(error, leader.stored.borrow().position);
        }
        outcome
    }

    /// Definitions of the catalog, of the epoch object and of the newest segment; and whether that one ends
    /// within a transaction.
    async fn known_definitions(
        &self,
        control: &Control,
        epoch: &Epoch,
        index: &SegmentIndex,
    ) -> Result<(Arc<Mutex<Definitions>>, bool)> {
        let mut definitions = Definitions::default();
        let mut ends_within = false;
        definitions.add_payload(&epoch.definitions)?;
        if let Some(name) = index.newest() {
            let segment = self.archive.segment(epoch.id.number(), *name).await?;
            let segment = segment.ok_or(Error::LogGap { after: name.previous })?;
            definitions.add_payload(&segment.definitions)?;
            ends_within = !segment.transaction_end;
        }
        definitions.add_payload(&control.definitions().await?)?;
        Ok((Arc::new(Mutex::new(definitions)), ends_within))
    }
}

impl Leader<'_> {
    async fn run(&mut self, heartbeat: &mut JoinSet<Error>) -> Result<Ended> {
        let mut shutdown = self.ingest.shutdown.clone();
        let mut status = interval(STATUS_INTERVAL);
        status.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let may_read = self.next_epoch.is_none() && self.has_room();
            tokio::select! {
                message = self.stream.next(), if may_read => {
                    self.take(message?).await?;
                    self.take_what_is_here().await?;
                    if self.open_next_epoch().await? {
                        return Ok(Ended::NewEpoch);
                    }
                }
                changed = self.stored.changed() => {
                    changed.expect("the outbox outlives the reign");
                    self.note_stored();
                    self.send_status(false).await?;
                    if self.open_next_epoch().await? {
                        return Ok(Ended::NewEpoch);
                    }
                }
                () = self.held.changed() => self.release(),
                _ = status.tick() => {
                    self.held.complain(self.ingest.database.as_str());
                    if may_read && self.heard.elapsed() > SILENCE_MAX {
                        return Err(Error::ReplicationClosed(std::io::ErrorKind::TimedOut.into()));
                    }
                    self.ingest.check_epoch_is_newest(self.epoch.id).await?;
                    self.send_status(true).await?;
                }
                Some(ended) = heartbeat.join_next() => {
                    return Err(ended.unwrap_or(Error::Unavailable { reason: "heartbeat ended".to_owned() }));
                }
                () = asked(&mut shutdown) => {
                    self.drain().await?;
                    return Ok(Ended::Shutdown);
                }
            }
        }
    }

    /// Takes messages until none is left in memory, then cuts what was gathered.
    async fn take_what_is_here(&mut self) -> Result<()> {
        while self.next_epoch.is_none() && self.has_room() {
            let Some(message) = self.stream.buffered()? else { break };
            self.take(message).await?;
        }
        self.cut_if_due(false);
        Ok(())
    }

    async fn take(&mut self, message: StreamMessage) -> Result<()> {
        self.heard = Instant::now();
        match message {
            StreamMessage::Output { wal_end, bytes } => {
                self.note_lag(wal_end);
                self.take_frame(TransactionFrame::decode(bytes)?).await
            }
            StreamMessage::Keepalive { sent, reply_wanted } => {
                self.note_lag(sent);
                self.received = self.received.max(sent);
                self.mark_idle();
                if reply_wanted { self.answer(sent).await } else { Ok(()) }
            }
        }
    }

    async fn take_frame(&mut self, frame: TransactionFrame) -> Result<()> {
        for message in &frame.messages {
            self.take_message(&frame, message).await?;
            self.cut_if_due(true);
            if self.slice.is_over(message.body.len()) {
                tokio::task::yield_now().await;
            }
        }
        if frame.last {
            let open = self.transaction.take().unwrap_or_default();
            self.gatherer.end_transaction(frame.commit_end, open.xid, !open.reload);
            if open.reload {
                self.next_epoch = Some(frame.commit_end);
                self.cut();
            }
            self.received = self.received.max(frame.commit_end);
            self.note_decoded(&frame);
            self.cut_if_due(true);
        }
        Ok(())
    }

    async fn take_message(&mut self, frame: &TransactionFrame, message: &FrameMessage) -> Result<()> {
        let position = frame.position(message);
        let open = self.transaction.get_or_insert_default();
        if self.stored_within && position == self.skip_up_to {
            self.gatherer.go_on_within();
        }
        let verified = match self.verifier.verify(frame.top_xid, &message.body) {
            Ok(verified) => verified,
            Err(skip) => {
                self.pass_over(skip, position);
                return Ok(());
            }
        };
        open.xid = Some(verified.xid);
        match self.take_changeset(frame, position, verified.changeset).await {
            Err(Error::Format(error)) => {
                tracing::error!(position = %position, %error, "signed message cannot be read, a new epoch follows");
                self.pass_over(Skip::Changeset, position);
                // Clients get what it told from a snapshot.
                self.note_reload(frame);
                Ok(())
            }
            other => other,
        }
    }

    async fn take_changeset(
        &mut self,
        frame: &TransactionFrame,
        position: Position,
        changeset: &[u8],
    ) -> Result<()> {
        let payload = Payload::parse(changeset)?;
        let new = payload.definitions()?;
        let other_readers = {
            let known = definitions(&self.definitions);
            new.iter().any(|definition| known.changes_readers(definition))
        };
        // Snapshots and the log so far were for other readers, or for other names.
        if other_readers || payload.reloads().iter().any(ends_epoch) {
            self.note_reload(frame);
        }
        if position <= self.skip_up_to {
            return Ok(());
        }
        self.ingest.metrics.ingested_rows.inc_by(payload.row_count());
        let size = changeset.len();
        let added = self.gatherer.add(position, &payload, size, &mut definitions(&self.definitions));
        match added {
            Err(Error::UnknownDefinition { .. }) => {
                let catalog = self.control.definitions().await?;
                let mut known = definitions(&self.definitions);
                known.add_payload(&catalog)?;
                self.gatherer.add(position, &payload, size, &mut known)
            }
            other => other,
        }
    }

    /// Notes that the open transaction ends the epoch. What the epoch began with is in its snapshots.
    fn note_reload(&mut self, frame: &TransactionFrame) {
        if frame.commit_end > self.epoch.start {
            self.transaction.get_or_insert_default().reload = true;
        }
    }

    /// Counts a message that is not taken, and says so once in each transaction.
    fn pass_over(&mut self, skip: Skip, position: Position) {
        if position <= self.skip_up_to {
            return;
        }
        let reason = skip.reason();
        self.ingest.metrics.count_message_skipped(reason);
        self.gatherer.skip(position);
        let open = self.transaction.get_or_insert_default();
        if !std::mem::replace(&mut open.is_told, true) {
            let database = self.ingest.database.as_str();
            tracing::warn!(database, position = %position, reason, "message in the WAL skipped");
        }
    }

    /// Cuts a frame if it is time; says whether it did.
    fn cut_if_due(&mut self, more_is_here: bool) -> bool {
        self.gatherer.is_due(more_is_here) && self.cut()
    }

    /// Whether more may be read before the store has taken what waits.
    fn has_room(&self) -> bool {
        let waiting = self.outbox.waiting_bytes().saturating_add(self.held.bytes());
        waiting < self.ingest.log.waiting_bytes_max()
    }

    fn cut(&mut self) -> bool {
        let Some(gathered) = self.gatherer.cut() else { return false };
        self.held.push(gathered);
        self.release();
        true
    }

    /// Gives clients and the store what nothing holds back any more.
    fn release(&mut self) {
        while let Some(gathered) = self.held.next() {
            self.ingest.log.push(gathered.frame.clone(), &gathered.transactions);
            self.outbox.push(gathered);
        }
        self.note_visible();
        self.note_memory();
    }

    /// Whether everything that arrived is in the store.
    fn is_all_stored(&self) -> bool {
        self.transaction.is_none()
            && self.gatherer.is_empty()
            && self.held.is_empty()
            && self.ingest.log.end().is_none_or(|(end, _)| end <= self.stored.borrow().position)
    }

    /// Lets the slot follow a server on which nothing happens for us.
    fn mark_idle(&mut self) {
        let rested = self.marked_idle.is_none_or(|marked| marked.elapsed() >= IDLE_INTERVAL);
        if rested && self.received > self.stored.borrow().confirm && self.is_all_stored() {
            self.marked_idle = Some(Instant::now());
            self.outbox.mark_idle(self.received);
        }
    }

    fn note_lag(&self, newest: Lsn) {
        let stored = self.stored.borrow().confirm;
        let gauge = |lsn: Lsn| i64::try_from(lsn.raw()).unwrap_or(i64::MAX);
        self.ingest.metrics.ingest_position_bytes.set(gauge(stored));
        if stored > Lsn::ZERO {
            let lag = newest.raw().saturating_sub(stored.raw());
            self.ingest.metrics.ingest_lag_bytes.set(gauge(Lsn::new(lag)));
        }
    }

    /// Takes note of a transaction that was decoded.
    fn note_decoded(&mut self, frame: &TransactionFrame) {
        let again = frame.commit_end <= self.skip_up_to.commit_end;
        let Some(committed) = postgres_time(frame.commit_time_us).filter(|_| !again) else { return };
        self.unstored.push(frame.commit_end, committed);
        self.held.push_commit(frame.commit_end, committed);
        self.note_visible();
        self.note_stored();
    }

    /// Measures how late the transactions are that clients can have now.
    fn note_visible(&mut self) {
        while let Some(committed) = self.held.next_commit() {
            // The server's clock may be ahead of this one.
            let late = SystemTime::now().duration_since(committed).unwrap_or_default();
            self.ingest.metrics.ingest_seconds.observe(late.as_secs_f64());
        }
    }

    fn note_memory(&self) {
        let bytes = i64::try_from(self.ingest.log.memory_bytes()).unwrap_or(i64::MAX);
        self.ingest.metrics.log_memory_bytes.set(bytes);
        let held = i64::try_from(self.held.bytes()).unwrap_or(i64::MAX);
        self.ingest.metrics.standby_held_bytes.set(held);
    }

    /// Measures how far the store is behind.
    fn note_stored(&mut self) {
        self.note_memory();
        let confirm = self.stored.borrow().confirm;
        self.ingest.metrics.behind.set(self.unstored.stored_up_to(confirm));
    }

    /// Tells the server what arrived and what is stored.
    async fn send_status(&mut self, reply_wanted: bool) -> Result<()> {
        let confirm = self.stored.borrow_and_update().confirm;
        self.stream.send_status(self.received.max(confirm), confirm, reply_wanted).await
    }

    /// Answers a server that wants to know where we are.
    ///
    /// One that shuts down waits until the confirmed place is the end of what it sent; without a confirmed place
    /// it is content that all arrived. What is not stored yet it sends again when it is back.
    async fn answer(&mut self, sent: Lsn) -> Result<()> {
        let confirm = self.stored.borrow().confirm;
        let confirm = if confirm < sent { Lsn::ZERO } else { confirm };
        self.stream.send_status(self.received, confirm, false).await
    }

    /// Opens the epoch that a reload asked for, once all before it is stored.
    async fn open_next_epoch(&mut self) -> Result<bool> {
        let Some(start) = self.next_epoch.filter(|_| self.is_all_stored()) else { return Ok(false) };
        let number = self.epoch.id.number().saturating_add(1);
        let definitions = self.control.definitions().await?;
        let id = EpochId::new(number, random_tag()?);
        let epoch = Epoch { id, start, definitions, reason: EpochReason::Reload, ..self.epoch.clone() };
        self.ingest.archive.open_epoch(&epoch).await?;
        Ok(true)
    }

    /// Stores what was decoded, as far as that is quick, and moves the slot there.
    async fn drain(&mut self) -> Result<()> {
        if self.keep_what_was_given().await { self.send_status(false).await } else { Ok(()) }
    }

    /// Waits until the store has all that clients may have been given; false if that takes too long.
    async fn keep_what_was_given(&mut self) -> bool {
        let deadline = Instant::now() + DRAIN_MAX;
        while self.outbox.waiting_bytes() > 0 {
            if tokio::time::timeout_at(deadline, self.stored.changed()).await.is_err() {
                return false;
            }
        }
        true
    }
}

/// Reasons to read a table anew that leave true what the log told of it, and for whom: clients take a snapshot of
/// that table alone.
const RELOADS_OF_ONE_TABLE: [&str; 8] =
    ["capture was suspended", "dropped", "enable", "init", "new column", "partition", "truncate", "type"];

/// Whether what is in the log and in snapshots so far may not be given to anybody any more.
fn ends_epoch(reload: &Reload) -> bool {
    !RELOADS_OF_ONE_TABLE.contains(&reload.reason.as_str())
}

fn definitions(shared: &Mutex<Definitions>) -> MutexGuard<'_, Definitions> {
    shared.lock().expect("no step on definitions panics")
}

/// Streams from the slot. Its last user is ended where it has not let go: the lock says that we lead.
async fn start(
    control: &Control,
    connection: ReplicationConnection,
    slot: &str,
) -> Result<ReplicationStream> {
    let deadline = Instant::now() + SLOT_RELEASE_MAX;
    let mut connection = connection;
    loop {
        match connection.start(slot).await {
            Err(Error::SlotActive { .. }) if Instant::now() < deadline => {
                control.end_slot_reader(slot).await?;
                tokio::time::sleep(RETRY_MIN).await;
                connection = ReplicationConnection::connect(control.url()).await?;
            }
            other => return other,
        }
    }
}

/// Tells other nodes that an epoch is led, and of each segment that is stored.
async fn tell(
    control: Arc<Control>,
    epoch: EpochId,
    key: Vec<u8>,
    mut stored: mpsc::UnboundedReceiver<SegmentName>,
) {
    let mut news = News { epoch, segments: Vec::new() };
    loop {
        if let Err(error) = control.tell(&news.sign(&key)).await {
            // They find it in the store, later; the lock's connection is watched elsewhere.
            tracing::debug!(problem = error.logged(), "other nodes were not told");
        }
        news.segments.clear();
        if stored.recv_many(&mut news.segments, SEGMENTS_MAX).await == 0 {
            return;
        }
    }
}

/// Uses the lock's connection, so that its loss is noticed, follows which transactions became visible, and weighs
/// the WAL that the slot holds back.
async fn beat(control: Arc<Control>, log: Arc<Log>, slot: String, retained: IntGauge) -> Error {
    let mut weighed: Option<Instant> = None;
    let mut ticks = interval(HEARTBEAT_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match control.snapshot().await {
            Ok(snapshot) => log.forget_shown(&snapshot),
            Err(error) => return error,
        }
        if weighed.is_none_or(|weighed| weighed.elapsed() >= STATUS_INTERVAL) {
            weighed = Some(Instant::now());
            match control.slot_retained(&slot).await {
                Ok(bytes) => retained.set(bytes),
                Err(error) => return error,
            }
        }
    }
}
