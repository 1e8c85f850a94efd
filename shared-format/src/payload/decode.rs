//! Reads payloads that nobody checked yet.

use alloc::string::String;
use alloc::vec::Vec;

use flatbuffers::{Vector, VerifierOptions};

use super::COLUMNS_MAX;
use super::definition::{ColumnAlgorithm, ColumnDefinition, TableAlgorithm, TableDefinition};
use super::eviction::{Eviction, read_key};
use super::generated::cloudsync as fb;
use super::scopes::Scopes;
use super::values::{ValuesCursor, entry};
use crate::clock::{Hlc, SiteId, Stamp};
use crate::error::FormatError;
use crate::merge::RowKind;
use crate::row_state::ColumnId;
use crate::value::ValueRef;

/// Tables of FlatBuffers in one payload: each batch of rows has one per column.
const TABLES_MAX: usize = 1_000_000;

/// What a payload may expand to inside the verifier; four times the upload limit of DESIGN section 15.
const APPARENT_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Collections in one payload: one a table is enough, and a sender with more tables has further payloads.
const COLLECTIONS_MAX: usize = 10_000;

/// A payload whose bytes were verified.
#[derive(Clone, Copy, Debug)]
pub struct Payload<'a> {
    raw: fb::Payload<'a>,
}

/// A notice that a table's snapshot has to be fetched again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reload {
    /// The table's number in its author's registry.
    pub table: u32,
    /// Which life of that registry.
    pub incarnation: u64,
    /// Why, for people.
    pub reason: String,
}

/// A notice that the tombstones of a table are gone up to a clock: rows that are not alive and whose stamps, of
/// the life and of all parked cells, are below it.
///
/// In what a server sends it is an event: every replica drops the same ones at this place. In a payload of a
/// client it says up to where the author had dropped them, and so which deletions its rows have seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Collection {
    /// The table's number in its author's registry.
    pub table: u32,
    /// Which life of that registry.
    pub incarnation: u64,
    /// The least clock that stays.
    pub horizon: Hlc,
}

impl<'a> Payload<'a> {
    /// Verifies bare FlatBuffers bytes and the structure of every batch of rows in them.
    ///
    /// # Errors
    /// Bytes that are no payload, or one whose parts do not fit each other; single values are checked when
    /// they are read.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, FormatError> {
        // The identifier lies behind the four bytes of the root's offset.
        if bytes.len() < 8 || !fb::payload_buffer_has_identifier(bytes) {
            return Err(FormatError::Verifier);
        }
        let options = VerifierOptions {
            max_depth: 8,
            max_tables: TABLES_MAX,
            max_apparent_size: APPARENT_BYTES_MAX,
            ignore_missing_null_terminator: false,
        };
        let raw = flatbuffers::root_with_opts::<fb::Payload<'_>>(&options, bytes)
            .map_err(|_| FormatError::Verifier)?;
        let payload = Self { raw };
        let site_bytes = payload.raw.site_ids().map_or(0, |ids| ids.len());
        if !site_bytes.is_multiple_of(16) {
            return Err(structure("site ids", site_bytes, 16));
        }
        let collections = payload.raw.collections().map_or(0, |collections| collections.len());
        if collections > COLLECTIONS_MAX {
            return Err(structure("collections", collections, COLLECTIONS_MAX));
        }
        payload.changes().iter().try_for_each(Changes::check)?;
        payload.evictions().iter().try_for_each(Eviction::check)?;
        Ok(payload)
    }

    /// Reads the definitions.
    ///
    /// # Errors
    /// A definition without a name or key, with too many columns, or with an unknown algorithm.
    pub fn definitions(&self) -> Result<Vec<TableDefinition>, FormatError> {
        self.raw.definitions().into_iter().flatten().map(definition).collect()
    }

    /// Returns the batches of rows, in order.
    #[must_use]
    pub fn changes(&self) -> Vec<Changes<'a>> {
        let site_ids = self.raw.site_ids().map_or(&[][..], |ids| ids.bytes());
        self.raw.changes().into_iter().flatten().map(|raw| Changes { raw, site_ids }).collect()
    }

    /// Returns the number of rows in all batches.
    #[must_use]
    pub fn row_count(&self) -> u64 {
        let batches = self.raw.changes().into_iter().flatten();
        batches.fold(0, |count, batch| count.saturating_add(u64::from(batch.rows())))
    }

    /// Returns the reload notices.
    #[must_use]
    pub fn reloads(&self) -> Vec<Reload> {
        let notice = |raw: fb::Reload<'_>| Reload {
            table: raw.table(),
            incarnation: raw.incarnation(),
            reason: raw.reason().unwrap_or_default().into(),
        };
        self.raw.reloads().into_iter().flatten().map(notice).collect()
    }

    /// Returns the notices that tombstones are gone.
    #[must_use]
    pub fn collections(&self) -> Vec<Collection> {
        let notice = |raw: fb::Collection<'_>| Collection {
            table: raw.table(),
            incarnation: raw.incarnation(),
            horizon: Hlc::from_raw(raw.horizon()),
        };
        self.raw.collections().into_iter().flatten().map(notice).collect()
    }

    /// Returns the batches of rows that the reader has to forget.
    #[must_use]
    pub fn evictions(&self) -> Vec<Eviction<'a>> {
        self.raw.evictions().into_iter().flatten().map(|raw| Eviction { raw }).collect()
    }
}

