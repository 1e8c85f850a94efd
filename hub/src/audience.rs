//! Who reads what: audiences of rows, and what a reader gets of them.
//!
//! Rows are grouped by their audience when they are decoded, once for all readers. An audience says who has the
//! rows, and who had them before and has to forget them; a reader compares it with the scopes that it holds.
//! Invariant: nobody gets a row that none of its scopes holds, and what cannot be told is for nobody.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use shared_format::RowKind;
use shared_format::payload::{SCOPE_EVERYBODY, Scopes, TableDefinition};

use crate::auth::CallerKind;
use crate::error::Result;

/// Who gets a group of rows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Audience {
    /// Readers by their scopes.
    #[serde(rename = "scopes")]
    Scopes {
        /// Who holds one of these has the rows.
        now: BTreeSet<String>,
        /// Who holds none of those but one of these has to forget the rows.
        departed: BTreeSet<String>,
    },
    /// Whoever shows an API key: Postgres decides by row who reads the table, and no scope says the same.
    #[serde(rename = "keys")]
    Keys,
}

/// What a reader gets of a group of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// The rows.
    Rows,
    /// Their keys, to forget them.
    Evictions,
    /// Nothing.
    Nothing,
}

impl Audience {
    /// Everybody with access to the database.
    #[must_use]
    pub fn everybody() -> Audience {
        Audience::Scopes { now: BTreeSet::from([SCOPE_EVERYBODY.to_owned()]), departed: BTreeSet::new() }
    }

    /// The audience of a table's rows that do not name their readers; None for everybody.
    #[must_use]
    pub fn of_table(definition: &TableDefinition) -> Option<Audience> {
        match (definition.scoped, definition.row_security) {
            (true, _) => Some(Audience::Scopes { now: BTreeSet::new(), departed: BTreeSet::new() }),
            (false, true) => Some(Audience::Keys),
            (false, false) => None,
        }
    }

    /// The audience of one row. A deletion goes as such to those who had the row.
    pub fn of_row(scopes: &Scopes<'_>, row: usize, kind: RowKind) -> Result<Audience> {
        let set = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect::<BTreeSet<_>>();
        let before = if scopes.has_before() { set(scopes.before(row)?) } else { BTreeSet::new() };
        let mut now = if scopes.has_now() { set(scopes.now(row)?) } else { BTreeSet::new() };
        if kind == RowKind::Deleted {
            now.extend(before.iter().cloned());
        }
        if now.contains(SCOPE_EVERYBODY) {
            return Ok(Audience::everybody());
        }
        let departed = before.difference(&now).cloned().collect();
        Ok(Audience::Scopes { now, departed })
    }

    /// Whether somebody has to forget the rows.
    #[must_use]
    pub fn has_departed(&self) -> bool {
        match self {
            Audience::Scopes { departed, .. } => !departed.is_empty(),
            Audience::Keys => false,
        }
    }
}

/// Who reads, as far as the log cares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readership {
    kind: CallerKind,
    /// The scopes that it holds; none while nobody asked for them.
    held: Option<BTreeSet<String>>,
}

impl Readership {
    /// A reader whose scopes are not known: it gets what everybody gets.
    #[must_use]
    pub const fn unknown(kind: CallerKind) -> Readership {
        Readership { kind, held: None }
    }

    /// A reader that holds these scopes, and what everybody holds.
    #[must_use]
    pub fn new(kind: CallerKind, scopes: impl IntoIterator<Item = String>) -> Readership {
        let mut held: BTreeSet<String> = scopes.into_iter().collect();
        held.insert(SCOPE_EVERYBODY.to_owned());
        Readership { kind, held: Some(held) }
    }

    /// How it showed who it is.
    #[must_use]
    pub const fn kind(&self) -> CallerKind {
        self.kind
    }

    /// The scopes that it holds, if they are known.
    #[must_use]
    pub const fn held(&self) -> Option<&BTreeSet<String>> {
        self.held.as_ref()
    }

    /// Whether it is known which scopes it holds.
    #[must_use]
    pub const fn is_known(&self) -> bool {
        self.held.is_some()
    }

    /// What it gets of the rows of an audience.
    #[must_use]
    pub fn share(&self, audience: &Audience) -> Share {
        match audience {
            Audience::Keys if self.kind == CallerKind::Key => Share::Rows,
            Audience::Keys => Share::Nothing,
            Audience::Scopes { now, departed } => {
                let holds = |names: &BTreeSet<String>| match &self.held {
                    Some(held) => names.iter().any(|name| held.contains(name)),
                    None => names.contains(SCOPE_EVERYBODY),
                };
                if holds(now) {
                    Share::Rows
                } else if holds(departed) {
                    Share::Evictions
                } else {
                    Share::Nothing
                }
            }
        }
    }

