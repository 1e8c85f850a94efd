//! Cells that are newer than the deletion of their row: kept in cloudsync.parked, one payload a row.

use std::collections::BTreeMap;

use shared_format::payload::{ChangesBuilder, Payload, PayloadBuilder};
use shared_format::{RowKind, RowState, Stamp, ValueRef};

use super::incoming::IncomingRow;
use crate::catalog::Tracked;
use crate::edge::codec;
use crate::edge::query::{self, Argument};
use crate::edge::session::as_owner;
use crate::error::SyncError;
use crate::stage::Expected;

/// Reads the parked values of a row that metadata says has some. Runs as the caller: a value goes through its
/// type's input function, which may run the checks of a user's domain.
pub(super) fn read(
    table: &Tracked,
    row: &IncomingRow,
    state: &RowState,
) -> Result<BTreeMap<usize, Expected>, SyncError> {
    let mut values = BTreeMap::new();
    if state.is_alive() || state.cells.is_empty() {
        return Ok(values);
    }
    let Some(bytes) = as_owner(|| stored(table, &row.row_key)) else { return Ok(values) };
    for (place, _stamp, value) in known_cells(table, state, &bytes)? {
        if let Some(column) = table.columns.get(place) {
            let value = match value {
                ValueRef::Blob(register) if table.ruled.is_register(column.column_id()) => {
                    Some(codec::bytea(register))
                }
                value => column.codec.datum(value),
            };
            values.insert(place, Expected { value, sent: None });
        }
    }
    Ok(values)
}

/// The cells in a stored payload that the state of their row still knows: place among the columns, stamp and
/// value, in the order of places. One that a local write has overtaken is left behind.
pub(crate) fn known_cells<'b>(
    table: &Tracked,
    state: &RowState,
    bytes: &'b [u8],
) -> Result<Vec<(usize, Stamp, ValueRef<'b>)>, SyncError> {
    let mut cells = Vec::new();
    for changes in Payload::parse(bytes)?.changes() {
        let ids = changes.columns();
        let mut rows = changes.rows();
        while let Some(row) = rows.next_row()? {
            cells.extend(row.cells.iter().filter_map(|cell| {
                let id = ids.get(cell.column)?;
                let place = table.columns.iter().position(|column| column.column_id() == *id)?;
                (state.cell(*id) == Some(cell.stamp)).then_some((place, cell.stamp, cell.value))
            }));
        }
    }
    cells.sort_by_key(|(place, _, _)| *place);
    Ok(cells)
}

/// The payload that holds the parked cells of a row. Runs as the owner.
pub(crate) fn stored(table: &Tracked, row_key: &[u8]) -> Option<Vec<u8>> {
    let sql = "select p.payload from cloudsync.parked as p \
               where p.table_id operator(pg_catalog.=) $1 and p.row_key operator(pg_catalog.=) $2";
    let place = [Argument::integer(table.table_id), Argument::bytea(row_key)];
    query::run(sql, &place).first().map(codec::to_bytes)
}

/// Stores the parked values of a row, or forgets them when there are none. Runs as the owner.
pub(super) fn write(
    table: &Tracked,
    row: &IncomingRow,
    state: &RowState,
    parked: &BTreeMap<usize, Expected>,
) {
    let place = [Argument::integer(table.table_id), Argument::bytea(&row.row_key)];
    if parked.is_empty() {
        forget(table, &row.row_key);
        return;
    }
    let places: Vec<usize> = parked.keys().copied().collect();
    let mut payload = PayloadBuilder::new();
    payload.push(cells(table, row, state, parked, &places));
    let [table_id, row_key] = place;
    query::run(
        include_str!("../../../sql/postgres/library/park.sql"),
        &[table_id, row_key, Argument::bytea(&payload.finish())],
    );
}

/// Forgets the parked values of a row. Runs as the owner.
pub(crate) fn forget(table: &Tracked, row_key: &[u8]) {
    let sql = "delete from cloudsync.parked as p \
               where p.table_id operator(pg_catalog.=) $1 and p.row_key operator(pg_catalog.=) $2";
    query::run(sql, &[Argument::integer(table.table_id), Argument::bytea(row_key)]);
}

/// Some parked cells of a row as a change.
pub(super) fn cells(
    table: &Tracked,
    row: &IncomingRow,
    state: &RowState,
    parked: &BTreeMap<usize, Expected>,
    places: &[usize],
) -> ChangesBuilder {
    let mut builder = start(table);
    add_cells(&mut builder, table, row, state, parked, places);
    builder
}

/// An empty change of a table.
pub(super) fn start(table: &Tracked) -> ChangesBuilder {
    ChangesBuilder::new(
        table.number(),
        table.incarnation,
        table.version,
        table.key.len(),
        &table.column_ids(),
    )
}

/// The key of a row as values.
pub(super) fn key<'a>(table: &'a Tracked, row: &IncomingRow) -> Vec<ValueRef<'a>> {
    table.key.iter().zip(&row.key).map(|(column, datum)| column.codec.value(*datum)).collect()
}

/// Adds some parked cells of a row to a change.
pub(super) fn add_cells(
    builder: &mut ChangesBuilder,
    table: &Tracked,
    row: &IncomingRow,
    state: &RowState,
    parked: &BTreeMap<usize, Expected>,
    places: &[usize],
) {
    let mut places = places.to_vec();
    places.sort_unstable();
    places.dedup();
    let registers: BTreeMap<usize, Vec<u8>> = places
        .iter()
        .filter_map(|place| {
            let is_register = table.ruled.is_register(table.columns.get(*place)?.column_id());
            Some((*place, codec::to_bytes(parked.get(place)?.value.filter(|_| is_register)?)))
        })
        .collect();
    let cells: Vec<(usize, Option<Stamp>, ValueRef<'_>)> = places
        .iter()
        .filter_map(|place| {
            let column = table.columns.get(*place)?;
            let stamp = state.cell(column.column_id())?;
            let value = match registers.get(place) {
                Some(register) => ValueRef::Blob(register),
                None => column.codec.value(parked.get(place)?.value),
            };
            Some((*place, Some(stamp), value))
        })
        .collect();
    let first = cells.iter().find_map(|(_, stamp, _)| *stamp).unwrap_or(Stamp::ZERO);
    builder.row(RowKind::Cells, first, &key(table, row), &cells);
}
