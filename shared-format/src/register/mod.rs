//! What a column holds whose cells do not simply replace each other: counters, extremes, text by blocks.
//!
//! A register is a set of stamped entries and perhaps the start value that the creation of the row carried.
//! Joining two is a union in which, per entry, the greater stamp stays, so order, grouping and repetition do not
//! matter. Entries not newer than the base are void, and taking them away commutes with joining. A start counts
//! only within the life that carried it. What a user sees is computed from both.

mod block;
mod code;
mod counter;
mod diff;
mod extreme;
mod position;

use alloc::string::String;
use alloc::vec::Vec;

use self::block::Blocks;
use self::counter::Counts;
use self::extreme::Front;
use crate::clock::{Hlc, SiteId, Stamp};
use crate::error::FormatError;
use crate::payload::ColumnAlgorithm;
use crate::value::{Value, ValueRef};

/// How the cells of one column merge, with what the algorithm has to know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ColumnRule {
    /// Last writer wins.
    #[default]
    Lww,
    /// Sum of what every site added.
    Counter,
    /// The greatest value wins.
    Max,
    /// The least value wins.
    Min,
    /// Text merged by blocks.
    Block {
        /// What stands between two blocks.
        delimiter: String,
    },
    /// Columns that win or lose together.
    Group {
        /// Its name.
        name: String,
        /// Place of the column among those of the group, by name: the same on every replica.
        rank: usize,
    },
}

impl ColumnRule {
    /// The algorithm on the wire.
    #[must_use]
    pub const fn algorithm(&self) -> ColumnAlgorithm {
        match self {
            Self::Lww => ColumnAlgorithm::Lww,
            Self::Counter => ColumnAlgorithm::Counter,
            Self::Max => ColumnAlgorithm::Max,
            Self::Min => ColumnAlgorithm::Min,
            Self::Block { .. } => ColumnAlgorithm::Block,
            Self::Group { .. } => ColumnAlgorithm::Group,
        }
    }

    /// Whether cells of the column are registers.
    #[must_use]
    pub const fn is_register(&self) -> bool {
        match self {
            Self::Lww | Self::Group { .. } => false,
            Self::Counter | Self::Max | Self::Min | Self::Block { .. } => true,
        }
    }
}

/// The value that the creation of a row carried.
#[derive(Clone, Debug, PartialEq)]
struct Start {
    base: Stamp,
    value: Value,
}

#[derive(Clone, Debug, PartialEq)]
enum Entries {
    Counter(Counts),
    Max(Front),
    Min(Front),
    Block(Blocks),
}

/// The contents of one cell of a counter, max, min or block column.
#[derive(Clone, Debug, PartialEq)]
pub struct Register {
    start: Option<Start>,
    entries: Entries,
}

/// What one file knows of its own entries in a register; it does not travel.
///
/// Invariant: an entry whose clock is above `sent_hlc` was not acknowledged when it was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnEntries {
    /// The counter entry that this file goes on with.
    pub origin: Option<Stamp>,
    /// Number of the newest local write, in the capture log of the file.
    pub seq: i64,
    /// Clock of the newest own entry that was acknowledged before it.
    pub sent_hlc: Hlc,
    /// What the counter entry said then.
    pub sent_delta: i64,
}

/// What a local write did to a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// An entry of the write's stamp is in the register.
    Changed,
    /// The value is what the register says anyway.
    Same,
    /// The algorithm has no place for the value: what the register says is to be put back.
    PutBack,
}

/// An entry that another one of the same place took the place of.
#[derive(Clone, Debug, PartialEq)]
pub struct LostEntry {
    /// Its stamp.
    pub stamp: Stamp,
    /// Its value; NULL for a removed block.
    pub value: Value,
    /// The stamp of the one that stays.
    pub won_stamp: Stamp,
    /// The value of the one that stays.
    pub won_value: Value,
}