    /// What a cursor remembers of it: two that get different rows differ. Of a reader that holds what everybody
    /// holds, nothing.
    #[must_use]
    pub fn mark(&self) -> Option<ScopesMark> {
        use sha2::{Digest, Sha256};
        let held = self.held.as_ref().filter(|held| held.len() > 1)?;
        let mut digest = Sha256::new();
        digest.update([u8::from(self.kind == CallerKind::Key)]);
        for name in held {
            digest.update(u64::try_from(name.len()).unwrap_or(u64::MAX).to_be_bytes());
            digest.update(name.as_bytes());
        }
        digest.finalize().first_chunk().map(|bytes| ScopesMark(u64::from_be_bytes(*bytes)))
    }
}

/// A short name of the scopes that a reader held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ScopesMark(u64);

impl ScopesMark {
    /// Reads what `Display` wrote.
    #[must_use]
    pub fn parse(text: &str) -> Option<ScopesMark> {
        let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let number = (text.len() == 16 && text.bytes().all(is_hex)).then(|| u64::from_str_radix(text, 16));
        number?.ok().map(ScopesMark)
    }
}

impl fmt::Display for ScopesMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use shared_format::payload::{ChangesBuilder, Payload, PayloadBuilder};
    use shared_format::{Hlc, SiteId, Stamp, ValueRef};

    use super::*;

    fn audience(kind: RowKind, before: &[&str], now: &[&str]) -> Audience {
        let mut changes = ChangesBuilder::new(1, 1, 1, 1, &[]);
        let stamp = Stamp { hlc: Hlc::from_raw(1), site: SiteId::from_bytes([1; 16]) };
        changes.row(kind, stamp, &[ValueRef::Integer(1)], &[]);
        changes.old_scopes(before);
        changes.new_scopes(now);
        let mut builder = PayloadBuilder::new();
        builder.push(changes);
        let bytes = builder.finish();
        Audience::of_row(&Payload::parse(&bytes).unwrap().changes()[0].scopes().unwrap(), 0, kind).unwrap()
    }

    fn check(before: &[&str], now: &[&str], held: &[&str], wanted: Share) {
        let reader = Readership::new(CallerKind::Token, held.iter().map(|name| (*name).to_owned()));
        let found = reader.share(&audience(RowKind::Cells, before, now));
        assert_eq!(found, wanted, "{before:?} {now:?} {held:?}");
    }

    #[test]
    fn a_row_goes_to_those_who_hold_it_and_leaves_those_who_do_not_any_more() {
        check(&["a"], &["a"], &["a"], Share::Rows);
        check(&["a"], &["a"], &["b"], Share::Nothing);
        check(&["a"], &["b"], &["a"], Share::Evictions);
        check(&["a"], &["b"], &["b"], Share::Rows);
        check(&["a"], &["b"], &["a", "b"], Share::Rows);
        check(&["a"], &["b"], &["c"], Share::Nothing);
        check(&["a"], &[], &["a"], Share::Evictions);
        check(&[""], &["a"], &["b"], Share::Evictions);
        check(&["a"], &[""], &["b"], Share::Rows);
        check(&[], &[], &["a"], Share::Nothing);
    }

    #[test]
    fn a_deletion_goes_to_those_who_had_the_row() {
        let deleted = audience(RowKind::Deleted, &["a"], &[]);
        let share = |held: &str| Readership::new(CallerKind::Token, [held.to_owned()]).share(&deleted);
        assert_eq!((share("a"), share("b")), (Share::Rows, Share::Nothing));
        assert!(!deleted.has_departed());
    }

    #[test]
    fn who_is_not_known_gets_what_everybody_gets() {
        for kind in [CallerKind::Key, CallerKind::Token] {
            let unknown = Readership::unknown(kind);
            assert_eq!(unknown.share(&Audience::everybody()), Share::Rows);
            assert_eq!(unknown.share(&audience(RowKind::Cells, &["a"], &["a"])), Share::Nothing);
            assert_eq!(unknown.mark(), None);
        }
    }

    #[test]
    fn a_table_that_postgres_guards_is_read_with_keys_only() {
        let share = |kind| Readership::new(kind, ["a".to_owned()]).share(&Audience::Keys);
        assert_eq!((share(CallerKind::Key), share(CallerKind::Token)), (Share::Rows, Share::Nothing));
    }

    #[test]
    fn other_scopes_have_another_mark_that_reads_back() {
        let mark = |held: &[&str]| {
            Readership::new(CallerKind::Token, held.iter().map(|name| (*name).to_owned())).mark().unwrap()
        };
        assert_eq!(mark(&["a", "b"]), mark(&["b", "", "a"]));
        assert_ne!(mark(&["a", "b"]), mark(&["ab"]));
        assert_eq!(ScopesMark::parse(&mark(&["a"]).to_string()), Some(mark(&["a"])));
        for text in ["", "0", "00000000000000000", "000000000000000G", "+00000000000000f"] {
            assert_eq!(ScopesMark::parse(text), None, "{text}");
        }
    }
}
