//! Readers that have read all that is known of the log, and wait for what concerns them.
//!
//! Invariant: up to the last frame that passed there is nothing for a reader that was not told. So it goes on behind
//! that frame without looking at what is before it, however much passed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use shared_format::payload::SCOPE_EVERYBODY;
use tokio::sync::Notify;

use crate::audience::{Audience, Readership};
use crate::auth::CallerKind;
use crate::position::{Lsn, Position};
use crate::segment::LogFrame;

/// A place in the log, and whether it is the end of a transaction.
pub(crate) type Place = (Position, bool);

/// One reader that waits.
#[derive(Debug)]
struct Waiting {
    reader: Arc<Readership>,
    place: Place,
    /// Where something for it begins.
    from: Option<Place>,
    told: Arc<Notify>,
}

/// The readers that wait, by what concerns them.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    next: u64,
    waiting: HashMap<u64, Waiting>,
    by_scope: HashMap<String, HashSet<u64>>,
    /// Those that show an API key.
    keys: HashSet<u64>,
    /// Those of whom nobody asked yet which scopes they hold.
    unknown: HashSet<u64>,
    /// The last frame that passed.
    passed: Option<Place>,
}

impl Waiters {
    /// Begins a wait at the end of the log; gives its number, and what tells of its end.
    pub(super) fn enter(&mut self, reader: &Arc<Readership>, place: Place) -> (u64, Arc<Notify>) {
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        match reader.held() {
            Some(held) => {
                for scope in held.iter().filter(|scope| *scope != SCOPE_EVERYBODY) {
                    self.by_scope.entry(scope.clone()).or_default().insert(number);
                }
            }
            None => drop(self.unknown.insert(number)),
        }
        if reader.kind() == CallerKind::Key {
            self.keys.insert(number);
        }
        let told = Arc::new(Notify::new());
        let (reader, to_tell) = (Arc::clone(reader), Arc::clone(&told));
        self.waiting.insert(number, Waiting { reader, place, from: None, told: to_tell });
        (number, told)
    }

    /// Ends a wait; gives the place to read on from.
    pub(super) fn leave(&mut self, number: u64) -> Option<Place> {
        let waiting = self.waiting.remove(&number)?;
        self.keys.remove(&number);
        self.unknown.remove(&number);
        for scope in waiting.reader.held().into_iter().flatten() {
            if let Some(holders) = self.by_scope.get_mut(scope) {
                holders.remove(&number);
                if holders.is_empty() {
                    self.by_scope.remove(scope);
                }
            }
        }
        Some(waiting.from.unwrap_or_else(|| waiting.reached(self.passed)))
    }

    /// Whether nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Notes a new frame; gives the readers that it concerns.
    pub(super) fn pass(&mut self, frame: &LogFrame) -> Told {
        let told = if frame.bytes.is_empty() { self.of_pieces(frame) } else { self.tell_behind(frame.last) };
        self.pass_to((frame.last, frame.transaction_end));
        told
    }

    /// Notes that up to a place there is nothing more for readers that were not told.
    pub(super) fn pass_to(&mut self, place: Place) {
        self.passed = self.passed.filter(|passed| passed.0 > place.0).or(Some(place));
    }

    /// Lets all readers look for themselves.
    pub(super) fn tell_all(&mut self) -> Told {
        self.tell_behind(Position::after(Lsn::MAX))
    }

    /// Tells all readers that did not have what ends at a place when they began to wait.
    fn tell_behind(&mut self, last: Position) -> Told {
        Told(self.waiting.values_mut().filter_map(|waiting| waiting.tell(last, self.passed)).collect())
    }

    /// Forgets what passed, since the log goes on elsewhere, and lets all readers look for themselves.
    pub(super) fn begin_anew(&mut self) -> Told {
        let told = self.tell_all();
        self.passed = None;
        told
    }

