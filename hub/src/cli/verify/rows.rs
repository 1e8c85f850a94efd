//! Rows as clients have them, told apart by digests: what a snapshot says, and what the log says after it.
//!
//! Nothing is decided here that merge decides: the centre passes on only what won there, so that of two cells the one
//! with the greater stamp is the later.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use shared_format::payload::Row as Change;
use shared_format::{ColumnId, RowKind, Stamp, ValueRef, decode_key, encode_key};

/// The value of a cell, as far as it has to be told from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Digest(u64);

impl Digest {
    fn of(value: ValueRef<'_>) -> Digest {
        let mut hasher = DefaultHasher::new();
        encode_key([value]).hash(&mut hasher);
        Digest(hasher.finish())
    }
}

/// One change of a row, without its values.
#[derive(Clone, Debug)]
pub(super) struct Digested {
    kind: RowKind,
    stamp: Stamp,
    cells: Vec<(ColumnId, Stamp, Digest)>,
}

impl Digested {
    /// Takes the digests of a change whose columns are these.
    pub(super) fn of(change: &Change<'_>, columns: &[ColumnId]) -> Digested {
        let cells = change.cells.iter().filter_map(|cell| {
            columns.get(cell.column).map(|column| (*column, cell.stamp, Digest::of(cell.value)))
        });
        Digested { kind: change.kind, stamp: change.stamp, cells: cells.collect() }
    }

    /// What it is.
    pub(super) const fn kind(&self) -> RowKind {
        self.kind
    }
}

/// Where a row comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// A snapshot.
    Snapshot,
    /// The log behind it.
    Log,
    /// A frame of the log of which only a part is visible in the database.
    Passing,
}

#[derive(Clone, Copy, Debug)]
struct Cell {
    stamp: Stamp,
    digest: Digest,
    /// The log wrote it; in a column of a register that is a share of a whole.
    is_changed: bool,
}

/// A row as clients have it.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    life: Option<Stamp>,
    is_dead: bool,
    is_passing: bool,
    cells: BTreeMap<ColumnId, Cell>,
}

impl Known {
    /// Takes a change.
    pub(super) fn take(&mut self, change: &Digested, source: Source) {
        self.is_passing |= source == Source::Passing;
        match change.kind {
            RowKind::Cells => {}
            RowKind::Created | RowKind::Deleted if self.life.is_some_and(|life| change.stamp < life) => {
                return;
            }
            RowKind::Created => {
                // A row that is created again forgets its earlier life.
                self.cells.retain(|_column, cell| cell.stamp >= change.stamp);
                (self.life, self.is_dead) = (Some(change.stamp), false);
            }
            RowKind::Deleted => {
                self.cells.clear();
                (self.life, self.is_dead) = (Some(change.stamp), true);
            }
        }
        for (column, stamp, digest) in &change.cells {
            if self.cells.get(column).is_none_or(|cell| cell.stamp <= *stamp) {
                let is_changed = source != Source::Snapshot;
                self.cells.insert(*column, Cell { stamp: *stamp, digest: *digest, is_changed });
            }
        }
    }

    /// Whether clients have it, as far as that can be said now.
    pub(super) const fn is_live(&self) -> bool {
        self.life.is_some() && !self.is_dead && !self.is_passing
    }
}

/// What became of the comparison of one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Compared {
    /// Both are the same.
    Same,
    /// It is being written just now.
    Passing,
    /// Clients lack it.
    OnlyInDatabase,
    /// These columns differ.
    Differs(Vec<ColumnId>),
}

/// Compares a row of the database with what clients have; `is_register` names columns that the log writes in shares.
pub(super) fn compare(
    row: &Digested,
    known: Option<&Known>,
    is_register: impl Fn(ColumnId) -> bool,
) -> Compared {
    let Some(known) = known else { return Compared::OnlyInDatabase };
    if known.is_passing {
        return Compared::Passing;
    }
    if !known.is_live() {
        return Compared::OnlyInDatabase;
    }
    let null = Digest::of(ValueRef::Null);
    let differs = row.cells.iter().filter(|(column, _stamp, digest)| match known.cells.get(column) {
        Some(cell) => cell.digest != *digest && !(cell.is_changed && is_register(*column)),
        // Clients have null where nobody told them of a cell.
        None => *digest != null,
    });
    let columns: Vec<ColumnId> = differs.map(|(column, ..)| *column).collect();
    if columns.is_empty() { Compared::Same } else { Compared::Differs(columns) }
}

