//! Brings incoming rows into the form of this file: its tables, its columns, the values that it stores.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::rc::Rc;

use rusqlite::params;
use schema_mapping::{SqliteValue, to_sqlite};
use shared_format::payload::{Changes, ColumnDefinition, Eviction, Payload, Row, RowCursor, TableDefinition};
use shared_format::{CellStamp, ColumnId, FormatError, Hlc, RowKind, Stamp, Value, ValueRef, encode_key};

use super::Source;
use crate::algorithms;
use crate::catalog::Replica;
use crate::changes::CELL_BYTES_MAX;
use crate::error::{Doing, Reading, Result};
use crate::schema;
use crate::sql::wall_ms;
use crate::tracked_table::{Affinity, Column, TrackedTable};

/// A change of one row in the form of this file.
#[derive(Clone, Debug)]
pub(super) struct Change<'a> {
    pub(super) table: Rc<TrackedTable>,
    /// Place of the table among those of the replica.
    pub(super) table_at: usize,
    pub(super) kind: RowKind,
    pub(super) stamp: Stamp,
    pub(super) key: Vec<SqliteValue<'a>>,
    /// Places of the cells among the table's columns, ascending.
    pub(super) places: Vec<usize>,
    /// Columns and stamps of the cells.
    pub(super) stamps: Vec<CellStamp>,
    /// Values of the cells.
    pub(super) values: Vec<SqliteValue<'a>>,
    /// Whether the key would come back as it is written.
    pub(super) key_survives: bool,
    /// Up to where its author had dropped tombstones; the server's changes have seen every deletion.
    pub(super) author_horizon: Hlc,
}

impl Change<'_> {
    /// The row key as bytes.
    pub(super) fn pk(&self) -> Vec<u8> {
        encode_key(self.key.iter().map(SqliteValue::as_value))
    }

    /// The parts of the row key.
    pub(super) fn key_values(&self) -> Vec<Value> {
        self.key.iter().map(SqliteValue::to_value).collect()
    }

    /// The cells: place, column and stamp, value.
    pub(super) fn cells(&self) -> impl Iterator<Item = (usize, CellStamp, ValueRef<'_>)> {
        let cells = self.places.iter().zip(&self.stamps).zip(&self.values);
        cells.map(|((at, cell), value)| (*at, *cell, value.as_value()))
    }

    /// Columns of ours that a creation's author does not know.
    pub(super) fn uncarried(&self) -> Vec<ColumnId> {
        let columns = &self.table.columns;
        if self.kind != RowKind::Created || self.places.len() == columns.len() {
            return Vec::new();
        }
        let carried = |at: usize| self.places.binary_search(&at).is_ok();
        columns.iter().enumerate().filter(|(at, _)| !carried(*at)).map(|(_, column)| column.id).collect()
    }

    /// The same change with bytes of its own.
    pub(super) fn into_owned(self) -> Change<'static> {
        let owned = |values: Vec<SqliteValue<'_>>| values.into_iter().map(SqliteValue::into_owned).collect();
        Change {
            table: self.table,
            table_at: self.table_at,
            kind: self.kind,
            stamp: self.stamp,
            key: owned(self.key),
            places: self.places,
            stamps: self.stamps,
            values: owned(self.values),
            key_survives: self.key_survives,
            author_horizon: self.author_horizon,
        }
    }
}

/// How one author's table maps to ours.
#[derive(Debug)]
struct Mapping {
    table: Rc<TrackedTable>,
    table_at: usize,
    /// For each of our key columns, its place in the author's key.
    key: Vec<usize>,
    affinities: Vec<Affinity>,
    columns: HashMap<ColumnId, usize>,
}

/// All tables whose definitions were seen so far; None for those that this file does not have.
#[derive(Debug, Default)]
pub(super) struct Mappings {
    known: HashMap<DefinitionName, Option<Rc<Mapping>>>,
    unmapped: HashMap<DefinitionName, Unmapped>,
}

/// How a batch names its definition: the author's table, its incarnation, the version.
type DefinitionName = (u32, u64, u32);

/// A table whose rows this file does not take.
#[derive(Debug)]
pub(super) struct Unmapped {
    pub(super) table: String,
    pub(super) reason: String,
}

const NO_TABLE: &str = "no such tracked table here";
const DISABLED: &str = "disabled here";

