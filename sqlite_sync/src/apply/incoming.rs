//! Brings incoming rows into the form of this file: its tables, its columns, the values that it stores.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::rc::Rc;

use rusqlite::params;
use schema_mapping::to_sqlite;
use shared_format::payload::{Changes, Payload, Row, TableDefinition};
use shared_format::{ColumnId, FormatError, RowKind, SiteId, Stamp, Value};

use super::Source;
use crate::catalog::Replica;
use crate::error::{Doing, Reading, Result};
use crate::sql::wall_ms;
use crate::tracked_table::{Affinity, TrackedTable};

/// A change of one row in the form of this file.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) table: Rc<TrackedTable>,
    pub(super) kind: RowKind,
    pub(super) stamp: Stamp,
    pub(super) key: Vec<Value>,
    /// Place among the table's columns, stamp, value; by ascending place.
    pub(super) cells: Vec<(usize, Stamp, Value)>,
    /// Whether the key would come back as it is written.
    pub(super) key_survives: bool,
}

/// How one author's table maps to ours.
#[derive(Clone, Debug)]
struct Mapping {
    table: Rc<TrackedTable>,
    /// For each of our key columns, its place in the author's key.
    key: Vec<usize>,
    columns: HashMap<ColumnId, usize>,
}

/// All tables whose definitions were seen so far; None for those that this file does not have.
#[derive(Debug, Default)]
pub(super) struct Mappings(HashMap<(u32, u64, u32), Option<Mapping>>);

/// Rows of one batch, mapped.
pub(super) struct Batch<'a> {
    mapping: Mapping,
    columns: Vec<Option<usize>>,
    pub(super) changes: Changes<'a>,
}

impl Mappings {
    /// Takes in the definitions of a payload; records what this file does not have.
    pub(super) fn learn(&mut self, replica: &Replica<'_>, payload: &Payload<'_>) -> Result<()> {
        for definition in payload.definitions().reading("definition")? {
            let name = (definition.table, definition.incarnation, definition.version);
            if let Entry::Vacant(place) = self.0.entry(name) {
                place.insert(map(replica, &definition)?);
            }
        }
        Ok(())
    }

    /// Maps a batch; None when this file does not have its table.
    pub(super) fn batch<'a>(&self, changes: Changes<'a>) -> Result<Option<Batch<'a>>> {
        let name = (changes.table(), changes.incarnation(), changes.version());
        let unknown = FormatError::UnknownCode { what: "definition of table", code: changes.table().into() };
        let Some(mapping) = self.0.get(&name).ok_or(unknown).reading("payload")?.clone() else {
            return Ok(None);
        };
        let columns = changes.columns().iter().map(|id| mapping.columns.get(id).copied()).collect();
        Ok(Some(Batch { mapping, columns, changes }))
    }
}

fn map(replica: &Replica<'_>, definition: &TableDefinition) -> Result<Option<Mapping>> {
    let Some(table) = replica.table_named(&definition.name) else {
        skip(replica, &definition.name, "", "no such tracked table here")?;
        return Ok(None);
    };
    if !table.enabled {
        skip(replica, &definition.name, "", "disabled here")?;
        return Ok(None);
    }
    let place = |name: &str| definition.key.iter().position(|part| part.name.eq_ignore_ascii_case(name));
    let key: Option<Vec<usize>> = table.key.iter().map(|column| place(&column.name)).collect();
    let Some(key) = key.filter(|key| key.len() == definition.key.len()) else {
        skip(replica, &definition.name, "", "another primary key here")?;
        return Ok(None);
    };
    let mut columns = HashMap::new();
    for column in &definition.columns {
        let at = table.columns.iter().position(|ours| ours.name.eq_ignore_ascii_case(&column.name));
        match at {
            Some(at) => drop(columns.insert(column.id, at)),
            None => skip(replica, &definition.name, &column.name, "no such column here")?,
        }
    }
    Ok(Some(Mapping { table: Rc::clone(table), key, columns }))
}