fn definition(raw: fb::Definition<'_>) -> Result<TableDefinition, FormatError> {
    let read = |columns: Option<Vector<'_, flatbuffers::ForwardsUOffset<fb::Column<'_>>>>| {
        columns.into_iter().flatten().map(column).collect::<Result<Vec<_>, _>>()
    };
    let key = read(raw.key())?;
    let columns = read(raw.columns())?;
    if key.is_empty() {
        return Err(structure("definition: key columns", 0, 1));
    }
    let count = key.len().saturating_add(columns.len());
    if count > COLUMNS_MAX {
        return Err(structure("definition: columns", count, COLUMNS_MAX));
    }
    Ok(TableDefinition {
        table: raw.table(),
        incarnation: raw.incarnation(),
        version: raw.version(),
        name: raw.name().filter(|name| !name.is_empty()).ok_or(structure("definition: name", 0, 1))?.into(),
        schema: raw.schema().map(String::from),
        algorithm: TableAlgorithm::from_code(raw.algorithm())?,
        key,
        columns,
        scoped: raw.scoped(),
        row_security: raw.row_security(),
    })
}

fn column(raw: fb::Column<'_>) -> Result<ColumnDefinition, FormatError> {
    Ok(ColumnDefinition {
        id: ColumnId::new(raw.id()),
        name: raw.name().filter(|name| !name.is_empty()).ok_or(structure("column: name", 0, 1))?.into(),
        type_name: raw.type_name().unwrap_or_default().into(),
        algorithm: ColumnAlgorithm::from_code(raw.algorithm())?,
        group: raw.group().map(String::from),
    })
}

pub(super) fn structure(part: &'static str, found: usize, wanted: usize) -> FormatError {
    let number = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    FormatError::Structure { part, found: number(found), wanted: number(wanted) }
}

/// Rows of one table.
#[derive(Clone, Copy, Debug)]
pub struct Changes<'a> {
    pub(super) raw: fb::Changes<'a>,
    site_ids: &'a [u8],
}

impl<'a> Changes<'a> {
    /// The table's number in its author's registry.
    #[must_use]
    pub fn table(&self) -> u32 {
        self.raw.table()
    }

