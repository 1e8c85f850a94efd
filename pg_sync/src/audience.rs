//! Who reads a row: what has to be told of a change when its readers are not everybody.

use shared_format::RowKind;
use shared_format::payload::ChangesBuilder;

/// Who read a row before a change, and who reads it after.
#[derive(Clone, Debug, Default)]
pub(crate) struct Audience {
    /// Whether the row took part before, and whether it did not: both, where a statement wrote it more than once.
    pub(crate) was_in: bool,
    pub(crate) was_out: bool,
    /// All scopes that it had before.
    pub(crate) from: Vec<String>,
    /// Whether it takes part now.
    pub(crate) now_in: bool,
    pub(crate) to: Vec<String>,
}

/// How a change travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Travel {
    /// Not at all.
    Nothing,
    /// As it is.
    AsIs,
    /// The row as a whole: some who read it now did not before.
    Whole,
    /// Only that some readers lost it.
    Departure,
}

impl Audience {
    /// How a change of this kind travels. Of a row that does not match its filter nothing travels, but whoever may not
    /// read it any more loses it all the same.
    pub(crate) fn travel(&self, kind: RowKind) -> Travel {
        let within = |some: &[String], all: &[String]| some.iter().all(|scope| all.contains(scope));
        match kind {
            RowKind::Deleted if self.was_in => Travel::AsIs,
            RowKind::Deleted => Travel::Nothing,
            RowKind::Created | RowKind::Cells if !self.now_in => {
                if within(&self.from, &self.to) {
                    Travel::Nothing
                } else {
                    Travel::Departure
                }
            }
            RowKind::Created => Travel::AsIs,
            RowKind::Cells if self.was_out || !self.was_in || !within(&self.to, &self.from) => Travel::Whole,
            RowKind::Cells => Travel::AsIs,
        }
    }

    /// Who is to be told that the row is gone.
    pub(crate) fn last(&self) -> Vec<String> {
        if self.was_in { self.from.clone() } else { Vec::new() }
    }

    /// Says of the row that was added last who reads it.
    pub(crate) fn note(&self, changes: &mut ChangesBuilder, kind: RowKind, travel: Travel) {
        let lost: Vec<&String> = self.from.iter().filter(|scope| !self.to.contains(scope)).collect();
        match (travel, kind) {
            (Travel::Departure, _) => note(changes, &lost, &[]),
            (Travel::Nothing | Travel::AsIs | Travel::Whole, RowKind::Deleted) => {
                note(changes, &self.from, &[])
            }
            (Travel::Nothing | Travel::AsIs | Travel::Whole, RowKind::Created | RowKind::Cells) => {
                note(changes, &self.from, &self.to);
            }
        }
    }
}

/// Says of the row that was added last who read it, and who reads it.
pub(crate) fn note(changes: &mut ChangesBuilder, from: &[impl AsRef<str>], to: &[String]) {
    changes.old_scopes(from);
    changes.new_scopes(to);
}
