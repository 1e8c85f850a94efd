//! Changes that are kept beside the user's tables: cells of rows that are not alive, and rows that this
//! file's own constraints refused. Each is stored as a small payload.

use rusqlite::{Connection, OptionalExtension, params};
use shared_format::payload::Payload;
use shared_format::{ColumnId, RowState, Value, ValueRef, encode_key};

use crate::emit::TableRows;
use crate::error::{Doing, Reading, Result};
use crate::sql::{refs, wall_ms};
use crate::tracked_table::TrackedTable;

/// Forgets the parked cells of a row.
pub(crate) fn forget_cells(connection: &Connection, table: &TrackedTable, pk: &[u8]) -> Result<()> {
    let sql = "delete from main.cloudsync_parked where tbl = ?1 and pk = ?2 and kind = 'cells'";
    connection.prepare_cached(sql)?.execute(params![table.id, pk]).doing("forget parked cells")?;
    Ok(())
}

/// Reads the parked cells of a row.
pub(crate) fn cells(
    connection: &Connection,
    table: &TrackedTable,
    pk: &[u8],
) -> Result<Vec<(ColumnId, Value)>> {
    let sql = "select change from main.cloudsync_parked where tbl = ?1 and pk = ?2 and kind = 'cells'";
    let found: Option<Vec<u8>> = connection
        .prepare_cached(sql)?
        .query_row(params![table.id, pk], |row| row.get(0))
        .optional()
        .doing("read parked cells")?;
    let Some(change) = found else { return Ok(Vec::new()) };
    let payload = Payload::parse(&change).reading("parked cells")?;
    let mut cells = Vec::new();
    for changes in payload.changes() {
        let columns = changes.columns();
        let mut rows = changes.rows();
        while let Some(row) = rows.next_row().reading("parked cells")? {
            for cell in &row.cells {
                cells.extend(columns.get(cell.column).map(|id| (*id, cell.value.to_owned_value())));
            }
        }
    }
    Ok(cells)
}

/// Stores the parked cells of a row in place of those it has.
pub(crate) fn store_cells(
    connection: &Connection,
    table: &TrackedTable,
    key: &[Value],
    state: &RowState,
    values: &[(ColumnId, Value)],
) -> Result<()> {
    let pk = encode_key(refs(key));
    forget_cells(connection, table, &pk)?;
    let mut cells: Vec<_> = values
        .iter()
        .filter_map(|(id, value)| Some((table.position(*id)?, state.cell(*id)?, value.as_ref())))
        .collect();
    cells.sort_by_key(|(at, _, _)| *at);
    let mut rows = TableRows::new(table);
    if rows.push_cells(key, &cells) {
        insert(connection, table, &pk, "cells", &rows.into_payload(), None)?;
    }
    Ok(())
}

/// Keeps a change that this file's constraints refused, once.
pub(crate) fn refuse(
    connection: &Connection,
    table: &TrackedTable,
    key: &[ValueRef<'_>],
    change: &[u8],
    reason: &str,
) -> Result<()> {
    let pk = encode_key(key.iter().copied());
    let sql = "select 1 from main.cloudsync_parked
        where tbl = ?1 and pk = ?2 and kind = 'refused' and change = ?3";
    let known =
        connection.prepare_cached(sql)?.query_row(params![table.id, pk, change], |_row| Ok(())).optional()?;
    if known.is_some() {
        return Ok(());
    }
    insert(connection, table, &pk, "refused", change, Some(reason))
}

fn insert(
    connection: &Connection,
    table: &TrackedTable,
    pk: &[u8],
    kind: &str,
    change: &[u8],
    reason: Option<&str>,
) -> Result<()> {
    let sql = "insert into main.cloudsync_parked (tbl, pk, kind, change, reason, at_ms)
        values (?1, ?2, ?3, ?4, ?5, ?6)";
    let row = params![table.id, pk, kind, change, reason, wall_ms(connection)?];
    connection.prepare_cached(sql)?.execute(row).doing("park a change")?;
    Ok(())
}

/// Numbers of all refused changes, oldest first.
pub(crate) fn refused(connection: &Connection) -> Result<Vec<i64>> {
    let sql = "select id from main.cloudsync_parked where kind = 'refused' order by id";
    connection
        .prepare_cached(sql)?
        .query_map([], |row| row.get(0))
        .and_then(Iterator::collect)
        .doing("read refused changes")
}

/// Numbers of the refused changes of one row.
pub(crate) fn refused_of_row(connection: &Connection, table: &TrackedTable, pk: &[u8]) -> Result<Vec<i64>> {
    let sql = "select id from main.cloudsync_parked where tbl = ?1 and pk = ?2 and kind = 'refused'";
    connection
        .prepare_cached(sql)?
        .query_map(params![table.id, pk], |row| row.get(0))
        .and_then(Iterator::collect)
        .doing("read refused changes")
}

/// A refused change as payload bytes; None when it was forgotten.
pub(crate) fn refused_change(connection: &Connection, id: i64) -> Result<Option<Vec<u8>>> {
    let sql = "select change from main.cloudsync_parked where id = ?1";
    connection
        .prepare_cached(sql)?
        .query_row([id], |row| row.get(0))
        .optional()
        .doing("read a refused change")
}

/// Says anew why a change is kept.
pub(crate) fn explain(connection: &Connection, id: i64, reason: &str) -> Result<()> {
    let sql = "update main.cloudsync_parked set reason = ?2 where id = ?1 and reason is not ?2";
    connection.prepare_cached(sql)?.execute(params![id, reason]).doing("park a change")?;
    Ok(())
}

/// Forgets one refused change.
pub(crate) fn forget(connection: &Connection, id: i64) -> Result<()> {
    connection.prepare_cached("delete from main.cloudsync_parked where id = ?1")?.execute([id])?;
    Ok(())
}
