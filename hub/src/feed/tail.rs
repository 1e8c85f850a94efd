//! The newest part of the log in memory, served before it is stored: Postgres has it durably already.
//!
//! Invariant: what is not stored yet is never let go.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use crate::audience::{Readership, Share};
use crate::position::Position;
use crate::segment::LogFrame;

/// Frames of the log on their way to one client.
#[derive(Debug)]
pub(crate) struct LogRead {
    /// Who reads.
    reader: Arc<Readership>,
    /// Something was passed over that only some readers get.
    pub(crate) has_pieces: bool,
    /// The frames, none of them empty.
    pub(crate) frames: Vec<Bytes>,
    /// Rows in them, also those to forget.
    pub(crate) rows: u64,
    /// The client's place after these frames.
    pub(crate) place: Position,
    /// That place is the end of a transaction.
    pub(crate) transaction_end: bool,
    bytes: usize,
    bytes_max: usize,
}

impl LogRead {
    /// Begins at a client's place, for at most `bytes_max` bytes, or one frame.
    pub(crate) fn new(
        reader: Arc<Readership>,
        place: Position,
        transaction_end: bool,
        bytes_max: usize,
    ) -> LogRead {
        let frames = Vec::new();
        LogRead { reader, has_pieces: false, frames, rows: 0, place, transaction_end, bytes: 0, bytes_max }
    }

    /// Whether a frame of this length would be too much.
    fn is_full(&self, length: usize) -> bool {
        !self.frames.is_empty() && self.bytes.saturating_add(length) > self.bytes_max
    }

    /// Takes frames that lie behind the place, in order; says whether all fitted.
    pub(crate) fn take<'a>(&mut self, frames: impl IntoIterator<Item = &'a LogFrame>) -> bool {
        for frame in frames {
            if frame.last <= self.place {
                continue;
            }
            let reader = Arc::clone(&self.reader);
            let parts = || shares(&reader, frame).filter(|(bytes, _rows)| !bytes.is_empty());
            let length = parts().map(|(bytes, _rows)| bytes.len()).fold(0, usize::saturating_add);
            if self.is_full(length) {
                return false;
            }
            self.has_pieces |= !frame.pieces.is_empty();
            self.move_to(frame.last, frame.transaction_end);
            self.bytes = self.bytes.saturating_add(length);
            for (bytes, rows) in parts() {
                self.frames.push(bytes.clone());
                self.rows = self.rows.saturating_add(u64::from(rows));
            }
        }
        true
    }

    /// Goes on to a place up to which there is nothing more for this client.
    pub(crate) fn move_to(&mut self, place: Position, transaction_end: bool) {
        if place > self.place {
            self.place = place;
            self.transaction_end = transaction_end;
        }
    }
}

/// What a reader gets of a frame, as it is, and how many rows are in it.
fn shares<'a>(reader: &Readership, frame: &'a LogFrame) -> impl Iterator<Item = (&'a Bytes, u32)> {
    let pieces = frame.pieces.iter().filter_map(|piece| match reader.share(&piece.audience) {
        Share::Rows => Some((&piece.rows, piece.row_count)),
        Share::Evictions => Some((&piece.evictions, piece.eviction_count)),
        Share::Nothing => None,
    });
    std::iter::once((&frame.bytes, frame.rows)).chain(pieces)
}

/// The newest frames of one epoch's log.
#[derive(Debug)]
pub(crate) struct Tail {
    start: Position,
    last: Position,
    frames: VecDeque<LogFrame>,
    bytes: usize,
    bytes_max: usize,
    stored: Position,
}

impl Tail {
    /// Begins where the store ends; `bytes_max` bounds what stays after it was stored.
    pub(crate) fn new(start: Position, bytes_max: usize) -> Tail {
        Tail { start, last: start, frames: VecDeque::new(), bytes: 0, bytes_max, stored: start }
    }

    /// Changes how much stays after it was stored.
    pub(crate) const fn set_bytes_max(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max;
    }