impl Register {
    /// Without a start and entries; None for a column that holds plain values.
    #[must_use]
    pub fn new(rule: &ColumnRule) -> Option<Self> {
        let entries = match rule {
            ColumnRule::Lww | ColumnRule::Group { .. } => return None,
            ColumnRule::Counter => Entries::Counter(Counts::default()),
            ColumnRule::Max => Entries::Max(Front::default()),
            ColumnRule::Min => Entries::Min(Front::default()),
            ColumnRule::Block { .. } => Entries::Block(Blocks::default()),
        };
        Some(Self { start: None, entries })
    }

    /// Takes the value that the creation of stamp `base` carried.
    #[must_use]
    pub fn with_start(mut self, base: Stamp, value: Value) -> Self {
        self.start = Some(Start { base, value });
        self
    }

    /// Reads a cell of a change. `base` is the stamp of the creation that the change carries: a cell of that
    /// stamp is a plain value.
    ///
    /// # Errors
    /// A cell of another stamp that holds no register of this algorithm.
    pub fn from_cell(
        rule: &ColumnRule,
        base: Option<Stamp>,
        stamp: Stamp,
        value: ValueRef<'_>,
    ) -> Result<Self, FormatError> {
        let unknown = FormatError::UnknownCode { what: "register", code: u64::from(rule.algorithm().code()) };
        if base == Some(stamp) {
            let register = Self::new(rule).ok_or(unknown)?;
            return Ok(register.with_start(stamp, value.to_owned_value()));
        }
        match value {
            ValueRef::Blob(bytes) => {
                let register = Self::decode(rule, bytes)?;
                // The stamp of the cell was checked against clocks; it has to speak for all that is inside.
                match register.greatest().filter(|greatest| *greatest > stamp) {
                    Some(greatest) => Err(FormatError::Structure {
                        part: "register: clock beyond that of its cell",
                        found: greatest.hlc.raw(),
                        wanted: stamp.hlc.raw(),
                    }),
                    None => Ok(register),
                }
            }
            _plain => Err(unknown),
        }
    }

    /// Greatest stamp of an entry; None when nobody wrote since the creation.
    #[must_use]
    pub fn greatest(&self) -> Option<Stamp> {
        match &self.entries {
            Entries::Counter(counts) => counts.greatest(),
            Entries::Max(front) | Entries::Min(front) => front.greatest(),
            Entries::Block(blocks) => blocks.greatest(),
        }
    }

    /// The start value of the life, if the creation carried one.
    #[must_use]
    pub fn start(&self) -> Option<&Value> {
        self.start.as_ref().map(|start| &start.value)
    }

    /// Drops entries that are not newer than `life`, and a start that is not of the live row `base`.
    pub fn keep_newer(&mut self, life: Stamp, base: Option<Stamp>) {
        self.start = self.start.take().filter(|start| Some(start.base) == base);
        match &mut self.entries {
            Entries::Counter(counts) => counts.retain(&|stamp| stamp > life),
            Entries::Max(front) | Entries::Min(front) => front.retain(&|stamp| stamp > life),
            Entries::Block(blocks) => blocks.retain(&|stamp| stamp > life),
        }
    }

    /// Takes in what another replica says; returns the entries that lost their place to it.
    pub fn join(&mut self, other: &Self) -> Vec<LostEntry> {
        let later = |ours: &Start, theirs: &Start| {
            let order = ours.base.cmp(&theirs.base);
            order.then_with(|| ours.value.as_ref().cmp_encoded(&theirs.value.as_ref())).is_lt()
        };
        if let Some(theirs) = &other.start
            && self.start.as_ref().is_none_or(|ours| later(ours, theirs))
        {
            self.start = Some(theirs.clone());
        }
        match (&mut self.entries, &other.entries) {
            (Entries::Counter(ours), Entries::Counter(theirs)) => ours.join(theirs),
            (Entries::Max(ours), Entries::Max(theirs)) => ours.join(theirs, true),
            (Entries::Min(ours), Entries::Min(theirs)) => ours.join(theirs, false),
            (Entries::Block(ours), Entries::Block(theirs)) => return ours.join(theirs),
            (Entries::Counter(_) | Entries::Max(_) | Entries::Min(_) | Entries::Block(_), _) => {
                debug_assert!(false, "registers of one column have one algorithm");
            }
        }
        Vec::new()
    }

