//! What this node knows of one database's log: the epoch, the segments, and the tail while it leads.
//!
//! Written by ingest, or by what a follower finds in the store; read by downloads. The locks are held for short
//! steps only, never while anything is awaited.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::{Notify, watch};

use super::cache::ReadSegment;
use super::tail::{LogRead, Tail};
use super::waiters::{Place, Told, Waiters};
use crate::audience::Readership;
use crate::definitions::Definitions;
use crate::epoch::{Epoch, EpochId};
use crate::keys::SegmentName;
use crate::memory::Share;
use crate::position::{Lsn, Position};
use crate::segment::{Found, LogFrame, SegmentIndex, Transaction};
use crate::snapshot::visibility::{DecodedTransactions, PgSnapshot};

/// The log of one database as this node knows it.
#[derive(Debug)]
pub(crate) struct Log {
    share: Share,
    state: Mutex<State>,
    changed: watch::Sender<()>,
    /// Segments came from elsewhere.
    news: Notify,
    /// The leader tells this node of every new segment.
    is_told: AtomicBool,
    /// There may be something that this node was not told of.
    is_in_doubt: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    current: Option<Current>,
    leading: Option<Leading>,
    waiters: Waiters,
    /// Where segments begin that came from elsewhere and that nobody looked at for those who wait.
    news_behind: Option<Position>,
    /// Counts bytes of the log, to tell how much there is behind a snapshot.
    bytes: u64,
}

#[derive(Debug)]
struct Current {
    epoch: Arc<Epoch>,
    /// The rows of a table name their readers.
    is_scoped: bool,
    index: SegmentIndex,
}

#[derive(Debug)]
struct Leading {
    tail: Tail,
    decoded: DecodedTransactions,
    live: bool,
}

/// What there is that nobody looked at for those who wait.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// Nothing, or nobody waits.
    Nothing,
    /// This segment.
    Segment(EpochId, SegmentName),
    /// It is not known; those who wait have to look for themselves.
    Lost,
}

/// A wait of one reader for what concerns it.
#[derive(Debug)]
pub(crate) struct Wait<'a> {
    log: &'a Log,
    number: u64,
    told: Arc<Notify>,
}

impl Wait<'_> {
    /// Lasts until something concerns the reader.
    pub(crate) async fn told(&self) {
        self.told.notified().await;
    }

    /// Ends the wait; gives the place to read on from.
    pub(crate) fn end(&self) -> Option<Place> {
        self.log.state().waiters.leave(self.number)
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        // It may have ended already.
        let _place = self.end();
    }
}

/// What there is for a reader.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Everything that is known was read.
    End,
    /// The next frames are in this segment.
    Segment(SegmentName),
    /// The answer is full.
    Full,
    /// The place is of another epoch, or older than the oldest segment that is kept.
    TooOld,
    /// Later segments are there, but none that goes on from the place.
    Gap,
}

impl Log {
    pub(crate) fn new(share: Share) -> Log {
        Log {
            share,
            state: Mutex::default(),
            changed: watch::Sender::new(()),
            news: Notify::new(),
            is_told: AtomicBool::new(false),
            is_in_doubt: AtomicBool::new(true),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no step on the log panics")
    }

    /// Begins to wait behind a place; none if something is there already.
    pub(crate) fn wait_behind(
        &self,
        epoch: EpochId,
        place: Place,
        reader: &Arc<Readership>,
    ) -> Option<Wait<'_>> {
        let mut state = self.state();
        let current = state.current.as_ref().filter(|current| current.epoch.id == epoch)?;
        let tail = state.leading.as_ref().map(|leading| leading.tail.last());
        let end = tail.map_or(current.index.last(), |tail| tail.max(current.index.last()));
        if end > place.0 {
            return None;
        }
        let (number, told) = state.waiters.enter(reader, place);
        drop(state);
        Some(Wait { log: self, number, told })
    }