/// Records what was skipped, so that a later change of this file's tables can fetch it.
fn skip(replica: &Replica<'_>, table: &str, column: &str, reason: &str) -> Result<()> {
    let sql = "insert into main.cloudsync_skipped (tbl, col, reason, at_ms) values (?1, ?2, ?3, ?4)
        on conflict (tbl, col) do nothing";
    let row = params![table, column, reason, wall_ms(replica.connection)?];
    replica.connection.prepare_cached(sql)?.execute(row).doing("record what is skipped")?;
    Ok(())
}

impl Batch<'_> {
    /// Brings one row into our form; None when it says nothing here.
    pub(super) fn change(&self, row: &Row<'_>, source: Source, own: SiteId) -> Option<Change> {
        let is_echo = source == Source::Log && row.stamp.site == own;
        let kind = match row.kind {
            RowKind::Deleted if is_echo => return None,
            RowKind::Created if is_echo => RowKind::Cells,
            kind => kind,
        };
        let drops_echo = source == Source::Log && kind == RowKind::Cells;
        let mut cells: Vec<(usize, Stamp, Value)> = row
            .cells
            .iter()
            .filter(|cell| !(drops_echo && cell.stamp.site == own))
            .filter_map(|cell| {
                let at = self.columns.get(cell.column).copied().flatten()?;
                Some((at, cell.stamp, to_sqlite(cell.value).to_value()))
            })
            .collect();
        if kind == RowKind::Cells && cells.is_empty() {
            return None;
        }
        cells.sort_by_key(|(at, _, _)| *at);
        let mut key = Vec::with_capacity(self.mapping.key.len());
        for at in &self.mapping.key {
            key.push(to_sqlite(*row.key.get(*at)?).to_value());
        }
        let table = Rc::clone(&self.mapping.table);
        let survives =
            |(column, part): (&crate::tracked_table::Column, &Value)| comes_back(column.affinity(), part);
        let key_survives = table.key.iter().zip(&key).all(survives);
        Some(Change { table, kind, stamp: row.stamp, key, cells, key_survives })
    }
}

/// Whether a column of this affinity stores a key part as it is written. Conservative: text that might be
/// read as a number does not come back from a numeric column.
fn comes_back(affinity: Affinity, part: &Value) -> bool {
    match (affinity, part) {
        (_, Value::Null) => false,
        (Affinity::Blob, _) | (_, Value::Blob(_)) | (Affinity::Text, Value::Text(_) | Value::RawText(_)) => {
            true
        }
        (Affinity::Text, _) => false,
        (Affinity::Integer | Affinity::Numeric, Value::Integer(_)) => true,
        (Affinity::Integer | Affinity::Numeric, Value::Real(real)) => real.fract() != 0.0,
        (Affinity::Real, Value::Real(_)) => true,
        (Affinity::Integer | Affinity::Numeric | Affinity::Real, Value::Text(text)) => {
            !text.trim().starts_with(|first: char| first.is_ascii_digit() || "+-.".contains(first))
        }
        (Affinity::Integer | Affinity::Numeric | Affinity::Real, _) => false,
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;
    use crate::sql::{Bind, column};

    #[test]
    fn a_key_that_sqlite_would_change_is_known_before_it_is_written() {
        let connection = Connection::open_in_memory().unwrap();
        let text = |text: &str| Value::Text(text.into());
        let parts = [
            text("a"),
            text("1"),
            text("01"),
            text(" 1"),
            text("-"),
            Value::Integer(1),
            Value::Real(1.5),
            Value::Real(2.0),
            Value::Blob(vec![49]),
        ];
        for affinity in [Affinity::Integer, Affinity::Text, Affinity::Blob, Affinity::Real, Affinity::Numeric]
        {
            for part in &parts {
                let sql = format!(
                    "create temp table t (k {}, primary key (k)) without rowid",
                    affinity.type_name()
                );
                connection.execute_batch(&sql).unwrap();
                connection.execute("insert into t values (?1)", [Bind(part.as_ref())]).unwrap();
                let came_back = connection
                    .query_row("select k from t", [], |row| Ok(column(row, 0).unwrap().to_owned_value()))
                    .unwrap();
                if comes_back(affinity, part) {
                    assert_eq!(&came_back, part, "{affinity:?}");
                }
                connection.execute_batch("drop table temp.t").unwrap();
            }
        }
    }
}