    /// Which life of that registry.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.raw.incarnation()
    }

    /// Version of the definition that the rows were written under.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.raw.version()
    }

    /// Number of rows.
    #[must_use]
    pub fn row_count(&self) -> usize {
        usize::try_from(self.raw.rows()).unwrap_or(usize::MAX)
    }

    /// Columns that the cells refer to, by the author's numbers.
    #[must_use]
    pub fn columns(&self) -> Vec<ColumnId> {
        self.raw.columns().into_iter().flatten().map(ColumnId::new).collect()
    }

    /// Starts reading the rows.
    #[must_use]
    pub fn rows(&self) -> RowCursor<'a> {
        RowCursor {
            changes: *self,
            keys: cursors(self.raw.keys()),
            values: cursors(self.raw.values()),
            at: 0,
            bit: 0,
            stamp_at: 0,
            row: Row { kind: RowKind::Cells, stamp: Stamp::ZERO, key: Vec::new(), cells: Vec::new() },
        }
    }

    /// What all rows say of their lives; None where they differ, or there is none.
    ///
    /// # Errors
    /// An unknown kind.
    pub fn kind(&self) -> Result<Option<RowKind>, FormatError> {
        match self.raw.kinds() {
            Some(kinds) if kinds.len() == 1 => row_kind(kinds.get(0)).map(Some),
            Some(_) | None => Ok(None),
        }
    }

    /// Who reads the rows; None where everybody does.
    #[must_use]
    pub fn scopes(&self) -> Option<Scopes<'a>> {
        Scopes::of(self.raw)
    }

    pub(super) fn sites(&self) -> Vec<SiteId> {
        self.site_ids.as_chunks().0.iter().map(|bytes| SiteId::from_bytes(*bytes)).collect()
    }

    fn check(&self) -> Result<(), FormatError> {
        let rows = self.row_count();
        let keys = self.raw.keys().map_or(0, |keys| keys.len());
        let columns = self.raw.columns().map_or(0, |columns| columns.len());
        let values = self.raw.values().map_or(0, |values| values.len());
        if keys.saturating_add(columns) > COLUMNS_MAX {
            return Err(structure("rows: columns", keys.saturating_add(columns), COLUMNS_MAX));
        }
        if values != columns {
            return Err(structure("rows: value columns", values, columns));
        }
        check_keys(self.raw.keys(), rows)?;
        let bitmap = rows.saturating_mul(columns).div_ceil(8);
        for (part, found) in [
            ("rows: presence bitmap", self.raw.present().map(|bits| bits.len())),
            ("rows: stamp bitmap", self.raw.stamped().map(|bits| bits.len())),
        ] {
            if found.is_some_and(|found| found != bitmap) {
                return Err(structure(part, found.unwrap_or(0), bitmap));
            }
        }
        Ok(())
    }
}

fn row_kind(code: u8) -> Result<RowKind, FormatError> {
    match code {
        0 => Ok(RowKind::Cells),
        1 => Ok(RowKind::Created),
        2 => Ok(RowKind::Deleted),
        _ => Err(FormatError::UnknownCode { what: "row kind", code: u64::from(code) }),
    }
}

type Columns<'a> = Option<Vector<'a, flatbuffers::ForwardsUOffset<fb::Values<'a>>>>;

/// Starts reading the values of columns.
pub(super) fn cursors<'a>(columns: Columns<'a>) -> Vec<ValuesCursor<'a>> {
    columns.into_iter().flatten().map(ValuesCursor::new).collect()
}

/// Checks that there are keys of so many rows.
pub(super) fn check_keys(keys: Columns<'_>, rows: usize) -> Result<(), FormatError> {
    let count = keys.map_or(0, |keys| keys.len());
    if count == 0 {
        return Err(structure("rows: key columns", 0, 1));
    }
    if count > COLUMNS_MAX {
        return Err(structure("rows: columns", count, COLUMNS_MAX));
    }
    // Every part of a key takes bytes, so that a row count is bounded by the size of the payload.
    for key in keys.into_iter().flatten() {
        let fixed = key.fixed().map_or(0, |fixed| fixed.len());
        let parts = key.lengths().map_or(0, |lengths| lengths.len()).saturating_add(fixed);
        if parts < rows {
            return Err(structure("rows: key parts", parts, rows));
        }
    }
    Ok(())
}

/// One cell of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cell<'a> {
    /// Index into [`Changes::columns`].
    pub column: usize,
    /// Its own stamp, or its row's.
    pub stamp: Stamp,
    /// The value.
    pub value: ValueRef<'a>,
}