impl Unmapped {
    /// The SQLSTATE under which a site is told so.
    pub(super) fn sqlstate(&self) -> &'static str {
        if self.reason == DISABLED { "55000" } else { "42P01" }
    }
}

/// Rows of one table to forget, by their keys.
pub(super) struct Evicted {
    pub(super) table: Rc<TrackedTable>,
    pub(super) keys: Vec<Vec<Value>>,
}

/// Rows of one batch, mapped.
pub(super) struct Batch<'a> {
    mapping: Rc<Mapping>,
    /// For each column of the batch, its place and number here.
    columns: Vec<Option<(usize, ColumnId)>>,
    /// Whether the columns of the batch stand in the order of ours.
    is_ordered: bool,
    pub(super) author_horizon: Hlc,
    pub(super) changes: Changes<'a>,
}

impl Mappings {
    /// Takes in the definitions of a payload; records what this file does not have.
    pub(super) fn learn(
        &mut self,
        replica: &Replica<'_>,
        payload: &Payload<'_>,
        source: Source,
    ) -> Result<()> {
        for definition in payload.definitions().reading("definition")? {
            let name = (definition.table, definition.incarnation, definition.version);
            if let Entry::Vacant(place) = self.known.entry(name) {
                let mapping = match map(replica, &definition)? {
                    Ok(mapping) => Some(mapping),
                    Err(reason) => {
                        let table = definition.name.clone();
                        self.unmapped.insert(name, Unmapped { table, reason });
                        None
                    }
                };
                if let Some(mapping) = mapping.as_ref().filter(|_| source == Source::Log) {
                    fetch_what_fits_now(replica, &definition, mapping)?;
                }
                place.insert(mapping.map(Rc::new));
            }
        }
        Ok(())
    }

    /// Tables of this file that were named, as far as the author's are wanted.
    pub(super) fn tables(&self, is_wanted: impl Fn(u32) -> bool) -> impl Iterator<Item = u32> {
        let wanted = self.known.iter().filter(move |((table, _, _), _)| is_wanted(*table));
        wanted.filter_map(|(_, mapping)| mapping.as_ref()).map(|mapping| mapping.table.id)
    }

    /// Maps a batch; None when this file does not have its table.
    pub(super) fn batch<'a>(&self, changes: Changes<'a>) -> Result<Option<Batch<'a>>> {
        let name = (changes.table(), changes.incarnation(), changes.version());
        let unknown = FormatError::UnknownCode { what: "definition of table", code: changes.table().into() };
        let Some(mapping) = self.known.get(&name).ok_or(unknown).reading("payload")?.clone() else {
            return Ok(None);
        };
        let place = |id: &ColumnId| mapping.columns.get(id).map(|at| (*at, mapping.table.columns[*at].id));
        let columns: Vec<_> = changes.columns().iter().map(place).collect();
        let is_ordered = columns.iter().flatten().is_sorted_by(|a, b| a.0 < b.0);
        let author_horizon = Hlc::from_raw(u64::MAX);
        Ok(Some(Batch { mapping, columns, is_ordered, author_horizon, changes }))
    }

    /// Why this file does not take the rows of a batch.
    pub(super) fn unmapped(&self, changes: &Changes<'_>) -> Option<&Unmapped> {
        self.unmapped.get(&(changes.table(), changes.incarnation(), changes.version()))
    }

    /// Brings the keys of rows to forget into our form; None when this file does not have their table.
    pub(super) fn evicted(&self, eviction: &Eviction<'_>) -> Result<Option<Evicted>> {
        let name = (eviction.table(), eviction.incarnation(), eviction.version());
        let code = u64::from(eviction.table());
        let unknown = FormatError::UnknownCode { what: "definition of table", code };
        let Some(mapping) = self.known.get(&name).ok_or(unknown).reading("payload")? else { return Ok(None) };
        let mut keys = Vec::new();
        let mut cursor = eviction.keys();
        while let Some(key) = cursor.next_key().reading("eviction")? {
            let part = |at: &usize| key.get(*at).map(|part| to_sqlite(*part).to_value());
            keys.extend(mapping.key.iter().map(part).collect::<Option<Vec<Value>>>());
        }
        Ok(Some(Evicted { table: Rc::clone(&mapping.table), keys }))
    }

    /// Finds a table by the author's number; None when this file does not have it.
    pub(super) fn table(&self, table: u32, incarnation: u64) -> Result<Option<Rc<TrackedTable>>> {
        let mut known = self.known.iter().filter(|((id, life, _), _)| (*id, *life) == (table, incarnation));
        let unknown = FormatError::UnknownCode { what: "definition of table", code: table.into() };
        let (_, mapping) = known.next().ok_or(unknown).reading("payload")?;
        Ok(mapping.as_ref().map(|mapping| Rc::clone(&mapping.table)))
    }
}

