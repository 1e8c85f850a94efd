//! What a replica knows of one row beside its values: whether it exists, and who wrote what when.
//!
//! Owns the stamping of local writes (DESIGN section 3) and the packed form of overrides that SQLite stores.

use alloc::vec::Vec;

use crate::clock::{Hlc, SiteId, Stamp};
use crate::error::FormatError;
use crate::reader::{Reader, push_varint};

/// Layout of packed cells alone.
const PACKED_CELLS: u8 = 1;

/// Layout of packed cells with registers behind them.
const PACKED_ROW: u8 = 2;

/// A cell as metadata keeps it: the site is an ordinal of the file's dictionary.
type PackedCell = (ColumnId, Hlc, u32);

/// Number of a column within its table, given by one site and never used again there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ColumnId(u16);

impl ColumnId {
    /// Takes the number as it is.
    #[must_use]
    pub const fn new(id: u16) -> Self {
        Self(id)
    }

    /// Returns the number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}

/// Whether a row exists, with the stamp of the creation or deletion that decided it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// Whether the row exists.
    pub alive: bool,
    /// Stamp of the creation or deletion; for a live row, the base.
    pub stamp: Stamp,
}

/// The stamp of one column of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CellStamp {
    /// The column.
    pub column: ColumnId,
    /// When and where it was written.
    pub stamp: Stamp,
}

/// A local write that is to be stamped.
#[derive(Clone, Copy, Debug)]
pub enum LocalWrite<'a> {
    /// The row came into being.
    Create,
    /// These columns changed.
    Update(&'a [ColumnId]),
    /// The row went away.
    Delete,
}

/// The metadata of one row.
///
/// Invariant: `cells` is sorted by column and has each column once. On a live row it holds the overrides, all
/// newer than the base, and [`Stamp::ZERO`] for each column that the creation did not carry. Otherwise it
/// holds the parked cells, all newer than the life.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowState {
    /// None until a creation or deletion was seen.
    pub life: Option<Life>,
    /// Overrides of a live row, parked cells of any other.
    pub cells: Vec<CellStamp>,
}

impl RowState {
    /// A row that this replica never heard of.
    #[must_use]
    pub const fn unseen() -> Self {
        Self { life: None, cells: Vec::new() }
    }

    /// A live row all of whose columns have one stamp.
    #[must_use]
    pub const fn baseline(stamp: Stamp) -> Self {
        Self { life: Some(Life { alive: true, stamp }), cells: Vec::new() }
    }

    /// Whether the row exists.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.life.is_some_and(|life| life.alive)
    }

    /// Stamp of the life; zero for an unseen row.
    #[must_use]
    pub fn life_stamp(&self) -> Stamp {
        self.life.map_or(Stamp::ZERO, |life| life.stamp)
    }

    /// Entry of a column, if it has one of its own.
    #[must_use]
    pub fn cell(&self, column: ColumnId) -> Option<Stamp> {
        let at = self.cells.binary_search_by_key(&column, |cell| cell.column).ok()?;
        self.cells.get(at).map(|cell| cell.stamp)
    }

    /// Stamp of a column: its own, or that of the life.
    #[must_use]
    pub fn stamp_of(&self, column: ColumnId) -> Stamp {
        self.cell(column).unwrap_or_else(|| self.life_stamp())
    }

    /// Greatest clock of the row, cells and life together.
    #[must_use]
    pub fn greatest_hlc(&self) -> Hlc {
        self.cells.iter().map(|cell| cell.stamp.hlc).fold(self.life_stamp().hlc, Hlc::max)
    }

    /// Gives a column an entry of its own, in place of one it has.
    pub fn set_cell(&mut self, column: ColumnId, stamp: Stamp) {
        let cell = CellStamp { column, stamp };
        match self.cells.binary_search_by_key(&column, |cell| cell.column) {
            Ok(at) => {
                if let Some(held) = self.cells.get_mut(at) {
                    *held = cell;
                }
            }
            Err(at) => self.cells.insert(at, cell),
        }
    }

    /// Takes a column's own entry away; the life speaks for it again.
    pub fn clear_cell(&mut self, column: ColumnId) {
        self.cells.retain(|cell| cell.column != column);
    }

    /// Stamps a local write by the per-cell rule and returns the stamp.
    ///
    /// A creation or deletion goes above every stamp of the row; an update above the life and above the cells
    /// it writes, which all get one stamp. An update of a row that is not alive is a creation.
    pub fn write_local(&mut self, write: LocalWrite<'_>, wall_ms: i64, site: SiteId) -> Stamp {
        match write {
            LocalWrite::Update(columns) if self.is_alive() => {
                let floor = columns
                    .iter()
                    .filter_map(|column| self.cell(*column))
                    .map(|stamp| stamp.hlc)
                    .fold(self.life_stamp().hlc, Hlc::max);
                let stamp = Stamp { hlc: Hlc::after(wall_ms, floor), site };
                for column in columns {
                    self.set_cell(*column, stamp);
                }
                stamp
            }
            LocalWrite::Create | LocalWrite::Update(_) => self.begin_life(true, wall_ms, site),
            LocalWrite::Delete => self.begin_life(false, wall_ms, site),
        }
    }

    fn begin_life(&mut self, alive: bool, wall_ms: i64, site: SiteId) -> Stamp {
        let stamp = Stamp { hlc: Hlc::after(wall_ms, self.greatest_hlc()), site };
        self.life = Some(Life { alive, stamp });
        self.cells.clear();
        stamp
    }
}