    /// Tells when another epoch may have begun.
    pub(crate) fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// The newest epoch.
    pub(crate) fn epoch(&self) -> Option<Arc<Epoch>> {
        self.state().current.as_ref().map(|current| Arc::clone(&current.epoch))
    }

    /// Whether the rows of a table name their readers: then those who wait may come to read others.
    pub(crate) fn is_scoped(&self) -> bool {
        self.state().current.as_ref().is_some_and(|current| current.is_scoped)
    }

    /// The newest epoch's name.
    pub(crate) fn epoch_id(&self) -> Option<EpochId> {
        self.state().current.as_ref().map(|current| current.epoch.id)
    }

    /// Takes what the store holds: the newest epoch and its segments. What is known already stays known.
    pub(crate) fn open(&self, epoch: Epoch, index: SegmentIndex) {
        let mut state = self.state();
        match &mut state.current {
            Some(current) if current.epoch.id == epoch.id => current.index.add_all(&index),
            Some(current) if current.epoch.id.number() > epoch.id.number() => {}
            Some(_) | None => {
                state.leading = None;
                state.current = Some(Current { is_scoped: is_scoped(&epoch), epoch: Arc::new(epoch), index });
            }
        }
        state.news_behind = None;
        let told = state.waiters.begin_anew();
        drop(state);
        told.wake();
        self.changed.send_replace(());
    }

    /// Begins to lead from where the opened epoch ends in the store.
    pub(crate) fn begin_leading(&self, decoded: DecodedTransactions) {
        let mut state = self.state();
        let Some(current) = &state.current else { return };
        let tail = Tail::new(current.index.last(), self.share.bytes_max());
        state.leading = Some(Leading { tail, decoded, live: true });
        state.news_behind = None;
        let told = state.waiters.begin_anew();
        drop(state);
        told.wake();
    }

    /// Leads no more; what is in memory is served until another leader is heard of.
    pub(crate) fn stop_leading(&self) {
        if let Some(leading) = &mut self.state().leading {
            leading.live = false;
        }
        self.wake();
    }

    /// Whether this node decodes the log itself.
    pub(crate) fn is_leading(&self) -> bool {
        self.state().leading.as_ref().is_some_and(|leading| leading.live)
    }

    /// Bytes that may wait for the store before the leader stops reading.
    pub(crate) fn waiting_bytes_max(&self) -> usize {
        self.share.waiting_bytes_max()
    }