/// Brings a definition together with a table of this file; says why there is none that takes its rows.
fn map(replica: &Replica<'_>, definition: &TableDefinition) -> Result<std::result::Result<Mapping, String>> {
    let is_it = |table: &Rc<TrackedTable>| table.name.eq_ignore_ascii_case(&definition.name);
    let Some(table_at) = replica.tables.iter().position(is_it) else {
        return unmapped(replica, definition, NO_TABLE);
    };
    let table = &replica.tables[table_at];
    if !table.enabled {
        return unmapped(replica, definition, DISABLED);
    }
    let place = |name: &str| definition.key.iter().position(|part| part.name.eq_ignore_ascii_case(name));
    let key: Option<Vec<usize>> = table.key.iter().map(|column| place(&column.name)).collect();
    let Some(key) = key.filter(|key| key.len() == definition.key.len()) else {
        return unmapped(replica, definition, "another primary key here");
    };
    let mut columns = HashMap::new();
    for column in &definition.columns {
        let at = table.column_named(&column.name);
        match at {
            Some(at) => drop(columns.insert(column.id, at)),
            None => skip(replica, &definition.name, &column.name, "no such column here")?,
        }
    }
    if let Some(reason) = algorithms::mismatch(table, definition) {
        return unmapped(replica, definition, &reason);
    }
    let affinities = table.key.iter().map(Column::affinity).collect();
    Ok(Ok(Mapping { table: Rc::clone(table), table_at, key, affinities, columns }))
}

fn unmapped(
    replica: &Replica<'_>,
    definition: &TableDefinition,
    reason: &str,
) -> Result<std::result::Result<Mapping, String>> {
    skip(replica, &definition.name, "", reason)?;
    Ok(Err(reason.to_owned()))
}

/// Asks for the server's rows when a table fits now, or fits better, because it changed at the server.
fn fetch_what_fits_now(replica: &Replica<'_>, definition: &TableDefinition, mapping: &Mapping) -> Result<()> {
    let sql = "select col from main.cloudsync_skipped where tbl = ?1";
    let skipped = replica
        .connection
        .prepare_cached(sql)?
        .query_map([&definition.name], |row| row.get(0))
        .and_then(Iterator::collect::<rusqlite::Result<Vec<String>>>)
        .doing("read what was skipped")?;
    let stays = |skipped: &str| {
        let is_it = |column: &&ColumnDefinition| column.name.eq_ignore_ascii_case(skipped);
        let column = definition.columns.iter().find(is_it);
        column.is_some_and(|column| !mapping.columns.contains_key(&column.id))
    };
    if skipped.iter().any(|skipped| !stays(skipped)) {
        schema::fetch(replica.connection)?;
    }
    Ok(())
}

/// Records what was skipped, so that a later change of this file's tables can fetch it.
fn skip(replica: &Replica<'_>, table: &str, column: &str, reason: &str) -> Result<()> {
    let sql = "insert into main.cloudsync_skipped (tbl, col, reason, at_ms) values (?1, ?2, ?3, ?4)
        on conflict (tbl, col) do nothing";
    let row = params![table, column, reason, wall_ms(replica.connection)?];
    replica.connection.prepare_cached(sql)?.execute(row).doing("record what is skipped")?;
    Ok(())
}

