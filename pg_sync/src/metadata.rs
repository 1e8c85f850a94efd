//! Metadata rows: what capture stores of a row, and the state that merge works with.

use std::collections::HashMap;

use shared_format::{Hlc, Life, RowRegisters, RowState, SiteId, Stamp};

use crate::catalog::Tracked;
use crate::edge::codec;
use crate::edge::tuple::{self, Tuple};
use crate::emit::own_override;
use crate::error::SyncError;
use crate::{ruled, sites};

/// A row of a metadata table, without its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Metadata {
    pub(crate) alive: bool,
    pub(crate) hlc: i64,
    pub(crate) site: i32,
    /// Overrides: at 2 x column id - 2 the clock, then the site. No empty tail.
    pub(crate) cols: Vec<Option<i64>>,
    /// Registers of a live row, packed; empty where there are none.
    pub(crate) registers: Vec<u8>,
}

impl Metadata {
    /// Reads alive, hlc, site and cols, which begin at attribute `first` of a row. None without metadata.
    pub(crate) fn from_tuple(row: &Tuple, first: i16) -> Option<Self> {
        let alive = codec::to_bool(row.attribute(first)?);
        let hlc = codec::to_i64(row.attribute(first + 1)?);
        let site = codec::to_i32(row.attribute(first + 2)?);
        let mut cols = row.attribute(first + 3).map(tuple::to_i64s).unwrap_or_default();
        trim(&mut cols);
        Some(Self { alive, hlc, site, cols, registers: Vec::new() })
    }

    /// Takes the packed registers that stand at an attribute of the row. A row that is not alive has none: what is
    /// there was left behind.
    pub(crate) fn with_registers(mut self, row: &Tuple, at: i16) -> Self {
        if self.alive {
            self.registers = row.attribute(at).map(codec::to_bytes).unwrap_or_default();
        }
        self
    }

    /// Whether everything but the registers is the same.
    pub(crate) fn has_stamps_of(&self, other: &Self) -> bool {
        (self.alive, self.hlc, self.site, &self.cols) == (other.alive, other.hlc, other.site, &other.cols)
    }

    /// Reads it with its registers. Runs as the owner.
    pub(crate) fn full(&self, table: &Tracked) -> Result<RowRegisters, SyncError> {
        Ok(RowRegisters { state: self.state(table)?, registers: ruled::unpack(table, &self.registers)? })
    }

    /// Reads it as a state of the given table's row. Runs as the owner.
    pub(crate) fn state(&self, table: &Tracked) -> Result<RowState, SyncError> {
        let mut state = RowState::unseen();
        let stamp = |hlc: i64, ordinal: i32| {
            let site = sites::site(ordinal).ok_or_else(|| SyncError::Damaged {
                table: table.name.clone(),
                detail: "a stamp has a site that the dictionary does not know",
            })?;
            Ok::<_, SyncError>(Stamp { hlc: Hlc::from_sql(hlc), site })
        };
        // Hlc 0 is a seed that a client had before its first sync; dead, the row was never seen.
        if self.alive || self.hlc != 0 {
            state.life = Some(Life { alive: self.alive, stamp: stamp(self.hlc, self.site)? });
        }
        for column in &table.columns {
            if let Some((hlc, ordinal)) = own_override(&self.cols, column.id) {
                state.set_cell(column.column_id(), stamp(hlc, ordinal)?);
            }
        }
        Ok(state)
    }

    /// Writes a state as metadata; `ordinals` knows every site in it.
    pub(crate) fn of_full(full: &RowRegisters, ordinals: &HashMap<SiteId, i32>) -> Self {
        Self { registers: ruled::pack(&full.registers), ..Self::of(&full.state, ordinals) }
    }

    /// Writes a state without registers.
    pub(crate) fn of(state: &RowState, ordinals: &HashMap<SiteId, i32>) -> Self {
        let ordinal = |site: SiteId| ordinals.get(&site).copied().unwrap_or(0);
        let mut cols = Vec::new();
        for cell in &state.cells {
            let at = usize::from(cell.column.get()).saturating_mul(2);
            cols.resize(cols.len().max(at), None);
            if let [hlc, site] = &mut cols[at.saturating_sub(2)..at] {
                *hlc = Some(cell.stamp.hlc.to_sql());
                *site = Some(i64::from(ordinal(cell.stamp.site)));
            }
        }
        let life = state.life_stamp();
        Self {
            alive: state.is_alive(),
            hlc: life.hlc.to_sql(),
            site: ordinal(life.site),
            cols,
            registers: Vec::new(),
        }
    }

    /// The overrides as an array; None where there are none.
    pub(crate) fn cols_datum(&self) -> Option<pgrx::pg_sys::Datum> {
        (!self.cols.is_empty()).then(|| tuple::bigints(&self.cols))
    }
}

/// Takes the empty tail away, so that equal overrides are equal arrays.
pub(crate) fn trim(cols: &mut Vec<Option<i64>>) {
    while cols.last().is_some_and(Option::is_none) {
        cols.pop();
    }
}
