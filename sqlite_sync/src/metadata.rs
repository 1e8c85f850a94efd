//! Row metadata as the file stores it: one row of `<table>_cloudsync` is one [`RowState`].

use rusqlite::types::ToSql;
use rusqlite::{Connection, Row};
use shared_format::{CellStamp, Hlc, Life, RowState, Stamp, Value, ValueRef, pack_cells, unpack_cells};

use crate::error::{Doing, Error, Reading, Result};
use crate::log::DbVersion;
use crate::settings::Sites;
use crate::sql::{Bind, binds, column};
use crate::tracked_table::TrackedTable;

/// Columns that [`state`] reads, each after `prefix`.
pub(crate) fn state_columns(prefix: &str) -> String {
    ["alive", "hlc", "site", "cols"].map(|name| format!("{prefix}{name}")).join(", ")
}

/// Reads the state that begins at column `first`; None when there is no metadata row.
///
/// A row that was never seen created, but has parked cells, is stored as dead at clock zero.
pub(crate) fn state(sites: &Sites, row: &Row<'_>, first: usize) -> Result<Option<RowState>> {
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
    Ok(Some(state))
}

/// Reads the metadata of one row.
pub(crate) fn read(
    connection: &Connection,
    sites: &Sites,
    table: &TrackedTable,
    key: &[Value],
) -> Result<Option<RowState>> {
    let mut statement = connection.prepare_cached(&table.sql.metadata_read)?;
    let mut rows = statement.query(rusqlite::params_from_iter(binds(key)))?;
    match rows.next().doing("read metadata")? {
        Some(row) => state(sites, row, 0),
        None => Ok(None),
    }
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
    let life = state.life.unwrap_or(Life { alive: false, stamp: Stamp::ZERO });
    let ordinal = sites.ordinal(connection, life.stamp.site)?;
    let mut cells = Vec::with_capacity(state.cells.len());
    for cell in &state.cells {
        cells.push((cell.column, cell.stamp.hlc, sites.ordinal(connection, cell.stamp.site)?));
    }
    let packed = (!cells.is_empty()).then(|| pack_cells(&cells));
    let hlc = life.stamp.hlc.to_sql();
    let seq = seq.get();
    let key = binds(key);
    let mut parameters: Vec<&dyn ToSql> = key.iter().map(|bind: &Bind<'_>| bind as &dyn ToSql).collect();
    parameters.extend([&life.alive as &dyn ToSql, &hlc, &ordinal, &packed, &seq]);
    let mut statement = connection.prepare_cached(&table.sql.metadata_write)?;
    let written = statement.execute(parameters.as_slice()).doing("write metadata")?;
    if written == 1 {
        return Ok(());
    }
    Err(Error::Stored { what: "metadata row", found: written.to_string(), wanted: "one row written" })
}