    /// What a user sees; `default` stands for a start that the creation did not carry.
    #[must_use]
    pub fn visible(&self, rule: &ColumnRule, default: ValueRef<'_>) -> Value {
        let start = self.start.as_ref().map_or(default, |start| start.value.as_ref());
        if self.greatest().is_none() {
            return start.to_owned_value();
        }
        match &self.entries {
            Entries::Counter(counts) => Value::Integer(counts.total(start)),
            Entries::Max(front) => front.extreme(start, true),
            Entries::Min(front) => front.extreme(start, false),
            Entries::Block(blocks) => blocks.text(self.first_text(), delimiter(rule)),
        }
    }

    /// Takes in a value that a user of this file wrote.
    pub fn write(
        &mut self,
        rule: &ColumnRule,
        value: ValueRef<'_>,
        default: ValueRef<'_>,
        stamp: Stamp,
        own: &mut OwnEntries,
    ) -> Written {
        let visible = self.visible(rule, default);
        if visible.as_ref() == value {
            return Written::Same;
        }
        let first = self.start.as_ref().and_then(|start| first_text(start));
        match &mut self.entries {
            Entries::Counter(counts) => counts.write(&visible, value, stamp, &mut own.origin),
            Entries::Max(front) => front.write(&visible, value, stamp, true),
            Entries::Min(front) => front.write(&visible, value, stamp, false),
            Entries::Block(blocks) => blocks.write(first, value, delimiter(rule), stamp),
        }
    }

    /// The entries that one site wrote after a clock, without the start; None when there are none.
    #[must_use]
    pub fn written_by(&self, site: SiteId, after: Hlc) -> Option<Self> {
        let is_wanted = |stamp: Stamp| stamp.site == site && stamp.hlc > after;
        let mut written = Self { start: None, entries: self.entries.clone() };
        match &mut written.entries {
            Entries::Counter(counts) => counts.retain(&is_wanted),
            Entries::Max(front) | Entries::Min(front) => front.retain(&is_wanted),
            Entries::Block(blocks) => blocks.retain(&is_wanted),
        }
        written.greatest().is_some().then_some(written)
    }

    /// Whether all entries are of one site.
    #[must_use]
    pub fn is_only_of(&self, site: SiteId) -> bool {
        self.stamps().iter().all(|stamp| stamp.site == site)
    }

    /// Drops what other sites wrote, a start that one of them gave included.
    pub fn keep_only_of(&mut self, site: SiteId) {
        self.start = self.start.take().filter(|start| start.base.site == site);
        let is_own = |stamp: Stamp| stamp.site == site;
        match &mut self.entries {
            Entries::Counter(counts) => counts.retain(&is_own),
            Entries::Max(front) | Entries::Min(front) => front.retain(&is_own),
            Entries::Block(blocks) => blocks.retain(&is_own),
        }
    }

    /// Clock of the newest entry of a site; zero when it has none.
    #[must_use]
    pub fn newest_of(&self, site: SiteId) -> Hlc {
        let stamps = self.stamps();
        stamps.iter().filter(|stamp| stamp.site == site).map(|stamp| stamp.hlc).max().unwrap_or(Hlc::ZERO)
    }

    /// What one entry of a counter says.
    #[must_use]
    pub fn counted(&self, origin: Option<Stamp>) -> i64 {
        match (&self.entries, origin) {
            (Entries::Counter(counts), Some(origin)) => counts.0.get(&origin).map_or(0, |(_, delta)| *delta),
            (Entries::Counter(_) | Entries::Max(_) | Entries::Min(_) | Entries::Block(_), _) => 0,
        }
    }

    /// Stamps of all entries.
    #[must_use]
    pub fn stamps(&self) -> Vec<Stamp> {
        match &self.entries {
            Entries::Counter(counts) => counts.stamps(),
            Entries::Max(front) | Entries::Min(front) => front.stamps(),
            Entries::Block(blocks) => blocks.stamps(),
        }
    }

