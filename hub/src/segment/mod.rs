//! Segments: one immutable object each, with the payload frames of one range of positions.
//!
//! Owns the bytes of a segment and the index of which segments there are. Invariant: what is read back was
//! checked, sums and lengths, before any of it is served.

pub(crate) mod compact;
mod decode;
mod encode;
pub(crate) mod expire;
mod index;
mod pieces;

use bytes::Bytes;

pub use compact::Compacted;
pub use expire::Expired;
pub use index::{Found, SegmentIndex};
pub use pieces::Piece;
pub(crate) use pieces::into_blocks;

use crate::keys::SegmentName;
use crate::position::{Lsn, Position};

/// Payload bytes of a segment after which it is cut; one message may exceed it.
///
/// Bounds what a reader has to fetch at once: see DESIGN section 15.
pub const SEGMENT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Largest segment object that is read: a segment with one message of the largest cell.
const OBJECT_BYTES_MAX: usize = 64 * 1024 * 1024;

const MAGIC: [u8; 4] = *b"CSSG";
const FORMAT: u8 = 2;

/// The format before frames said how many rows are in them: what is stored in it reads as if there were none.
const FORMAT_UNCOUNTED: u8 = 1;

/// Magic and format.
const HEAD_BYTES: usize = 5;

/// Length and checksum of the footer, and the magic again.
const TAIL_BYTES: usize = 12;

/// Set where the last message of a frame, or of the segment, is the last of its transaction.
const FLAG_TRANSACTION_END: u8 = 1;

/// Everybody with access to the database.
pub const SCOPE_EVERYBODY: &str = "";

/// The content of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// What it covers, and who wrote it.
    pub name: SegmentName,
    /// Its last message is the last of its transaction.
    pub transaction_end: bool,
    /// The frames by scope.
    pub scopes: Vec<ScopeBlock>,
    /// The transactions whose messages are here, in commit order.
    pub transactions: Vec<Transaction>,
    /// A payload of the definitions in force at its end, for the next leader.
    pub definitions: Bytes,
}

/// The frames of one scope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScopeBlock {
    /// The scope.
    pub scope: String,
    /// Its frames, in the order of the log.
    pub frames: Vec<LogFrame>,
}

/// One payload frame as clients receive it, with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFrame {
    /// The position of its last message.
    pub last: Position,
    /// That message is the last of its transaction.
    pub transaction_end: bool,
    /// The frame; empty where no message of the range was for everybody.
    pub bytes: Bytes,
    /// How many rows are in it.
    pub rows: u32,
    /// What only some readers get of the range, in the order in which they take it. Within a block there are none:
    /// there each lies in the block of its audience.
    pub pieces: Vec<Piece>,
}

impl LogFrame {
    /// Bytes that it holds for all readers together.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        let pieces = self.pieces.iter().map(|piece| piece.rows.len().saturating_add(piece.evictions.len()));
        pieces.fold(self.bytes.len(), usize::saturating_add)
    }
}

/// A transaction that was decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// Its full id.
    pub xid: u64,
    /// Where its commit ends.
    pub commit_end: Lsn,
}

impl Segment {
    /// The frames of one scope; none if nothing was for it.
    #[must_use]
    pub fn frames(&self, scope: &str) -> &[LogFrame] {
        let block = self.scopes.iter().find(|block| block.scope == scope);
        block.map_or(&[], |block| block.frames.as_slice())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    fn position(commit_end: u64, message: u64) -> Position {
        Position::new(Lsn::new(commit_end), Lsn::new(message))
    }

    fn segment() -> Segment {
        let frame = |last, transaction_end, bytes: &'static [u8]| LogFrame {
            last,
            transaction_end,
            bytes: Bytes::from_static(bytes),
            rows: u32::try_from(bytes.len()).unwrap(),
            pieces: Vec::new(),
        };
        Segment {
            name: SegmentName { previous: position(50, 40), last: position(200, 190), fence: 3 },
            transaction_end: false,
            scopes: vec![
                ScopeBlock {
                    scope: SCOPE_EVERYBODY.to_owned(),
                    frames: vec![
                        frame(position(100, 90), true, b"first"),
                        frame(position(200, 190), false, b""),
                    ],
                },
                ScopeBlock {
                    scope: "team 7".to_owned(),
                    frames: vec![frame(position(100, 80), true, b"second")],
                },
            ],
            transactions: vec![
                Transaction { xid: 1 << 33, commit_end: Lsn::new(100) },
                Transaction { xid: 7, commit_end: Lsn::new(200) },
            ],
            definitions: Bytes::from_static(b"definitions"),
        }
    }

    #[test]
    fn a_segment_reads_back() {
        let segment = segment();
        assert_eq!(Segment::decode(segment.name, segment.encode().unwrap()).unwrap(), segment);
        assert_eq!(segment.frames("team 7").len(), 1);
        assert!(segment.frames("nobody").is_empty());
    }

    #[test]
    fn a_segment_that_does_not_count_its_rows_reads_back_without() {
        let mut segment = segment();
        let object = segment.encode_as(FORMAT_UNCOUNTED).unwrap();
        for frame in segment.scopes.iter_mut().flat_map(|block| &mut block.frames) {
            frame.rows = 0;
        }
        assert_eq!(Segment::decode(segment.name, object).unwrap(), segment);
        let later = segment.encode_as(FORMAT + 1).unwrap();
        assert!(matches!(Segment::decode(segment.name, later), Err(Error::Segment { part: "head" })));
    }

    #[test]
    fn every_changed_or_missing_byte_is_an_error() {
        let segment = segment();
        let good = segment.encode().unwrap();
        for at in 0..good.len() {
            let mut bad = good.to_vec();
            bad[at] ^= 0x20;
            let changed = Segment::decode(segment.name, Bytes::from(bad));
            assert!(matches!(changed, Err(Error::Segment { .. })), "byte {at}: {changed:?}");
            let cut = Segment::decode(segment.name, good.slice(..at));
            assert!(matches!(cut, Err(Error::Segment { .. })), "cut at {at}: {cut:?}");
        }
    }

    #[test]
    fn a_segment_under_a_foreign_name_is_refused() {
        let segment = segment();
        let name = SegmentName { previous: position(50, 41), ..segment.name };
        let read = Segment::decode(name, segment.encode().unwrap());
        assert!(matches!(read, Err(Error::Segment { part: "name" })), "{read:?}");
    }

    #[test]
    fn frames_out_of_order_or_out_of_range_are_refused() {
        for (at, last) in [(0, position(50, 40)), (1, position(100, 90)), (1, position(200, 191))] {
            let mut segment = segment();
            segment.scopes[0].frames[at].last = last;
            let read = Segment::decode(segment.name, segment.encode().unwrap());
            assert!(matches!(read, Err(Error::Segment { part: "frame position" })), "{at} {read:?}");
        }
    }
}
