//! A client's place, as opaque text: in the log of one epoch, or within a snapshot that it is still taking.
//!
//! Invariant: what `Display` writes, `FromStr` reads back. The text is safe in a URL and in a header. It comes
//! from outside, so that everything in it is checked.

use std::fmt;
use std::str::FromStr;

use crate::audience::ScopesMark;
use crate::epoch::EpochId;
use crate::error::{Error, Result};
use crate::position::{Lsn, Position};

/// Longest cursor, in bytes; a longer text is refused unread.
pub const CURSOR_BYTES_MAX: usize = 128;

/// At the end of a transaction in the log.
const KIND_LOG: &str = "l";

/// Within a transaction in the log.
const KIND_WITHIN: &str = "w";

/// Within a snapshot.
const KIND_SNAPSHOT: &str = "s";

/// A client's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cursor {
    /// Everything up to this position is with the client.
    Log {
        /// The epoch in which the position means something.
        epoch: EpochId,
        /// The last message that the client has.
        position: Position,
        /// It is the last of its transaction; else the rest is still to come.
        transaction_end: bool,
        /// The scopes that the client held; None for those that everybody holds.
        scopes: Option<ScopesMark>,
    },
    /// The client has the parts before `part` of a snapshot.
    Snapshot {
        /// The epoch of the snapshot.
        epoch: EpochId,
        /// The snapshot.
        snapshot: SnapshotId,
        /// The next part.
        part: u32,
        /// The scopes that the client held; None for those that everybody holds.
        scopes: Option<ScopesMark>,
    },
}

/// One snapshot of one scope: the LSN that the log goes on from, and which build of it.
///
/// Two builds at one LSN are cut differently, so their parts must never be mixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SnapshotId {
    /// Every transaction up to here is in the snapshot.
    pub lsn: Lsn,
    /// A random number.
    pub build: u64,
}

impl Cursor {
    /// The epoch that it belongs to.
    #[must_use]
    pub const fn epoch(&self) -> EpochId {
        match self {
            Cursor::Log { epoch, .. } | Cursor::Snapshot { epoch, .. } => *epoch,
        }
    }

    /// The scopes that the client held, as far as they are not everybody's.
    #[must_use]
    pub const fn scopes(&self) -> Option<ScopesMark> {
        match self {
            Cursor::Log { scopes, .. } | Cursor::Snapshot { scopes, .. } => *scopes,
        }
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cursor::Log { epoch, position, transaction_end, scopes: _ } => {
                let kind = if *transaction_end { KIND_LOG } else { KIND_WITHIN };
                write!(f, "{kind}.{epoch}.{}", position.to_hex())?;
            }
            Cursor::Snapshot { epoch, snapshot, part, scopes: _ } => {
                let SnapshotId { lsn, build } = snapshot;
                write!(f, "{KIND_SNAPSHOT}.{epoch}.{}.{build:016x}.{part}", lsn.to_hex())?;
            }
        }
        self.scopes().map_or(Ok(()), |scopes| write!(f, ".{scopes}"))
    }
}

impl FromStr for Cursor {
    type Err = Error;

    fn from_str(text: &str) -> Result<Cursor> {
        parse(text).ok_or(Error::Cursor)
    }
}

fn parse(text: &str) -> Option<Cursor> {
    if text.len() > CURSOR_BYTES_MAX {
        return None;
    }
    let mut parts = text.split('.');
    let kind = parts.next()?;
    let epoch = EpochId::parse(parts.next()?)?;
    let mut cursor = match kind {
        KIND_LOG | KIND_WITHIN => {
            let position = Position::from_hex(parts.next()?)?;
            Cursor::Log { epoch, position, transaction_end: kind == KIND_LOG, scopes: None }
        }
        KIND_SNAPSHOT => {
            let lsn = Lsn::from_hex(parts.next()?)?;
            let build = Lsn::from_hex(parts.next()?)?.raw();
            let part = parts.next()?;
            let part = part.bytes().all(|byte| byte.is_ascii_digit()).then(|| part.parse().ok())??;
            Cursor::Snapshot { epoch, snapshot: SnapshotId { lsn, build }, part, scopes: None }
        }
        _ => return None,
    };
    if let Some(mark) = parts.next() {
        let mark = ScopesMark::parse(mark)?;
        match &mut cursor {
            Cursor::Log { scopes, .. } | Cursor::Snapshot { scopes, .. } => *scopes = Some(mark),
        }
    }
    parts.next().is_none().then_some(cursor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back() {
        let epoch = EpochId::new(3, 0xabcd_0123);
        let marked = ScopesMark::parse("00000000000000ff");
        assert!(marked.is_some());
        let long = SnapshotId { lsn: Lsn::MAX, build: u64::MAX };
        for cursor in [
            Cursor::Log { epoch, position: Position::default(), transaction_end: false, scopes: None },
            Cursor::Log {
                epoch,
                position: Position::after(Lsn::new(0x1_0000_0000)),
                transaction_end: true,
                scopes: marked,
            },
            Cursor::Snapshot { epoch, snapshot: long, part: 12, scopes: None },
            Cursor::Snapshot { epoch, snapshot: long, part: u32::MAX, scopes: marked },
        ] {
            assert_eq!(cursor.to_string().parse::<Cursor>().unwrap(), cursor);
        }
    }

    #[test]
    fn any_other_text_is_refused() {
        let position = "0".repeat(32);
        for text in [
            String::new(),
            "l".to_owned(),
            format!("l.1-abcd0123.{position}.1"),
            format!("l.1-abcd0123.{position}.00000000000000ff.1"),
            format!("l.1.{position}"),
            format!("l.1-abcd012.{position}"),
            format!("l.+1-abcd0123.{position}"),
            format!("x.1-abcd0123.{position}"),
            "s.1-abcd0123.0000000000000000.0000000000000000.".to_owned(),
            "s.1-abcd0123.0000000000000000.0000000000000000.+1".to_owned(),
            "s.1-abcd0123.0000000000000000.0000000000000000.99999999999".to_owned(),
            format!("l.1-abcd0123.{}", "0".repeat(CURSOR_BYTES_MAX)),
        ] {
            assert!(matches!(text.parse::<Cursor>(), Err(Error::Cursor)), "{text:?}");
        }
    }
}