/// One row of changes.
#[derive(Clone, Debug, PartialEq)]
pub struct Row<'a> {
    /// What it says of the life.
    pub kind: RowKind,
    /// Stamp of the life, or of the cells that have none of their own.
    pub stamp: Stamp,
    /// Parts of the row key, in key order.
    pub key: Vec<ValueRef<'a>>,
    /// Cells, by ascending column.
    pub cells: Vec<Cell<'a>>,
}

/// Reads rows in order, into one row that is used again.
#[derive(Clone, Debug)]
pub struct RowCursor<'a> {
    changes: Changes<'a>,
    keys: Vec<ValuesCursor<'a>>,
    values: Vec<ValuesCursor<'a>>,
    at: usize,
    bit: usize,
    stamp_at: usize,
    row: Row<'a>,
}

impl<'a> RowCursor<'a> {
    /// Reads the next row; None after the last.
    ///
    /// # Errors
    /// A value, stamp or site that is not there, an unknown kind, text that is not UTF-8, or NULL in a key.
    pub fn next_row(&mut self) -> Result<Option<&Row<'a>>, FormatError> {
        if self.at >= self.changes.row_count() {
            return Ok(None);
        }
        let raw = self.changes.raw;
        self.row.kind = row_kind(entry(raw.kinds(), self.at, "row kinds")?)?;
        let hlc = entry(raw.hlcs(), self.at, "row clocks")?;
        self.row.stamp = self.stamp(hlc, entry(raw.sites(), self.at, "row sites")?)?;
        read_key(&mut self.keys, &mut self.row.key)?;
        self.row.cells.clear();
        for column in 0..self.values.len() {
            self.read_cell(column)?;
        }
        self.at = self.at.saturating_add(1);
        Ok(Some(&self.row))
    }

    fn read_cell(&mut self, column: usize) -> Result<(), FormatError> {
        let raw = self.changes.raw;
        let bit = self.bit;
        self.bit = bit.saturating_add(1);
        if raw.present().is_some_and(|present| !is_set(present.bytes(), bit)) {
            return Ok(());
        }
        let mut stamp = self.row.stamp;
        if raw.stamped().is_some_and(|stamped| is_set(stamped.bytes(), bit)) {
            let hlc = exact(raw.cell_hlcs(), self.stamp_at, "cell clocks")?;
            stamp = self.stamp(hlc, exact(raw.cell_sites(), self.stamp_at, "cell sites")?)?;
            self.stamp_at = self.stamp_at.saturating_add(1);
        }
        let values = self.values.get_mut(column).ok_or(structure("rows: value columns", column, column))?;
        let value = values.next_value()?;
        self.row.cells.push(Cell { column, stamp, value });
        Ok(())
    }

    fn stamp(&self, hlc: u64, ordinal: u32) -> Result<Stamp, FormatError> {
        let sites = self.changes.site_ids.as_chunks().0;
        let site =
            usize::try_from(ordinal).ok().and_then(|at| sites.get(at)).ok_or(FormatError::Structure {
                part: "site ordinal",
                found: u64::from(ordinal),
                wanted: u64::try_from(sites.len()).unwrap_or(u64::MAX),
            })?;
        Ok(Stamp { hlc: Hlc::from_raw(hlc), site: SiteId::from_bytes(*site) })
    }
}

fn is_set(bits: &[u8], at: usize) -> bool {
    bits.get(at / 8).is_some_and(|byte| byte & (1 << (at % 8)) != 0)
}

/// Entry `at` of a vector that has one entry each.
fn exact<'a, T: flatbuffers::Follow<'a> + 'a>(
    items: Option<Vector<'a, T>>,
    at: usize,
    part: &'static str,
) -> Result<T::Inner, FormatError> {
    let found = items.map_or(0, |items| items.len());
    let items = items.filter(|_| at < found);
    items.map(|items| items.get(at)).ok_or(structure(part, found, at.saturating_add(1)))
}