/// Packs cells for one metadata column: a layout byte, then per cell the column id, 8 bytes of clock (little
/// endian) and the ordinal of the site.
#[must_use]
pub fn pack_cells(cells: &[(ColumnId, Hlc, u32)]) -> Vec<u8> {
    let mut out = Vec::with_capacity(cells.len().saturating_mul(12).saturating_add(1));
    out.push(PACKED_CELLS);
    push_cells(&mut out, cells);
    out
}

/// Packs cells and registers: another layout byte, the number of cells, the cells, then per register the column
/// id, its length and its bytes.
#[must_use]
pub fn pack_row(cells: &[(ColumnId, Hlc, u32)], registers: &[(ColumnId, Vec<u8>)]) -> Vec<u8> {
    let mut out = Vec::new();
    let length = |length: usize| u32::try_from(length).expect("a row is below 4 GiB: see DESIGN section 15");
    out.push(PACKED_ROW);
    push_varint(&mut out, length(cells.len()));
    push_cells(&mut out, cells);
    for (column, bytes) in registers {
        push_varint(&mut out, u32::from(column.get()));
        push_varint(&mut out, length(bytes.len()));
        out.extend_from_slice(bytes);
    }
    out
}

fn push_cells(out: &mut Vec<u8>, cells: &[PackedCell]) {
    for (column, hlc, ordinal) in cells {
        push_varint(out, u32::from(column.get()));
        out.extend_from_slice(&hlc.raw().to_le_bytes());
        push_varint(out, *ordinal);
    }
}

/// Reads the cells that [`pack_cells`] or [`pack_row`] wrote.
///
/// # Errors
/// Bytes that end early, a layout of a later release, or a column id above 65,535.
pub fn unpack_cells(bytes: &[u8]) -> Result<Vec<(ColumnId, Hlc, u32)>, FormatError> {
    read_packed(bytes).map(|(cells, _)| cells)
}

/// Reads the registers that [`pack_row`] wrote; there are none behind cells alone.
///
/// # Errors
/// As [`unpack_cells`].
pub fn unpack_registers(bytes: &[u8]) -> Result<Vec<(ColumnId, &[u8])>, FormatError> {
    let (_, mut reader) = read_packed(bytes)?;
    let mut registers = Vec::new();
    while !reader.is_empty() {
        let column = read_column(&mut reader)?;
        let length = reader.varint()?;
        registers.push((column, reader.take(usize::try_from(length).unwrap_or(usize::MAX))?));
    }
    Ok(registers)
}