/// A key for people.
pub(super) fn tell_key(key: &[u8]) -> String {
    let Ok(parts) = decode_key(key) else { return "a key that cannot be read".to_owned() };
    let told: Vec<String> = parts
        .iter()
        .map(|part| match part.as_ref() {
            ValueRef::Integer(number) => number.to_string(),
            ValueRef::Text(text) | ValueRef::Numeric(text) => format!("{text:?}"),
            ValueRef::Other { text, .. } => format!("{text:?}"),
            ValueRef::Uuid(bytes) => crate::hex::encode(&bytes),
            other => format!("{other:?}"),
        })
        .collect();
    format!("({})", told.join(", "))
}

#[cfg(test)]
mod tests {
    use shared_format::{Hlc, SiteId};

    use super::*;

    /// What a change says of the life, its clock, its cells, and where it comes from.
    type Told<'a> = (RowKind, u64, &'a [(u16, i64)], Source);

    fn stamp(hlc: u64) -> Stamp {
        Stamp { hlc: Hlc::from_raw(hlc), site: SiteId::from_bytes([7; 16]) }
    }

    fn change(kind: RowKind, at: u64, cells: &[(u16, i64)]) -> Digested {
        let cell = |(column, value): &(u16, i64)| {
            (ColumnId::new(*column), stamp(at), Digest::of(ValueRef::Integer(*value)))
        };
        Digested { kind, stamp: stamp(at), cells: cells.iter().map(cell).collect() }
    }

    fn known(changes: &[Told<'_>]) -> Known {
        let mut known = Known::default();
        for (kind, at, cells, source) in changes {
            known.take(&change(*kind, *at, cells), *source);
        }
        known
    }

    fn check(changes: &[Told<'_>], row: &[(u16, i64)], wanted: Compared) {
        let compared = compare(&change(RowKind::Created, 1, row), Some(&known(changes)), |column| {
            column == ColumnId::new(9)
        });
        assert_eq!(compared, wanted, "{changes:?}");
    }

    #[test]
    fn the_log_is_laid_over_the_snapshot_in_any_order() {
        let created = (RowKind::Created, 1, &[(1, 10), (2, 20)][..], Source::Snapshot);
        let written = (RowKind::Cells, 3, &[(2, 22)][..], Source::Log);
        let earlier = (RowKind::Cells, 2, &[(2, 21)][..], Source::Log);
        for changes in [[created, earlier, written], [created, written, earlier]] {
            check(&changes, &[(1, 10), (2, 22)], Compared::Same);
            check(&changes, &[(1, 10), (2, 20)], Compared::Differs(vec![ColumnId::new(2)]));
        }
        check(
            &[created],
            &[(1, 11), (2, 20), (3, 1)],
            Compared::Differs(vec![ColumnId::new(1), ColumnId::new(3)]),
        );
    }

    #[test]
    fn a_row_goes_and_comes_again_without_its_earlier_cells() {
        let created = (RowKind::Created, 1, &[(1, 10), (2, 20)][..], Source::Snapshot);
        let deleted = (RowKind::Deleted, 2, &[][..], Source::Log);
        let again = (RowKind::Created, 3, &[(1, 30)][..], Source::Log);
        check(&[created, deleted], &[(1, 10)], Compared::OnlyInDatabase);
        check(&[created, deleted, again, deleted], &[(1, 30)], Compared::Same);
        assert!(!known(&[created, deleted]).is_live() && known(&[created, again]).is_live());
        check(&[created, again], &[(1, 30), (2, 20)], Compared::Differs(vec![ColumnId::new(2)]));
    }

    #[test]
    fn what_is_being_written_and_shares_of_a_register_are_not_compared() {
        let created = (RowKind::Created, 1, &[(1, 10), (9, 20)][..], Source::Snapshot);
        check(&[created, (RowKind::Cells, 2, &[(9, 1)], Source::Log)], &[(1, 10), (9, 21)], Compared::Same);
        check(&[created], &[(1, 10), (9, 21)], Compared::Differs(vec![ColumnId::new(9)]));
        check(&[created, (RowKind::Cells, 2, &[(1, 1)], Source::Passing)], &[(1, 10)], Compared::Passing);
        assert_eq!(compare(&change(RowKind::Created, 1, &[]), None, |_| false), Compared::OnlyInDatabase);
    }

    #[test]
    fn keys_are_told_as_people_read_them() {
        let uuid = [0xab; 16];
        let key = encode_key([ValueRef::Integer(7), ValueRef::Text("a'b"), ValueRef::Uuid(uuid)]);
        assert_eq!(tell_key(&key), format!("(7, \"a'b\", {})", "ab".repeat(16)));
        assert_eq!(tell_key(&[255]), "a key that cannot be read");
    }
}
