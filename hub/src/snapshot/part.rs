//! A part that holds the rows of several audiences: frames by audience, and at its end where each lies.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::audience::{Audience, Readership, Share};
use crate::error::{Error, Result};
use crate::segment::Piece;

/// Bytes of the index's length, which come last.
const LENGTH_BYTES: usize = 4;

/// Where the frame of one audience lies.
#[derive(Debug, Serialize, Deserialize)]
struct Place {
    audience: Audience,
    at: usize,
    length: usize,
    /// Not said by releases that did not count.
    #[serde(default)]
    rows: u64,
}

/// A part in memory.
#[derive(Debug)]
pub(crate) struct SplitPart {
    bytes: Bytes,
    places: Vec<Place>,
}

/// Joins what everybody gets and the pieces to a part.
pub(super) fn join(everybody: &[u8], rows: u64, pieces: &[Piece]) -> Result<Bytes> {
    let mut part = BytesMut::from(everybody);
    let mut places = vec![Place { audience: Audience::everybody(), at: 0, length: everybody.len(), rows }];
    for piece in pieces {
        let audience = Audience::clone(&piece.audience);
        let (at, length, rows) = (part.len(), piece.rows.len(), u64::from(piece.row_count));
        places.push(Place { audience, at, length, rows });
        part.put_slice(&piece.rows);
    }
    let index = serde_json::to_vec(&places).expect("an index is plain text and numbers");
    part.put_slice(&index);
    part.put_u32(u32::try_from(index.len()).map_err(|_wide| wrong("index length"))?);
    Ok(part.freeze())
}

impl SplitPart {
    pub(super) fn read(bytes: Bytes) -> Result<SplitPart> {
        let at = bytes.len().checked_sub(LENGTH_BYTES).ok_or_else(|| wrong("part length"))?;
        let length = usize::try_from(bytes.slice(at..).get_u32()).map_err(|_wide| wrong("index length"))?;
        let end = at.checked_sub(length).ok_or_else(|| wrong("index length"))?;
        let places: Vec<Place> =
            serde_json::from_slice(&bytes.slice(end..at)).map_err(|_wrong| wrong("index"))?;
        let ends = |place: &Place| place.at.checked_add(place.length).is_some_and(|found| found <= end);
        if places.iter().all(ends) { Ok(SplitPart { bytes, places }) } else { Err(wrong("index place")) }
    }

    /// What it takes in memory, about.
    pub(crate) const fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    /// The frames of all readers, one after another: they lie in front of the index.
    pub(super) fn all_frames(&self) -> Bytes {
        let end = self.places.iter().filter_map(|place| place.at.checked_add(place.length)).max();
        self.bytes.slice(..end.unwrap_or(0))
    }

    /// The frames that a reader gets, as they lie, and how many rows are in them.
    pub(super) fn frames(&self, reader: &Readership) -> (Vec<Bytes>, u64) {
        let shared = self.places.iter().filter(|place| reader.share(&place.audience) == Share::Rows);
        let filled = shared.filter(|place| place.length > 0);
        let (mut frames, mut rows) = (Vec::new(), 0_u64);
        for place in filled {
            frames.push(self.bytes.slice(place.at..place.at + place.length));
            rows = rows.saturating_add(place.rows);
        }
        (frames, rows)
    }
}

fn wrong(part: &'static str) -> Error {
    Error::SnapshotManifest { part }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use super::*;
    use crate::auth::CallerKind;

    fn part() -> Bytes {
        let piece = |scope: &str, rows: &'static [u8]| Piece {
            round: 0,
            audience: Arc::new(Audience::Scopes {
                now: BTreeSet::from([scope.to_owned()]),
                departed: BTreeSet::new(),
            }),
            rows: Bytes::from_static(rows),
            row_count: u32::try_from(rows.len()).unwrap(),
            evictions: Bytes::new(),
            eviction_count: 0,
        };
        let guarded = Piece { audience: Arc::new(Audience::Keys), ..piece("", b"guarded") };
        join(b"all", 3, &[piece("a", b"rows of a"), piece("b", b"rows of b"), guarded]).unwrap()
    }

    fn check(kind: CallerKind, held: &[&str], wanted: &[&[u8]]) {
        let reader = Readership::new(kind, held.iter().map(|name| (*name).to_owned()));
        let (frames, rows) = SplitPart::read(part()).unwrap().frames(&reader);
        assert_eq!(frames, wanted, "{kind:?} {held:?}");
        assert_eq!(rows, wanted.iter().map(|frame| u64::try_from(frame.len()).unwrap()).sum::<u64>());
    }

    #[test]
    fn a_reader_gets_the_frames_of_its_audiences() {
        check(CallerKind::Token, &[], &[b"all"]);
        check(CallerKind::Token, &["b"], &[b"all", b"rows of b"]);
        check(CallerKind::Token, &["a", "b", "c"], &[b"all", b"rows of a", b"rows of b"]);
        check(CallerKind::Key, &["a"], &[b"all", b"rows of a", b"guarded"]);
    }

    #[test]
    fn all_frames_are_those_of_every_audience() {
        assert_eq!(SplitPart::read(part()).unwrap().all_frames(), "allrows of arows of bguarded");
    }

    #[test]
    fn a_broken_part_is_refused() {
        let good = part();
        for bad in
            [Bytes::new(), good.slice(1..), good.slice(..good.len() - 1), Bytes::from_static(b"\0\0\0\x09")]
        {
            assert!(matches!(SplitPart::read(bad), Err(Error::SnapshotManifest { .. })));
        }
    }
}
