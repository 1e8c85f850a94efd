//! Row metadata as the file stores it: one row of `<table>_cloudsync` is one [`RowState`].

use std::collections::BTreeMap;

use rusqlite::types::ToSql;
use rusqlite::{Connection, Row};
use shared_format::{
    CellStamp, ColumnId, Hlc, KeptRegister, Life, RowState, SiteId, Stamp, Value, ValueRef, pack_cells,
    pack_row, unpack_cells, unpack_registers,
};

use crate::error::{Doing, Error, Reading, Result};
use crate::log::DbVersion;
use crate::settings::Sites;
use crate::sql::{Bind, binds, column};
use crate::tracked_table::TrackedTable;

/// Registers of one live row.
pub(crate) type Registers = BTreeMap<ColumnId, KeptRegister>;

/// How many columns [`state`] reads.
pub(crate) const STATE_COLUMNS: usize = 5;

/// A state in the form of the metadata columns.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) alive: bool,
    pub(crate) hlc: i64,
    pub(crate) site: u32,
    pub(crate) cols: Option<Vec<u8>>,
}

impl Stored {
    /// Brings a state into the form of the metadata columns; sites that are new here get an ordinal.
    pub(crate) fn of(
        connection: &Connection,
        sites: &mut Sites,
        state: &RowState,
        registers: &Registers,
    ) -> Result<Self> {
        let life = state.life.unwrap_or(Life { alive: false, stamp: Stamp::ZERO });
        let site = sites.ordinal(connection, life.stamp.site)?;
        let mut cells = Vec::with_capacity(state.cells.len());
        for cell in &state.cells {
            cells.push((cell.column, cell.stamp.hlc, sites.ordinal(connection, cell.stamp.site)?));
        }
        let cols = if registers.is_empty() {
            (!cells.is_empty()).then(|| pack_cells(&cells))
        } else {
            let bytes: Vec<(ColumnId, Vec<u8>)> =
                registers.iter().map(|(id, kept)| (*id, kept.encode())).collect();
            Some(pack_row(&cells, &bytes))
        };
        Ok(Self { alive: life.alive, hlc: life.stamp.hlc.to_sql(), site, cols })
    }
}

/// Columns that [`state`] reads, each after `prefix`.
pub(crate) fn state_columns(prefix: &str) -> String {
    ["alive", "hlc", "site", "cols", "seq"].map(|name| format!("{prefix}{name}")).join(", ")
}

/// Reads the state that begins at column `first`; None when there is no metadata row.
///
/// A row that was never seen created, but has parked cells, is stored as dead at clock zero. A row that was
/// last written before a column came does not speak for it: that is how adding a column touches no row.
pub(crate) fn state(
    sites: &Sites,
    table: &TrackedTable,
    row: &Row<'_>,
    first: usize,
) -> Result<Option<RowState>> {
    let ValueRef::Integer(alive) = column(row, first)? else { return Ok(None) };
    let hlc = Hlc::from_sql(row.get(first + 1)?);
    let life = Life { alive: alive != 0, stamp: sites.stamp(hlc, row.get(first + 2)?)? };
    let mut state = RowState { life: Some(life), cells: Vec::new() };
    if !life.alive && hlc == Hlc::ZERO {
        state.life = None;
    }
    if let ValueRef::Blob(packed) = column(row, first + 3)? {
        for (column, hlc, ordinal) in unpack_cells(packed).reading("packed cells")? {
            state.cells.push(CellStamp { column, stamp: sites.stamp(hlc, ordinal)? });
        }
    }
    if life.alive && !table.later.is_empty() {
        let seq = DbVersion::new(row.get(first + 4)?);
        leave_out(&mut state, table.later.iter().filter(|(_, added)| seq < *added));
    }
    Ok(Some(state))
}

/// State of a row that was there before its table was tracked, and so before any column that came later.
pub(crate) fn baseline(table: &TrackedTable, own: SiteId) -> RowState {
    let mut state = RowState::baseline(Stamp { site: own, hlc: table.baseline_hlc });
    leave_out(&mut state, table.later.iter());
    state
}

