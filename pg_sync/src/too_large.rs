//! Values that are too large to travel: the write stands, the value is left out of what is sent, and that is told to
//! the writer and kept in `cloudsync.too_large`, until the value is smaller or gone. The rest of the row travels.

use std::collections::HashSet;

use pgrx::pg_sys::{self, Datum};
use pgrx::warning;
use shared_format::{ColumnId, RowKind, Stamp, ValueRef};

use crate::apply::key_json;
use crate::edge::codec::{self, Codec};
use crate::edge::query::{self, Argument};
use crate::edge::session::{self, as_owner};
use crate::edge::tuple;
use crate::plan;

/// Bytes of one cell: see DESIGN section 15.
const CELL_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Bytes of all cells of a row, which travels in one piece: see DESIGN section 15.
const ROW_BYTES_MAX: usize = 40 * 1024 * 1024;

/// A cell as payloads take it: its place, its own stamp, its value.
pub(crate) type Cell<'a> = (usize, Option<Stamp>, ValueRef<'a>);

/// A cell that does not travel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LeftOut {
    place: usize,
    bytes: usize,
}

/// Reads the cells of a row, and leaves out what is too large. A value that is beyond the limit as it is stored is not
/// even unpacked: its text form might be more than the server can hold.
pub(crate) fn read<'a>(
    stored: impl Iterator<Item = (usize, Option<Stamp>, &'a Codec, Option<Datum>)>,
) -> (Vec<Cell<'a>>, Vec<LeftOut>) {
    let mut cells = Vec::new();
    let mut left = Vec::new();
    let mut total = 0_usize;
    for (place, own, codec, datum) in stored {
        let unpacked = datum.map_or(0, |datum| codec.unpacked_bytes(datum));
        if unpacked > CELL_BYTES_MAX {
            left.push(LeftOut { place, bytes: unpacked });
            continue;
        }
        let value = codec.value(datum);
        if let Some(one) = left_out(place, value) {
            left.push(one);
            continue;
        }
        total = total.saturating_add(byte_len(value));
        cells.push((place, own, value));
    }
    while total > ROW_BYTES_MAX {
        let Some(at) = (0..cells.len()).max_by_key(|at| cells.get(*at).map(|cell| byte_len(cell.2))) else {
            break;
        };
        let (place, _, value) = cells.remove(at);
        let bytes = byte_len(value);
        total = total.saturating_sub(bytes);
        left.push(LeftOut { place, bytes });
    }
    (cells, left)
}

/// Puts what travels of registers in place of the values of their columns, and leaves out what is too large then.
pub(crate) fn put_registers<'a>(
    (cells, left): &mut (Vec<Cell<'a>>, Vec<LeftOut>),
    register: impl Fn(usize) -> Option<ValueRef<'a>>,
) {
    cells.retain_mut(|(place, _, value)| {
        let Some(whole) = register(*place) else { return true };
        *value = whole;
        let found = left_out(*place, whole);
        left.extend(found);
        found.is_none()
    });
}

/// What is left out of a row when a value is too large for any.
pub(crate) fn left_out(place: usize, value: ValueRef<'_>) -> Option<LeftOut> {
    let bytes = byte_len(value);
    (bytes > CELL_BYTES_MAX).then_some(LeftOut { place, bytes })
}

fn byte_len(value: ValueRef<'_>) -> usize {
    match value {
        ValueRef::Text(text) | ValueRef::Numeric(text) | ValueRef::Json(text) | ValueRef::Jsonb(text) => {
            text.len()
        }
        ValueRef::Other { type_name, text } => type_name.len().saturating_add(text.len()),
        ValueRef::Blob(bytes) | ValueRef::RawText(bytes) => bytes.len(),
        ValueRef::Null
        | ValueRef::Integer(_)
        | ValueRef::Real(_)
        | ValueRef::Boolean(_)
        | ValueRef::TimestampTz(_)
        | ValueRef::Timestamp(_)
        | ValueRef::Date(_)
        | ValueRef::Time(_)
        | ValueRef::Uuid(_) => 0,
    }
}

/// Rows of a table with cells that were too large, as they are known when a statement begins.
#[derive(Debug, Default)]
pub(crate) struct Reported {
    keys: HashSet<String>,
}

impl Reported {
    /// Looks them up, if the table has any.
    pub(crate) fn of(table: u32) -> Self {
        let table = table.cast_signed();
        if !plan::has_too_large(table) {
            return Self::default();
        }
        let sql = "select distinct l.row_key::pg_catalog.text from cloudsync.too_large as l
            where l.table_id operator(pg_catalog.=) $1";
        let found = as_owner(|| query::look(sql, &[Argument::integer(table)]));
        let spelled = |text: String| Some(serde_json::from_str::<serde_json::Value>(&text).ok()?.to_string());
        let keys = found.rows.iter().filter_map(|row| row.attribute(1)).map(codec::to_text);
        Self { keys: keys.filter_map(spelled).collect() }
    }

    /// Takes back what is not true any more of a row that was written: cells that travel now, or all of it.
    pub(crate) fn clear(
        &self,
        (table, columns): (u32, &[ColumnId]),
        kind: RowKind,
        key: &[ValueRef<'_>],
        cells: &[Cell<'_>],
    ) {
        if self.keys.is_empty() {
            return;
        }
        let key = key_json(key).to_string();
        if !self.keys.contains(&key) {
            return;
        }
        let ids: Vec<i16> =
            cells.iter().filter_map(|cell| columns.get(cell.0)).map(|id| id.get().cast_signed()).collect();
        let ids = (kind != RowKind::Deleted).then(|| tuple::smallints(&ids));
        let arguments = [
            Argument::integer(table.cast_signed()),
            Argument::text(&key),
            Argument::of(pg_sys::INT2ARRAYOID, ids),
        ];
        let sql = include_str!("../../sql/postgres/library/clear_too_large.sql");
        if as_owner(|| query::run(sql, &arguments)).count > 0 {
            session::announce_registry();
        }
    }
}

/// Tells the writer of what was left out of a row, if anything was, and keeps it.
pub(crate) fn report(table: u32, columns: &[ColumnId], key: &[ValueRef<'_>], left: &[LeftOut]) {
    if left.is_empty() {
        return;
    }
    if !plan::has_too_large(table.cast_signed()) {
        // Sessions look for what they may take back from now on.
        session::announce_registry();
    }
    let key = key_json(key).to_string();
    for LeftOut { place, bytes } in left {
        let column = columns.get(*place).map_or(0, |column| i32::from(column.get()));
        let arguments = [
            Argument::integer(table.cast_signed()),
            Argument::text(&key),
            Argument::integer(column),
            Argument::bigint(i64::try_from(*bytes).unwrap_or(i64::MAX)),
        ];
        let sql = include_str!("../../sql/postgres/library/keep_too_large.sql");
        let names = as_owner(|| query::run(sql, &arguments));
        let name = |number| {
            let row = names.rows.first();
            row.and_then(|row| row.attribute(number)).map(codec::to_text).unwrap_or_default()
        };
        warning!(
            "a value of column {} of table {} is too large to be synced: {bytes} bytes, limits are {CELL_BYTES_MAX} and \
             {ROW_BYTES_MAX} for all of a row",
            name(1),
            name(2)
        );
    }
}