    /// Bytes of the log that are in memory.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.state().leading.as_ref().map_or(0, |leading| leading.tail.bytes())
    }

    /// Adds decoded frames to the tail.
    pub(crate) fn push(&self, frame: LogFrame, transactions: &[Transaction]) {
        let mut state = self.state();
        let length = u64::try_from(frame.byte_len()).unwrap_or(u64::MAX);
        state.bytes = state.bytes.saturating_add(length);
        let told = state.waiters.pass(&frame);
        if let Some(leading) = &mut state.leading {
            leading.tail.set_bytes_max(self.share.bytes_max());
            leading.tail.push(frame);
            for transaction in transactions {
                leading.decoded.push(*transaction);
            }
        }
        drop(state);
        told.wake();
    }

    /// Adds a segment of the newest epoch that is now in the store; says whether it is news.
    pub(crate) fn add_segment(&self, epoch: EpochId, name: SegmentName) -> bool {
        let mut state = self.state();
        let Some(current) = state.current.as_mut().filter(|current| current.epoch.id == epoch) else {
            return false;
        };
        let end = current.index.last();
        let news = current.index.add(name);
        let is_own = state.leading.as_ref().is_some_and(|leading| leading.live);
        if news && !is_own {
            state.news_behind.get_or_insert(end);
        }
        if let Some(leading) = &mut state.leading {
            leading.tail.set_bytes_max(self.share.bytes_max());
            leading.tail.stored_up_to(name.last);
        }
        news
    }

    /// Takes a new listing of an epoch: segments that were removed since are forgotten.
    pub(crate) fn relist(&self, epoch: EpochId, listed: &SegmentIndex) {
        let mut state = self.state();
        if let Some(current) = state.current.as_mut().filter(|current| current.epoch.id == epoch) {
            current.index.replace(listed);
        }
        drop(state);
        self.wake();
    }

    /// Begins or ends to be told of new segments by the leader.
    pub(crate) fn set_told(&self, is_told: bool) {
        self.is_told.store(is_told, Ordering::Release);
        self.doubt();
    }

    /// Whether the leader tells of new segments.
    pub(crate) fn is_told(&self) -> bool {
        self.is_told.load(Ordering::Acquire)
    }

    /// Notes that there may be something that this node was not told of.
    pub(crate) fn doubt(&self) {
        self.is_in_doubt.store(true, Ordering::Release);
        self.wake();
    }

    /// Whether there may be something that this node was not told of.
    pub(crate) fn is_in_doubt(&self) -> bool {
        self.is_in_doubt.load(Ordering::Acquire)
    }

    /// Notes that the store is looked at now.
    pub(crate) fn end_doubt(&self) {
        self.is_in_doubt.store(false, Ordering::Release);
    }

    /// Takes what the leader tells of the epoch that it leads.
    pub(crate) fn hear(&self, epoch: EpochId, segments: &[SegmentName]) {
        if self.epoch_id() != Some(epoch) {
            return self.doubt();
        }
        let news = segments.iter().filter(|name| self.add_segment(epoch, **name)).count();
        if self.is_broken() {
            self.doubt();
        } else if news > 0 {
            self.tell_news();
        }
    }

    /// Tells that segments came from elsewhere.
    pub(crate) fn tell_news(&self) {
        self.news.notify_one();
    }

    /// Waits until segments come from elsewhere.
    pub(crate) async fn news_came(&self) {
        self.news.notified().await;
    }

    /// What has to be looked at next for those who wait.
    pub(crate) fn next_news(&self) -> News {
        let mut state = self.state();
        let Some(place) = state.news_behind.filter(|_| !state.waiters.is_empty()) else {
            state.news_behind = None;
            return News::Nothing;
        };
        let found = state.current.as_ref().map(|current| (current.epoch.id, current.index.find(place)));
        if let Some((epoch, Found::Segment(name))) = found {
            return News::Segment(epoch, name);
        }
        state.news_behind = None;
        match found {
            Some((_, Found::Nothing)) | None => News::Nothing,
            Some((_, Found::Segment(_) | Found::Behind | Found::Gap)) => News::Lost,
        }
    }

    /// Tells those who wait what a segment that came from elsewhere has for them.
    pub(crate) fn pass_segment(&self, epoch: EpochId, name: SegmentName, segment: &ReadSegment) {
        let mut state = self.state();
        let is_next = state.news_behind.is_some_and(|place| place < name.last);
        if !is_next || state.current.as_ref().is_none_or(|current| current.epoch.id != epoch) {
            return;
        }
        let mut told = Told::default();
        for frame in &segment.frames {
            told.extend(state.waiters.pass(frame));
        }
        state.waiters.pass_to((name.last, segment.transaction_end));
        state.news_behind = Some(name.last);
        drop(state);
        told.wake();
    }

    /// Lets all readers look for themselves.
    pub(crate) fn wake(&self) {
        let told = self.state().waiters.tell_all();
        told.wake();
        self.changed.send_replace(());
    }

    /// Where a LIST for news begins: the epoch, and the last segment before which none is missing.
    pub(crate) fn unbroken(&self) -> Option<(EpochId, Option<SegmentName>)> {
        self.state().current.as_ref().map(|current| (current.epoch.id, current.index.unbroken().copied()))
    }

    /// Whether a segment is missing between others.
    pub(crate) fn is_broken(&self) -> bool {
        self.state().current.as_ref().is_some_and(|current| !current.index.is_unbroken())
    }

    /// The last position that is known, and the count of bytes up to it.
    pub(crate) fn end(&self) -> Option<(Position, u64)> {
        let state = self.state();
        let current = state.current.as_ref()?;
        let tail = state.leading.as_ref().map_or(current.index.last(), |leading| leading.tail.last());
        Some((tail.max(current.index.last()), state.bytes))
    }

    /// Reads on in memory, or says which segment comes next.
    pub(crate) fn read(&self, epoch: EpochId, read: &mut LogRead) -> Step {
        let state = self.state();
        let Some(current) = state.current.as_ref().filter(|current| current.epoch.id == epoch) else {
            return Step::TooOld;
        };
        if let Some(leading) = state.leading.as_ref().filter(|leading| leading.tail.covers(read.place)) {
            leading.tail.read(read);
            if read.place < leading.tail.last() {
                return Step::Full;
            }
        }
        match current.index.find(read.place) {
            Found::Segment(name) => Step::Segment(name),
            Found::Nothing => Step::End,
            Found::Behind => Step::TooOld,
            Found::Gap => Step::Gap,
        }
    }

    /// Asks for the place in the log that a snapshot of the database stands for.
    ///
    /// None unless this node leads the epoch and has decoded all that the snapshot shows from before.
    pub(crate) fn place_of(&self, epoch: EpochId, snapshot: &PgSnapshot) -> Option<Lsn> {
        let state = self.state();
        let start = state.current.as_ref().filter(|current| current.epoch.id == epoch)?.epoch.start;
        let leading = state.leading.as_ref().filter(|leading| leading.live)?;
        leading.decoded.place_of(snapshot).filter(|place| *place >= start)
    }

    /// Forgets decoded transactions that this snapshot shows.
    pub(crate) fn forget_shown(&self, snapshot: &PgSnapshot) {
        if let Some(leading) = &mut self.state().leading {
            leading.decoded.forget_shown(snapshot);
        }
    }
}