/// Says that the base does not speak for columns.
fn leave_out<'c>(state: &mut RowState, columns: impl Iterator<Item = &'c (ColumnId, DbVersion)>) {
    for (column, _) in columns {
        if state.cell(*column).is_none() {
            state.set_cell(*column, Stamp::ZERO);
        }
    }
}

/// Reads the metadata of one row.
pub(crate) fn read(
    connection: &Connection,
    sites: &Sites,
    table: &TrackedTable,
    key: &[Value],
) -> Result<Option<RowState>> {
    let state = with_metadata(connection, table, key, |row| state(sites, table, row, 0))?;
    Ok(state.flatten())
}

/// Hands the metadata of one row to `look`; None when it has none.
fn with_metadata<T>(
    connection: &Connection,
    table: &TrackedTable,
    key: &[Value],
    look: impl FnOnce(&Row<'_>) -> Result<T>,
) -> Result<Option<T>> {
    let sql = format!("select {} from {} where {}", state_columns(""), table.metadata(), table.log_key_is(1));
    let mut statement = connection.prepare_cached(&sql).doing("read metadata")?;
    let mut rows = statement.query(rusqlite::params_from_iter(binds(key)))?;
    rows.next().doing("read metadata")?.map(look).transpose()
}

/// Takes the metadata of one row away.
pub(crate) fn forget(connection: &Connection, table: &TrackedTable, key: &[Value]) -> Result<()> {
    let sql = format!("delete from {} where {}", table.metadata(), table.log_key_is(1));
    let mut statement = connection.prepare_cached(&sql)?;
    statement.execute(rusqlite::params_from_iter(binds(key))).doing("forget metadata")?;
    Ok(())
}

/// Writes the metadata of one row; `seq` says when it last changed here.
pub(crate) fn write(
    connection: &Connection,
    sites: &mut Sites,
    table: &TrackedTable,
    key: &[Value],
    state: &RowState,
    seq: DbVersion,
) -> Result<()> {
    write_row(connection, sites, table, key, state, &Registers::new(), seq)
}

/// The same for a row that has registers.
pub(crate) fn write_row(
    connection: &Connection,
    sites: &mut Sites,
    table: &TrackedTable,
    key: &[Value],
    state: &RowState,
    registers: &Registers,
    seq: DbVersion,
) -> Result<()> {
    let stored = Stored::of(connection, sites, state, registers)?;
    let seq = seq.get();
    let key = binds(key);
    let mut parameters: Vec<&dyn ToSql> = key.iter().map(|bind: &Bind<'_>| bind as &dyn ToSql).collect();
    parameters.extend([&stored.alive as &dyn ToSql, &stored.hlc, &stored.site, &stored.cols, &seq]);
    let mut statement = connection.prepare_cached(&table.sql.metadata_write)?;
    let written = statement.execute(parameters.as_slice()).doing("write metadata")?;
    if written == 1 {
        return Ok(());
    }
    Err(Error::Stored { what: "metadata row", found: written.to_string(), wanted: "one row written" })
}

/// Reads the registers behind the state that begins at column `first`; none for a column that has no use for one.
pub(crate) fn registers(table: &TrackedTable, row: &Row<'_>, first: usize) -> Result<Registers> {
    if table.rules.are_plain() {
        return Ok(Registers::new());
    }
    let ValueRef::Blob(packed) = column(row, first + 3)? else { return Ok(Registers::new()) };
    let mut registers = Registers::new();
    for (id, bytes) in unpack_registers(packed).reading("packed registers")? {
        let rule = table.rules.of(id);
        if rule.is_register() {
            registers.insert(id, KeptRegister::decode(rule, bytes).reading("packed register")?);
        }
    }
    Ok(registers)
}

/// Reads the registers of one row.
pub(crate) fn registers_of(
    connection: &Connection,
    table: &TrackedTable,
    key: &[Value],
) -> Result<Registers> {
    if !table.rules.have_registers() {
        return Ok(Registers::new());
    }
    let found = with_metadata(connection, table, key, |row| registers(table, row, 0))?;
    Ok(found.unwrap_or_default())
}