impl<'a> Batch<'a> {
    /// An empty change of this batch's table, to be filled row by row.
    pub(super) fn blank(&self) -> Change<'a> {
        Change {
            table: Rc::clone(&self.mapping.table),
            table_at: self.mapping.table_at,
            kind: RowKind::Cells,
            stamp: Stamp::ZERO,
            key: Vec::new(),
            places: Vec::new(),
            stamps: Vec::new(),
            values: Vec::new(),
            key_survives: true,
            author_horizon: self.author_horizon,
        }
    }

    /// Brings one row into our form; false when it says nothing here.
    ///
    /// What this site wrote itself comes back too, and merge finds it known already. It is not dropped unseen:
    /// in a copy of a file, and in a file that was restored from a backup, it may be new.
    ///
    /// # Errors
    /// A value above the limit of a cell.
    pub(super) fn fill(&self, change: &mut Change<'a>, row: &Row<'a>) -> Result<bool> {
        change.kind = row.kind;
        change.stamp = row.stamp;
        change.places.clear();
        change.stamps.clear();
        change.values.clear();
        for cell in &row.cells {
            let Some(Some((at, column))) = self.columns.get(cell.column).copied() else { continue };
            let value = to_sqlite(cell.value);
            check_size(value.as_value())?;
            change.places.push(at);
            change.stamps.push(CellStamp { column, stamp: cell.stamp });
            change.values.push(value);
        }
        if change.kind == RowKind::Cells && change.places.is_empty() {
            return Ok(false);
        }
        if !self.is_ordered {
            change.order();
        }
        change.key.clear();
        change.key_survives = true;
        for (at, affinity) in self.mapping.key.iter().zip(&self.mapping.affinities) {
            let Some(part) = row.key.get(*at) else { return Ok(false) };
            let part = to_sqlite(*part);
            check_size(part.as_value())?;
            change.key_survives &= comes_back(*affinity, part.as_value());
            change.key.push(part);
        }
        Ok(true)
    }
}

/// The rows of one batch whose kind is wanted.
pub(super) struct BatchRows<'b, 'a> {
    batch: &'b Batch<'a>,
    rows: RowCursor<'a>,
    wants: &'b dyn Fn(RowKind) -> bool,
    /// Whether there were rows of other kinds.
    pub(super) has_others: bool,
}

impl<'b, 'a> BatchRows<'b, 'a> {
    pub(super) fn new(batch: &'b Batch<'a>, wants: &'b dyn Fn(RowKind) -> bool) -> Self {
        Self { batch, rows: batch.changes.rows(), wants, has_others: false }
    }

    /// Brings the next row into our form; false behind the last one.
    pub(super) fn next_into(&mut self, change: &mut Change<'a>) -> Result<bool> {
        while let Some(row) = self.rows.next_row().reading("row")? {
            if !(self.wants)(row.kind) {
                self.has_others = true;
            } else if self.batch.fill(change, row)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Refuses a value above the limit of DESIGN section 15.
fn check_size(value: ValueRef<'_>) -> Result<()> {
    let size = match value {
        ValueRef::Text(text) => text.len(),
        ValueRef::Blob(bytes) | ValueRef::RawText(bytes) => bytes.len(),
        _number => 0,
    };
    if size <= CELL_BYTES_MAX {
        return Ok(());
    }
    let number = |size: usize| u64::try_from(size).unwrap_or(u64::MAX);
    let (size, size_max) = (number(size), number(CELL_BYTES_MAX));
    Err(FormatError::TooLarge { part: "cell", size, size_max }).reading("row")
}

impl Change<'_> {
    /// Brings the cells into the order of our columns.
    fn order(&mut self) {
        let stamps = self.stamps.drain(..).zip(self.values.drain(..));
        let mut cells: Vec<_> = self.places.drain(..).zip(stamps).collect();
        cells.sort_by_key(|(at, _)| *at);
        // No author of ours says a column twice.
        cells.dedup_by_key(|(at, _)| *at);
        for (at, (stamp, value)) in cells {
            self.places.push(at);
            self.stamps.push(stamp);
            self.values.push(value);
        }
    }
}

/// Whether a column of this affinity stores a key part as it is written. Conservative: text that might be
/// read as a number does not come back from a numeric column.
fn comes_back(affinity: Affinity, part: ValueRef<'_>) -> bool {
    match (affinity, part) {
        (_, ValueRef::Null) => false,
        (Affinity::Blob, _)
        | (_, ValueRef::Blob(_))
        | (Affinity::Text, ValueRef::Text(_) | ValueRef::RawText(_)) => true,
        (Affinity::Text, _) => false,
        (Affinity::Integer | Affinity::Numeric, ValueRef::Integer(_)) => true,
        (Affinity::Integer | Affinity::Numeric, ValueRef::Real(real)) => real.fract() != 0.0,
        (Affinity::Real, ValueRef::Real(_)) => true,
        (Affinity::Integer | Affinity::Numeric | Affinity::Real, ValueRef::Text(text)) => {
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
                if comes_back(affinity, part.as_ref()) {
                    assert_eq!(&came_back, part, "{affinity:?}");
                }
                connection.execute_batch("drop table temp.t").unwrap();
            }
        }
    }
}
