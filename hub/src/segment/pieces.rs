//! What only some readers get: how it lies in the blocks of a segment, and how it is put together again.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{LogFrame, SCOPE_EVERYBODY, ScopeBlock, Segment};
use crate::audience::Audience;
use crate::error::{Error, Result};
use crate::position::Position;

/// The rows of one audience in the range of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where rows moved to other readers, later rounds come behind earlier ones.
    pub round: u32,
    /// Who gets it.
    pub audience: Arc<Audience>,
    /// A frame for those who have the rows now.
    pub rows: Bytes,
    /// How many there are.
    pub row_count: u32,
    /// A frame for those who have to forget them; empty if there is nobody.
    pub evictions: Bytes,
    /// How many they have to forget.
    pub eviction_count: u32,
}

impl Piece {
    /// Its place among the pieces of one frame: within a round, moves come last.
    pub(crate) fn place(&self) -> (u32, bool, &Audience) {
        (self.round, self.audience.has_departed(), &self.audience)
    }
}

/// The name of a block that is not for everybody.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct BlockName {
    round: u32,
    audience: Audience,
    evictions: bool,
}

/// The blocks of a segment with these frames.
pub(crate) fn into_blocks(frames: Vec<LogFrame>) -> Vec<ScopeBlock> {
    let mut others: BTreeMap<BlockName, Vec<LogFrame>> = BTreeMap::new();
    let mut everybody = Vec::with_capacity(frames.len());
    for LogFrame { last, transaction_end, bytes, rows, pieces } in frames {
        for Piece { round, audience, rows, row_count, evictions, eviction_count } in pieces {
            for (is_evictions, bytes, rows) in [(false, rows, row_count), (true, evictions, eviction_count)] {
                if !bytes.is_empty() {
                    let audience = Audience::clone(&audience);
                    let name = BlockName { round, audience, evictions: is_evictions };
                    let frame = LogFrame { last, transaction_end, bytes, rows, pieces: Vec::new() };
                    others.entry(name).or_default().push(frame);
                }
            }
        }
        everybody.push(LogFrame { last, transaction_end, bytes, rows, pieces: Vec::new() });
    }
    let named = |(name, frames): (BlockName, Vec<LogFrame>)| {
        let scope = serde_json::to_string(&name).expect("a block's name is plain text and numbers");
        ScopeBlock { scope, frames }
    };
    let first = ScopeBlock { scope: SCOPE_EVERYBODY.to_owned(), frames: everybody };
    std::iter::once(first).chain(others.into_iter().map(named)).collect()
}

impl Segment {
    /// All frames with what only some readers get.
    pub fn log_frames(&self) -> Result<Vec<LogFrame>> {
        let mut found: BTreeMap<Position, BTreeMap<(u32, bool, Audience), Piece>> = BTreeMap::new();
        for block in self.scopes.iter().filter(|block| block.scope != SCOPE_EVERYBODY) {
            let name: BlockName =
                serde_json::from_str(&block.scope).map_err(|_wrong| Error::Segment { part: "scope" })?;
            let audience = Arc::new(name.audience);
            for frame in &block.frames {
                let place = (name.round, audience.has_departed(), Audience::clone(&audience));
                let piece = found.entry(frame.last).or_default().entry(place).or_insert_with(|| Piece {
                    round: name.round,
                    audience: Arc::clone(&audience),
                    rows: Bytes::new(),
                    row_count: 0,
                    evictions: Bytes::new(),
                    eviction_count: 0,
                });
                let (bytes, rows) = if name.evictions {
                    (&mut piece.evictions, &mut piece.eviction_count)
                } else {
                    (&mut piece.rows, &mut piece.row_count)
                };
                *bytes = frame.bytes.clone();
                *rows = frame.rows;
            }
        }
        let mut frames = self.frames(SCOPE_EVERYBODY).to_vec();
        for frame in &mut frames {
            frame.pieces = found.remove(&frame.last).unwrap_or_default().into_values().collect();
        }
        // A piece whose frame is not there would be skipped over in silence.
        if found.is_empty() { Ok(frames) } else { Err(Error::Segment { part: "scope block" }) }
    }