    /// Bytes of the frames that it holds.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds the next frame.
    pub(crate) fn push(&mut self, frame: LogFrame) {
        self.last = frame.last;
        self.bytes = self.bytes.saturating_add(frame.byte_len());
        self.frames.push_back(frame);
        self.let_go();
    }

    /// Notes that the store has everything up to a position.
    pub(crate) fn stored_up_to(&mut self, position: Position) {
        self.stored = self.stored.max(position);
        self.let_go();
    }

    fn let_go(&mut self) {
        while self.bytes > self.bytes_max
            && self.frames.front().is_some_and(|frame| frame.last <= self.stored)
        {
            let Some(frame) = self.frames.pop_front() else { return };
            self.start = frame.last;
            self.bytes = self.bytes.saturating_sub(frame.byte_len());
        }
    }

    /// The last position.
    pub(crate) fn last(&self) -> Position {
        self.last
    }

    /// Whether it holds everything behind this place.
    pub(crate) fn covers(&self, place: Position) -> bool {
        place >= self.start
    }

    /// Reads on from the place of `read`.
    pub(crate) fn read(&self, read: &mut LogRead) {
        let from = self.frames.partition_point(|frame| frame.last <= read.place);
        read.take(self.frames.range(from..));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::CallerKind;
    use crate::position::Lsn;

    fn at(commit_end: u64) -> Position {
        Position::new(Lsn::new(commit_end), Lsn::new(1))
    }

    fn frame(commit_end: u64, bytes: &'static [u8]) -> LogFrame {
        LogFrame {
            last: at(commit_end),
            transaction_end: commit_end.is_multiple_of(20),
            bytes: Bytes::from_static(bytes),
            rows: u32::try_from(bytes.len()).unwrap(),
            pieces: Vec::new(),
        }
    }

    fn tail(bytes_max: usize) -> Tail {
        let mut tail = Tail::new(at(10), bytes_max);
        for (commit_end, bytes) in [(20, b"aaaa".as_slice()), (30, b"bbbb"), (40, b""), (50, b"cccc")] {
            tail.push(frame(commit_end, bytes));
        }
        tail
    }

    fn check(place: u64, bytes_max: usize, wanted: &[&str], wanted_place: u64) {
        let reader = Arc::new(Readership::unknown(CallerKind::Key));
        let mut read = LogRead::new(reader, at(place), true, bytes_max);
        tail(100).read(&mut read);
        let found: Vec<&str> = read.frames.iter().map(|frame| std::str::from_utf8(frame).unwrap()).collect();
        assert_eq!((found.as_slice(), read.place), (wanted, at(wanted_place)), "{place} {bytes_max}");
        assert_eq!(read.rows, wanted.iter().map(|bytes| u64::try_from(bytes.len()).unwrap()).sum::<u64>());
        assert_eq!(read.transaction_end, place == wanted_place || wanted_place.is_multiple_of(20));
    }

    #[test]
    fn a_reader_gets_what_lies_behind_its_place() {
        check(10, 100, &["aaaa", "bbbb", "cccc"], 50);
        check(25, 100, &["bbbb", "cccc"], 50);
        check(30, 100, &["cccc"], 50);
        check(50, 100, &[], 50);
        check(99, 100, &[], 99);
    }

    #[test]
    fn an_answer_is_cut_between_frames_and_has_at_least_one() {
        check(10, 8, &["aaaa", "bbbb"], 40);
        check(10, 7, &["aaaa"], 20);
        check(10, 1, &["aaaa"], 20);
    }

    #[test]
    fn what_is_not_stored_stays() {
        let mut tail = tail(4);
        assert!(tail.covers(at(10)));
        tail.stored_up_to(at(30));
        assert!(!tail.covers(at(20)));
        assert!(tail.covers(at(30)));
        tail.stored_up_to(at(50));
        assert!(tail.covers(at(40)));
        assert_eq!((tail.bytes, tail.last()), (4, at(50)));
    }
}
