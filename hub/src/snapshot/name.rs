//! The name of an answer that is made of parts of a snapshot: of one name, the bytes are always the same.
//!
//! A client whose answer broke off gives the name back and gets the rest. The text comes from outside, so that
//! everything in it is checked, and an answer is made for who asks, never for who the name says.

use std::fmt;

use crate::audience::{Readership, ScopesMark};
use crate::auth::CallerKind;
use crate::cursor::SnapshotId;
use crate::epoch::EpochId;
use crate::position::Lsn;

/// Longest name, in bytes; a longer text is refused unread.
const NAME_BYTES_MAX: usize = 128;

/// Which parts of which snapshot, and for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartsName {
    /// The epoch of the snapshot.
    pub epoch: EpochId,
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The first part.
    pub first: u32,
    /// The part behind the last.
    pub next: u32,
    /// Of which tables.
    pub tables: TablesName,
    /// Who gets them.
    pub reader: ReaderName,
}

/// A short name of the tables that are wanted; of all, nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TablesName(Option<u64>);

impl TablesName {
    /// The name of these tables in this order; of all if there are none.
    #[must_use]
    pub fn of(tables: &[u32]) -> TablesName {
        use sha2::{Digest, Sha256};
        let mut digest = Sha256::new();
        tables.iter().for_each(|table| digest.update(table.to_be_bytes()));
        let hash = digest.finalize().first_chunk().map(|bytes| u64::from_be_bytes(*bytes));
        TablesName(hash.filter(|_| !tables.is_empty()))
    }

    fn parse(text: &str) -> Option<TablesName> {
        if text.is_empty() {
            return Some(TablesName(None));
        }
        Lsn::from_hex(text).map(|hash| TablesName(Some(hash.raw())))
    }
}

impl fmt::Display for TablesName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |hash| write!(f, "{hash:016x}"))
    }
}

/// A short name of a reader: two of one name get the same of every part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReaderName {
    kind: CallerKind,
    scopes: Option<ScopesMark>,
}

impl ReaderName {
    /// The name of a reader.
    #[must_use]
    pub fn of(reader: &Readership) -> ReaderName {
        ReaderName { kind: reader.kind(), scopes: reader.mark() }
    }

    fn parse(text: &str) -> Option<ReaderName> {
        let (kind, scopes) = text.split_at_checked(1)?;
        let kind = match kind {
            "k" => CallerKind::Key,
            "t" => CallerKind::Token,
            _ => return None,
        };
        let scopes = if scopes.is_empty() { None } else { Some(ScopesMark::parse(scopes)?) };
        Some(ReaderName { kind, scopes })
    }
}

impl fmt::Display for ReaderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            CallerKind::Key => "k",
            CallerKind::Token => "t",
        })?;
        self.scopes.map_or(Ok(()), |scopes| write!(f, "{scopes}"))
    }
}

impl PartsName {
    /// Reads what `Display` writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<PartsName> {
        if text.len() > NAME_BYTES_MAX {
            return None;
        }
        let mut words = text.split('.');
        let epoch = EpochId::parse(words.next()?)?;
        let lsn = Lsn::from_hex(words.next()?)?;
        let build = Lsn::from_hex(words.next()?)?.raw();
        let mut part = || {
            let word = words.next()?;
            word.bytes().all(|byte| byte.is_ascii_digit()).then(|| word.parse().ok())?
        };
        let (first, next) = (part()?, part()?);
        let tables = TablesName::parse(words.next()?)?;
        let reader = ReaderName::parse(words.next()?)?;
        let name = PartsName { epoch, snapshot: SnapshotId { lsn, build }, first, next, tables, reader };
        words.next().is_none().then_some(name)
    }
}

impl fmt::Display for PartsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PartsName { epoch, snapshot: SnapshotId { lsn, build }, first, next, tables, reader } = self;
        write!(f, "{epoch}.{}.{build:016x}.{first}.{next}.{tables}.{reader}", lsn.to_hex())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(reader: &Readership) -> PartsName {
        PartsName {
            epoch: EpochId::new(3, 0xabcd_0123),
            snapshot: SnapshotId { lsn: Lsn::MAX, build: u64::MAX },
            first: 0,
            next: u32::MAX,
            tables: TablesName::default(),
            reader: ReaderName::of(reader),
        }
    }

    #[test]
    fn a_name_reads_back_and_tells_readers_apart() {
        let scoped = |kind, scope: &str| Readership::new(kind, [scope.to_owned()]);
        let names = [
            name(&Readership::unknown(CallerKind::Key)),
            name(&Readership::unknown(CallerKind::Token)),
            name(&scoped(CallerKind::Key, "a")),
            name(&scoped(CallerKind::Token, "a")),
            name(&scoped(CallerKind::Token, "b")),
            PartsName { tables: TablesName::of(&[1]), ..name(&scoped(CallerKind::Token, "b")) },
            PartsName { tables: TablesName::of(&[1, 2]), ..name(&scoped(CallerKind::Token, "b")) },
        ];
        for (at, name) in names.iter().enumerate() {
            assert_eq!(PartsName::parse(&name.to_string()), Some(*name));
            assert!(names[..at].iter().all(|other| other != name), "{name}");
        }
    }

    #[test]
    fn any_other_text_is_refused() {
        let good = name(&Readership::unknown(CallerKind::Key)).to_string();
        for text in [
            String::new(),
            good.replace(".k", ".x"),
            good.replace(".k", ".kff"),
            good.replace("..k", ".."),
            good.replace(".0.", ".+0."),
            good.replace(".0.", ".."),
            good.replace(".0.", ".99999999999."),
            good.replace("..k", ".7.k"),
            format!("{good}.1"),
            format!("W/{good}"),
            format!("{good}{}", "0".repeat(NAME_BYTES_MAX)),
        ] {
            assert_eq!(PartsName::parse(&text), None, "{text:?}");
        }
    }
}