    /// The frames that hold rows, for whomever.
    pub(crate) fn row_frames(&self) -> Result<Vec<(Position, Bytes)>> {
        let mut rows = Vec::new();
        for frame in self.log_frames()? {
            let parts = frame.pieces.iter().map(|piece| &piece.rows);
            let parts = std::iter::once(&frame.bytes).chain(parts).filter(|bytes| !bytes.is_empty());
            rows.extend(parts.map(|bytes| (frame.last, bytes.clone())));
        }
        Ok(rows)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::keys::SegmentName;
    use crate::position::Lsn;

    fn at(commit_end: u64) -> Position {
        Position::new(Lsn::new(commit_end), Lsn::new(1))
    }

    fn scopes(now: &str, departed: &[&str]) -> Arc<Audience> {
        let departed = departed.iter().map(|name| (*name).to_owned()).collect();
        Arc::new(Audience::Scopes { now: BTreeSet::from([now.to_owned()]), departed })
    }

    fn piece(round: u32, audience: Arc<Audience>, rows: &'static [u8], evictions: &'static [u8]) -> Piece {
        let count = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap();
        let (row_count, eviction_count) = (count(rows), count(evictions));
        let (rows, evictions) = (Bytes::from_static(rows), Bytes::from_static(evictions));
        Piece { round, audience, rows, row_count, evictions, eviction_count }
    }

    fn frames() -> Vec<LogFrame> {
        let frame = |end, bytes: &'static [u8], pieces| LogFrame {
            last: at(end),
            transaction_end: true,
            bytes: Bytes::from_static(bytes),
            rows: u32::try_from(bytes.len()).unwrap(),
            pieces,
        };
        vec![
            frame(20, b"all", vec![]),
            frame(
                30,
                b"",
                vec![
                    piece(0, scopes("b", &[]), b"plain", b""),
                    piece(0, scopes("a", &["b"]), b"moved", b"forget"),
                    piece(1, scopes("b", &["a"]), b"back", b"forget again"),
                    piece(1, Arc::new(Audience::Keys), b"guarded", b""),
                ],
            ),
            frame(40, b"more", vec![piece(0, scopes("b", &[]), b"again", b"")]),
        ]
    }

    fn segment(scopes: Vec<ScopeBlock>) -> Segment {
        Segment {
            name: SegmentName { previous: at(10), last: at(40), fence: 1 },
            transaction_end: true,
            scopes,
            transactions: Vec::new(),
            definitions: Bytes::new(),
        }
    }

    #[test]
    fn frames_with_pieces_read_back_in_the_order_of_a_reader() {
        let segment = segment(into_blocks(frames()));
        let read = Segment::decode(segment.name, segment.encode().unwrap()).unwrap();
        let mut wanted = frames();
        wanted[1].pieces.sort_by(|a, b| a.place().cmp(&b.place()));
        assert_eq!(read.log_frames().unwrap(), wanted);
        let rows: Vec<Bytes> = read.row_frames().unwrap().into_iter().map(|(_at, bytes)| bytes).collect();
        assert_eq!(rows.len(), 7, "evictions are no rows: {rows:?}");
    }

    #[test]
    fn a_block_that_is_not_understood_or_has_no_frame_is_an_error() {
        for change in [
            |blocks: &mut Vec<ScopeBlock>| blocks[1].scope = "team".to_owned(),
            |blocks: &mut Vec<ScopeBlock>| blocks[1].frames[0].last = at(25),
        ] {
            let mut blocks = into_blocks(frames());
            change(&mut blocks);
            assert!(matches!(segment(blocks).log_frames(), Err(Error::Segment { .. })));
        }
    }
}