/// Reads the cells; what is left of the bytes are registers.
fn read_packed(bytes: &[u8]) -> Result<(Vec<PackedCell>, Reader<'_>), FormatError> {
    let mut reader = Reader::new("packed cells", bytes);
    let mut left = match reader.byte()? {
        PACKED_CELLS => None,
        PACKED_ROW => Some(reader.varint()?),
        layout => {
            return Err(FormatError::UnknownCode { what: "layout of packed cells", code: u64::from(layout) });
        }
    };
    let mut cells = Vec::new();
    while left != Some(0) && !(left.is_none() && reader.is_empty()) {
        let column = read_column(&mut reader)?;
        let hlc = Hlc::from_raw(u64::from_le_bytes(reader.array()?));
        cells.push((column, hlc, reader.varint()?));
        left = left.map(|left| left.saturating_sub(1));
    }
    Ok((cells, reader))
}

fn read_column(reader: &mut Reader<'_>) -> Result<ColumnId, FormatError> {
    let column = reader.varint()?;
    let narrow = u16::try_from(column);
    let unknown = FormatError::UnknownCode { what: "column id", code: u64::from(column) };
    narrow.map(ColumnId::new).map_err(|_| unknown)
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    const SITE: SiteId = SiteId::from_bytes([1; 16]);
    const TITLE: ColumnId = ColumnId::new(1);
    const DONE: ColumnId = ColumnId::new(2);

    fn hlc(ms: i64, counter: u16) -> Hlc {
        Hlc::from_parts(ms, counter)
    }

    #[test]
    fn an_update_goes_above_the_cells_it_writes_only() {
        let mut row = RowState::baseline(Stamp { hlc: hlc(10, 0), site: SITE });
        row.set_cell(DONE, Stamp { hlc: hlc(90, 0), site: SITE });
        assert_eq!(row.write_local(LocalWrite::Update(&[TITLE]), 5, SITE).hlc, hlc(10, 1));
        assert_eq!(row.write_local(LocalWrite::Update(&[DONE]), 5, SITE).hlc, hlc(90, 1));
        assert_eq!(row.write_local(LocalWrite::Update(&[TITLE]), 50, SITE).hlc, hlc(50, 0));
    }

    #[test]
    fn a_deletion_and_a_creation_go_above_every_stamp_of_the_row() {
        let mut row = RowState::baseline(Stamp { hlc: hlc(10, 0), site: SITE });
        row.set_cell(DONE, Stamp { hlc: hlc(90, 0), site: SITE });
        assert_eq!(row.write_local(LocalWrite::Delete, 5, SITE).hlc, hlc(90, 1));
        assert!(!row.is_alive());
        assert_eq!(row.write_local(LocalWrite::Create, 5, SITE).hlc, hlc(90, 2));
        assert_eq!(row.cells, vec![]);
    }

    #[test]
    fn an_update_of_a_row_that_is_not_alive_creates_it() {
        let mut row = RowState::unseen();
        row.write_local(LocalWrite::Update(&[TITLE]), 5, SITE);
        assert!(row.is_alive());
        assert_eq!(row.cells, vec![]);
    }

    #[test]
    fn packed_cells_read_back() {
        let cells = vec![(TITLE, hlc(1, 2), 0), (ColumnId::new(999), Hlc::from_raw(u64::MAX), 70_000)];
        assert_eq!(unpack_cells(&pack_cells(&cells)), Ok(cells.clone()));
        assert_eq!(
            unpack_cells(&[9]),
            Err(FormatError::UnknownCode { what: "layout of packed cells", code: 9 })
        );
        let registers = vec![(DONE, vec![1, 2, 3]), (TITLE, vec![])];
        let packed = pack_row(&cells, &registers);
        assert_eq!(unpack_cells(&packed), Ok(cells.clone()));
        let read: Vec<(ColumnId, Vec<u8>)> =
            unpack_registers(&packed).unwrap().into_iter().map(|(id, bytes)| (id, bytes.to_vec())).collect();
        assert_eq!(read, registers);
        assert_eq!(unpack_registers(&pack_cells(&cells)), Ok(vec![]));
        assert!(matches!(unpack_registers(&packed[..packed.len() - 4]), Err(FormatError::Truncated { .. })));
    }
}