    fn of_pieces(&mut self, frame: &LogFrame) -> Told {
        if self.waiting.is_empty() || frame.pieces.is_empty() {
            return Told::default();
        }
        let mut concerned = self.unknown.clone();
        for piece in &frame.pieces {
            match &*piece.audience {
                Audience::Keys => concerned.extend(&self.keys),
                Audience::Scopes { now, departed } => {
                    for scope in now.iter().chain(departed) {
                        if scope == SCOPE_EVERYBODY {
                            return self.tell_behind(frame.last);
                        }
                        concerned.extend(self.by_scope.get(scope).into_iter().flatten());
                    }
                }
            }
        }
        let tell = |number| self.waiting.get_mut(&number)?.tell(frame.last, self.passed);
        Told(concerned.into_iter().filter_map(tell).collect())
    }
}

/// Readers whose waits end. They are woken when no lock is held, since they come for it at once.
#[must_use]
#[derive(Debug, Default)]
pub(super) struct Told(Vec<Arc<Notify>>);

impl Told {
    /// Adds others.
    pub(super) fn extend(&mut self, others: Told) {
        self.0.extend(others.0);
    }

    /// Wakes them.
    pub(super) fn wake(self) {
        self.0.iter().for_each(|told| told.notify_one());
    }
}

impl Waiting {
    /// How far it is as long as nothing concerned it.
    fn reached(&self, passed: Option<Place>) -> Place {
        passed.filter(|passed| passed.0 > self.place.0).unwrap_or(self.place)
    }