    /// Gives other stamps to a start and to entries that were not sent. An entry of a counter that was sent in
    /// part is split: what the server has keeps its name.
    pub fn restamp(
        &mut self,
        unsent: &dyn Fn(Stamp) -> bool,
        to: &dyn Fn(Stamp) -> Stamp,
        own: &mut OwnEntries,
    ) {
        match &mut self.entries {
            Entries::Counter(counts) => counts.restamp(unsent, to, own),
            Entries::Max(front) | Entries::Min(front) => front.restamp(unsent, to),
            Entries::Block(blocks) => blocks.restamp(unsent, to),
        }
    }

    /// Says that the life of the row has another stamp now.
    pub fn rebase(&mut self, base: Stamp) {
        if let Some(start) = &mut self.start {
            if let Entries::Block(blocks) = &mut self.entries {
                blocks.rebase(start.base, base);
            }
            start.base = base;
        }
    }

    fn first_text(&self) -> Option<(Stamp, &str)> {
        self.start.as_ref().and_then(first_text)
    }
}

fn first_text(start: &Start) -> Option<(Stamp, &str)> {
    match &start.value {
        Value::Text(text) => Some((start.base, text)),
        _other => None,
    }
}

fn delimiter(rule: &ColumnRule) -> &str {
    match rule {
        ColumnRule::Block { delimiter } => delimiter,
        ColumnRule::Lww
        | ColumnRule::Counter
        | ColumnRule::Max
        | ColumnRule::Min
        | ColumnRule::Group { .. } => "\n",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn at(hlc: u64, site: u8) -> Stamp {
        Stamp { hlc: Hlc::from_raw(hlc), site: SiteId::from_bytes([site; 16]) }
    }

    fn text(text: &str) -> Value {
        Value::Text(text.into())
    }

    fn lines() -> ColumnRule {
        ColumnRule::Block { delimiter: "\n".into() }
    }

    /// Every write is made at its own site on the start alone, then all are joined both ways.
    fn check(rule: &ColumnRule, start: Value, writes: &[Value], expected: &Value) -> Vec<LostEntry> {
        let first = Register::new(rule).unwrap().with_start(at(1, 1), start);
        let written: Vec<Register> = writes
            .iter()
            .zip(2..)
            .map(|(value, hlc)| {
                let mut register = first.clone();
                let stamp = at(hlc, u8::try_from(hlc).unwrap());
                register.write(rule, value.as_ref(), ValueRef::Null, stamp, &mut OwnEntries::default());
                register
            })
            .collect();
        let mut forth = first.clone();
        let lost = written.iter().flat_map(|register| forth.join(register)).collect();
        let mut back = first;
        written.iter().rev().for_each(|register| drop(back.join(register)));
        assert_eq!(forth, back);
        assert_eq!(&forth.visible(rule, ValueRef::Null), expected);
        lost
    }

    #[test]
    fn a_counter_adds_what_everyone_added() {
        let number = Value::Integer;
        check(&ColumnRule::Counter, number(10), &[number(11), number(13), number(8)], &number(12));
        check(&ColumnRule::Counter, Value::Null, &[number(1), number(2)], &number(3));
        check(&ColumnRule::Counter, number(i64::MAX), &[number(i64::MIN)], &number(i64::MIN));
        check(&ColumnRule::Counter, number(1), &[text("x"), Value::Null, Value::Real(2.5)], &number(1));
    }

    #[test]
    fn the_furthest_value_stays() {
        let number = Value::Integer;
        check(&ColumnRule::Max, number(5), &[number(9), number(7), number(3)], &number(9));
        check(&ColumnRule::Min, number(5), &[number(9), number(3), Value::Null], &number(3));
        check(&ColumnRule::Min, Value::Null, &[number(9)], &number(9));
    }

    #[test]
    fn lines_put_in_at_one_place_are_all_kept_together() {
        let both = [text("a\nx1\nx2\nb"), text("a\ny1\ny2\nb")];
        check(&lines(), text("a\nb"), &both, &text("a\nx1\nx2\ny1\ny2\nb"));
        check(&lines(), text("a\n"), &[text("a\nx\n"), text("a\ny\n")], &text("a\nx\ny\n"));
        check(&lines(), Value::Null, &[text("x"), text("y")], &text("x\ny"));
    }

    #[test]
    fn of_one_line_the_later_writing_stays_and_the_other_is_named() {
        let both = [text("a\nleft\nc"), text("a\nright\nc\nd")];
        let lost = check(&lines(), text("a\nb\nc"), &both, &text("a\nright\nc\nd"));
        assert_eq!(lost.len(), 1);
        assert_eq!((&lost[0].value, &lost[0].won_value), (&text("left"), &text("right")));
        check(&lines(), text("a\nb\nc"), &[text("a\nc"), text("a\nB\nc\nd")], &text("a\nB\nc\nd"));
        check(&lines(), text("a\nb"), &[Value::Null], &Value::Null);
        check(&lines(), text("a"), &[text("")], &text(""));
        check(&lines(), text("a"), &[Value::Blob(vec![1])], &text("a"));
    }

    #[test]
    fn a_delimiter_may_be_any_text() {
        let words = ColumnRule::Block { delimiter: ", ".into() };
        check(&words, text("a, c"), &[text("a, b, c"), text("a, c, d")], &text("a, b, c, d"));
    }

    #[test]
    fn a_register_reads_back_and_foreign_bytes_are_refused() {
        let mut register = Register::new(&lines()).unwrap().with_start(at(1, 1), text("a\nb"));
        let own = &mut OwnEntries::default();
        register.write(&lines(), ValueRef::Text("a\nx\nb"), ValueRef::Null, at(2, 2), own);
        register.write(&lines(), ValueRef::Text("x\ny"), ValueRef::Null, at(3, 1), own);
        let bytes = register.encode();
        assert_eq!(Register::decode(&lines(), &bytes), Ok(register));
        for length in 0..bytes.len() {
            assert!(Register::decode(&lines(), &bytes[..length]).is_err());
        }
        let other = FormatError::UnknownCode { what: "algorithm of a register", code: 4 };
        assert_eq!(Register::decode(&ColumnRule::Max, &bytes), Err(other));
        let plain = Register::from_cell(&ColumnRule::Max, None, at(2, 2), ValueRef::Integer(1));
        assert_eq!(plain, Err(FormatError::UnknownCode { what: "register", code: 2 }));
        let early = Register::from_cell(&lines(), None, at(2, 9), ValueRef::Blob(&bytes));
        assert!(matches!(early, Err(FormatError::Structure { .. })));
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0x55;
            if let Ok(other) = Register::decode(&lines(), &changed) {
                drop(other.visible(&lines(), ValueRef::Null));
            }
        }
    }

    #[test]
    fn a_copy_of_a_file_takes_only_what_it_did_not_send() {
        let (first, copy) = (at(2, 1), at(9, 9));
        let rule = ColumnRule::Counter;
        let mut register = Register::new(&rule).unwrap().with_start(at(1, 1), Value::Integer(10));
        let mut own = OwnEntries::default();
        register.write(&rule, ValueRef::Integer(15), ValueRef::Null, first, &mut own);
        let sent = register.clone();
        (own.sent_hlc, own.sent_delta) = (first.hlc, 5);
        register.write(&rule, ValueRef::Integer(18), ValueRef::Null, at(9, 1), &mut own);
        register.restamp(
            &|stamp| stamp.hlc > first.hlc,
            &|stamp| Stamp { site: copy.site, ..stamp },
            &mut own,
        );
        assert_eq!(own.origin, Some(copy));
        let mut other = sent;
        other.write(
            &rule,
            ValueRef::Integer(16),
            ValueRef::Null,
            at(7, 1),
            &mut OwnEntries { origin: Some(first), ..OwnEntries::default() },
        );
        other.join(&register);
        assert_eq!(other.visible(&rule, ValueRef::Null), Value::Integer(10 + 5 + 3 + 1));
    }
}