/// Whether the rows of a table name their readers when an epoch begins: another epoch begins when they come to.
fn is_scoped(epoch: &Epoch) -> bool {
    let mut definitions = Definitions::default();
    // Of what cannot be read, nobody is served by guess.
    definitions.add_payload(&epoch.definitions).is_err() || definitions.are_scoped()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::FutureExt;

    use super::*;
    use crate::audience::Audience;
    use crate::auth::CallerKind;
    use crate::epoch::{EpochReason, ServerIdentity};
    use crate::lineage::Lineage;
    use crate::segment::Piece;

    fn at(commit_end: u64) -> Position {
        Position::new(Lsn::new(commit_end), Lsn::new(1))
    }

    fn epoch(number: u32) -> Epoch {
        Epoch {
            id: EpochId::new(number, 7),
            server: ServerIdentity { system: "1".to_owned(), lineage: Lineage::first(1), database_oid: 5 },
            start: Lsn::new(10),
            definitions: Vec::new(),
            reason: EpochReason::First,
            restored: String::new(),
        }
    }

    /// A log whose store ends at 20, and which leads and has decoded up to 40, stored up to 30.
    fn log() -> Log {
        let log = Log::new(crate::memory::plenty().share());
        let mut index = SegmentIndex::new(epoch(1).start_position());
        index.add(SegmentName { previous: Position::after(Lsn::new(10)), last: at(20), fence: 1 });
        log.open(epoch(1), index);
        let snapshot = PgSnapshot::parse("5:5:").unwrap();
        log.begin_leading(DecodedTransactions::begin(Lsn::new(20), &snapshot));
        for (xid, commit_end) in [(6, 30), (7, 40)] {
            let bytes = Bytes::from_static(b"x");
            let frame =
                LogFrame { last: at(commit_end), transaction_end: true, bytes, rows: 1, pieces: Vec::new() };
            log.push(frame, &[Transaction { xid, commit_end: Lsn::new(commit_end) }]);
        }
        log.add_segment(epoch(1).id, SegmentName { previous: at(20), last: at(30), fence: 2 });
        log
    }

    fn check(number: u32, place: Position, wanted: &Step, frames: usize) {
        let mut read = LogRead::new(Arc::new(Readership::unknown(CallerKind::Key)), place, true, 100);
        assert_eq!(log().read(epoch(number).id, &mut read), *wanted, "{place}");
        assert_eq!(read.frames.len(), frames, "{place}");
    }

    #[test]
    fn a_reader_gets_segments_and_then_the_tail() {
        let first = SegmentName { previous: Position::after(Lsn::new(10)), last: at(20), fence: 1 };
        check(1, Position::after(Lsn::new(10)), &Step::Segment(first), 0);
        check(1, at(20), &Step::End, 2);
        check(1, at(30), &Step::End, 1);
        check(1, at(40), &Step::End, 0);
        check(1, at(90), &Step::End, 0);
    }

    #[test]
    fn a_reader_waits_behind_the_end_and_is_told_of_what_concerns_it() {
        let log = log();
        let reader = |scope: &str| Arc::new(Readership::new(CallerKind::Token, [scope.to_owned()]));
        let behind = |place, scope| log.wait_behind(epoch(1).id, (place, true), &reader(scope));
        assert!(behind(at(30), "a").is_none(), "something is there");
        assert!(log.wait_behind(epoch(2).id, (at(40), true), &reader("a")).is_none(), "of another epoch");
        let (a, b) = (behind(at(40), "a").unwrap(), behind(at(40), "b").unwrap());
        let ahead = behind(at(90), "b").unwrap();
        let push = |commit_end, scope: &str| {
            let audience = Arc::new(Audience::Scopes {
                now: [scope.to_owned()].into(),
                departed: std::collections::BTreeSet::new(),
            });
            let rows = Bytes::from_static(b"rows");
            let pieces = vec![Piece {
                round: 0,
                audience,
                rows,
                row_count: 1,
                evictions: Bytes::new(),
                eviction_count: 0,
            }];
            log.push(
                LogFrame {
                    last: at(commit_end),
                    transaction_end: true,
                    bytes: Bytes::new(),
                    rows: 0,
                    pieces,
                },
                &[],
            );
        };
        push(50, "a");
        assert!(a.told().now_or_never().is_some() && b.told().now_or_never().is_none());
        push(60, "c");
        assert_eq!(
            (a.end(), b.end(), ahead.end()),
            (Some((at(40), true)), Some((at(60), true)), Some((at(90), true)))
        );
        let last = behind(at(60), "b").unwrap();
        log.stop_leading();
        assert!(last.told().now_or_never().is_some(), "it looks for itself");
    }

    #[test]
    fn a_reader_of_another_epoch_or_of_before_this_one_is_too_old() {
        check(2, at(20), &Step::TooOld, 0);
        check(1, at(5), &Step::TooOld, 0);
    }

    #[test]
    fn a_new_epoch_forgets_the_tail_of_the_old() {
        let log = log();
        log.open(epoch(2), SegmentIndex::new(epoch(2).start_position()));
        assert!(!log.is_leading());
        assert_eq!(log.end(), Some((Position::after(Lsn::new(10)), 2)));
    }

    #[test]
    fn a_snapshot_has_a_place_only_where_its_epoch_is_led() {
        let log = log();
        let snapshot = PgSnapshot::parse("7:8:7").unwrap();
        assert_eq!(log.place_of(epoch(1).id, &snapshot), Some(Lsn::new(30)));
        assert_eq!(log.place_of(epoch(2).id, &snapshot), None);
        log.stop_leading();
        assert_eq!(log.place_of(epoch(1).id, &snapshot), None);
    }
}