    /// Lets it read on from where it is; None if it was told before, or has what ends at this place.
    fn tell(&mut self, last: Position, passed: Option<Place>) -> Option<Arc<Notify>> {
        if self.from.is_some() || last <= self.place.0 {
            return None;
        }
        self.from = Some(self.reached(passed));
        Some(Arc::clone(&self.told))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use bytes::Bytes;

    use super::*;
    use crate::feed::tail::{LogRead, Tail};
    use crate::segment::Piece;

    fn at(commit_end: u64) -> Position {
        Position::new(Lsn::new(commit_end), Lsn::new(1))
    }

    fn piece(audience: Audience) -> Piece {
        let (rows, evictions) = (Bytes::from_static(b"rows"), Bytes::from_static(b"gone"));
        Piece { round: 0, audience: Arc::new(audience), rows, row_count: 1, evictions, eviction_count: 1 }
    }

    fn scopes(now: &[&str], departed: &[&str]) -> Audience {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        Audience::Scopes { now: set(now), departed: set(departed) }
    }

    fn frame(commit_end: u64, audiences: Vec<Audience>) -> LogFrame {
        LogFrame {
            last: at(commit_end),
            transaction_end: true,
            bytes: Bytes::new(),
            rows: 0,
            pieces: audiences.into_iter().map(piece).collect(),
        }
    }

    fn readers() -> Vec<(&'static str, Arc<Readership>)> {
        let of =
            |kind, held: &[&str]| Arc::new(Readership::new(kind, held.iter().map(|name| (*name).to_owned())));
        vec![
            ("a", of(CallerKind::Token, &["a"])),
            ("b", of(CallerKind::Token, &["b"])),
            ("ab", of(CallerKind::Token, &["a", "b"])),
            ("none", of(CallerKind::Token, &[])),
            ("key", of(CallerKind::Key, &[])),
            ("unknown", Arc::new(Readership::unknown(CallerKind::Token))),
        ]
    }

    /// Who is told of a frame with rows of these audiences, and `bytes` for everybody.
    fn check(audiences: Vec<Audience>, bytes: &'static [u8], wanted: &[&str]) {
        let mut waiters = Waiters::default();
        let mut numbers = Vec::new();
        for (name, reader) in readers() {
            let (number, told) = waiters.enter(&reader, (at(10), true));
            numbers.push((name, number, told));
        }
        let passing = LogFrame { bytes: Bytes::from_static(bytes), ..frame(20, audiences.clone()) };
        waiters.pass(&frame(15, Vec::new())).wake();
        waiters.pass(&passing).wake();
        let mut told = Vec::new();
        for (name, number, signal) in numbers {
            let is_told = futures_util::FutureExt::now_or_never(signal.notified()).is_some();
            let place = waiters.leave(number);
            assert_eq!(place, Some((at(if is_told { 15 } else { 20 }), true)), "{name} {audiences:?}");
            told.extend(is_told.then_some(name));
        }
        assert_eq!(told, wanted, "{audiences:?}");
        assert!(waiters.by_scope.is_empty() && waiters.keys.is_empty() && waiters.unknown.is_empty());
    }

    #[test]
    fn who_is_concerned_is_told() {
        let all = ["a", "b", "ab", "none", "key", "unknown"];
        check(vec![], b"", &[]);
        check(vec![], b"for all", &all);
        check(vec![scopes(&["a"], &[])], b"", &["a", "ab", "unknown"]);
        check(vec![scopes(&["c"], &[])], b"", &["unknown"]);
        check(vec![scopes(&["c"], &["b"])], b"", &["b", "ab", "unknown"]);
        check(vec![scopes(&["a"], &[]), scopes(&["b"], &[])], b"", &["a", "b", "ab", "unknown"]);
        check(vec![Audience::Keys], b"", &["key", "unknown"]);
        check(vec![Audience::everybody()], b"", &all);
        check(vec![scopes(&["c"], &[""])], b"", &all);
    }

    #[test]
    fn all_are_told_where_the_log_goes_on_elsewhere() {
        let mut waiters = Waiters::default();
        let (_, reader) = readers().remove(0);
        let (first, told) = waiters.enter(&reader, (at(10), false));
        waiters.pass(&frame(20, Vec::new())).wake();
        waiters.begin_anew().wake();
        assert!(futures_util::FutureExt::now_or_never(told.notified()).is_some());
        assert_eq!(waiters.leave(first), Some((at(20), true)));
        let (second, _told) = waiters.enter(&reader, (at(5), false));
        assert_eq!(
            waiters.leave(second),
            Some((at(5), false)),
            "what passed in the log before means nothing"
        );
        assert_eq!(waiters.leave(second), None);
        let (ahead, told) = waiters.enter(&reader, (at(30), true));
        waiters.pass(&frame(30, vec![scopes(&["a"], &[])])).wake();
        waiters.pass(&LogFrame { bytes: Bytes::from_static(b"x"), ..frame(29, Vec::new()) }).wake();
        assert!(futures_util::FutureExt::now_or_never(told.notified()).is_none(), "it has that");
        assert_eq!(waiters.leave(ahead), Some((at(30), true)));
    }

    /// Whatever passes: who reads on from where its wait ended gets the same as who reads everything.
    #[test]
    fn nobody_misses_anything() {
        let mut seed = 7_u64;
        let mut random = move |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % below
        };
        let names = ["a", "b", "c", ""];
        let mut misses = 0;
        for _ in 0..500 {
            let mut waiters = Waiters::default();
            let mut tail = Tail::new(at(10), usize::MAX);
            let entered: Vec<_> = readers()
                .into_iter()
                .map(|(_, reader)| (waiters.enter(&reader, (at(10), true)).0, reader))
                .collect();
            for commit_end in 11..11 + random(5) {
                let mut audiences = Vec::new();
                for _ in 0..random(3) {
                    let mut some =
                        || -> Vec<&str> { names.iter().filter(|_| random(4) == 0).copied().collect() };
                    audiences.push(scopes(&some(), &some()));
                }
                let passing = frame(commit_end, audiences);
                waiters.pass(&passing).wake();
                tail.push(passing);
            }
            for (number, reader) in entered {
                let read = |place: Place| {
                    let mut read = LogRead::new(Arc::clone(&reader), place.0, place.1, usize::MAX);
                    tail.read(&mut read);
                    (read.frames, read.place)
                };
                let place = waiters.leave(number).unwrap();
                misses += usize::from(place.0 > at(10));
                assert_eq!(read(place), read((at(10), true)), "{reader:?}");
            }
        }
        assert!(misses > 500, "{misses} readers passed over something");
    }
}
