//! The registry as the library reads it: tracked tables, their columns and how values of each travel.

use std::collections::BTreeMap;

use pgrx::pg_sys;
use shared_format::payload::{ColumnAlgorithm, ColumnDefinition, TableAlgorithm, TableDefinition};
use shared_format::{ColumnId, Rules};

use crate::edge::codec::{self, Codec};
use crate::edge::query::{self, Argument};
use crate::edge::session;
use crate::edge::tuple::Tuple;
use crate::error::SyncError;
use crate::ruled::{self, TableRules};

/// A column of a tracked table.
#[derive(Clone, Debug)]
pub(crate) struct Column {
    /// Its attribute number, which is its id.
    pub(crate) id: i16,
    pub(crate) name: String,
    pub(crate) codec: Codec,
    pub(crate) collation: pg_sys::Oid,
    /// Of a key column: the operator that compares it, qualified.
    pub(crate) equality: String,
    pub(crate) definition: ColumnDefinition,
    /// What the column holds where nobody says, if that is a literal.
    default: Option<String>,
}

impl Column {
    /// The id as payloads have it.
    pub(crate) fn column_id(&self) -> ColumnId {
        self.definition.id
    }

    /// The name, quoted for a statement.
    pub(crate) fn quoted(&self) -> String {
        quote(&self.name)
    }
}

/// A tracked table.
#[derive(Clone, Debug)]
pub(crate) struct Tracked {
    pub(crate) table_id: i32,
    pub(crate) relation: pg_sys::Oid,
    pub(crate) schema: String,
    pub(crate) name: String,
    /// What clients call it.
    pub(crate) client_name: String,
    pub(crate) incarnation: u64,
    pub(crate) version: u32,
    is_partitioned: bool,
    pub(crate) algorithm: TableAlgorithm,
    /// Whether it is sent and received.
    pub(crate) enabled: bool,
    /// Who reads a row: an expression over its columns; None for everybody.
    pub(crate) scope: Option<String>,
    /// Which rows take part: an expression over their columns; None for all.
    pub(crate) filter: Option<String>,
    /// Whether policies hold for it.
    pub(crate) row_security: bool,
    /// How rows and columns merge.
    pub(crate) ruled: TableRules,
    pub(crate) key: Vec<Column>,
    pub(crate) columns: Vec<Column>,
}

impl Tracked {
    /// The table's number as payloads have it.
    pub(crate) fn number(&self) -> u32 {
        self.table_id.cast_unsigned()
    }

    /// Whether rows of it merge by `cls`, and all columns by `lww`.
    pub(crate) fn is_plain(&self) -> bool {
        let plain = |column: &Column| {
            column.definition.algorithm == ColumnAlgorithm::Lww && column.definition.group.is_none()
        };
        self.algorithm == TableAlgorithm::Cls && self.columns.iter().all(plain)
    }

    /// Whether anything but the table itself says who reads its rows.
    pub(crate) fn has_audience(&self) -> bool {
        self.scope.is_some() || self.filter.is_some()
    }

    /// The table's name, quoted and qualified.
    pub(crate) fn quoted(&self) -> String {
        format!("{}.{}", quote(&self.schema), quote(&self.name))
    }

    /// What its rows are read and written in: ONLY keeps out children that inherit from it; the rows of a
    /// partitioned table are in its partitions.
    pub(crate) fn scan(&self) -> String {
        if self.is_partitioned { self.quoted() } else { format!("only {}", self.quoted()) }
    }

    /// Locks the table against changes, and makes sure that the name is still its own: whoever renames it could
    /// else give its name to a view whose functions we would run as the owner.
    pub(crate) fn hold(&self) -> Result<(), SyncError> {
        if session::hold(self.relation, &self.schema, &self.name) {
            return Ok(());
        }
        Err(SyncError::Moved(self.name.clone()))
    }

    /// The role that owns the table.
    pub(crate) fn owner(&self) -> pg_sys::Oid {
        let sql = "select c.relowner::pg_catalog.int8 from pg_catalog.pg_class as c
            where c.oid operator(pg_catalog.=) $1";
        let found = query::run(sql, &[Argument::oid(self.relation)]);
        let number = found.first().map(codec::to_i64).and_then(|number| u32::try_from(number).ok());
        number.map_or(pg_sys::InvalidOid, pg_sys::Oid::from)
    }

    /// The name of its metadata table.
    pub(crate) fn metadata(&self) -> String {
        format!("cloudsync.meta_{}", self.table_id)
    }

    /// Ids of the columns beside the key.
    pub(crate) fn column_ids(&self) -> Vec<ColumnId> {
        self.columns.iter().map(Column::column_id).collect()
    }

    /// Why changes under a definition cannot be merged here: their author merges by other rules, so what it sends
    /// means something else.
    pub(crate) fn unmergeable(&self, definition: &TableDefinition) -> Option<String> {
        let name = &self.name;
        if definition.algorithm != self.algorithm {
            let (found, here) = (definition.algorithm.name(), self.algorithm.name());
            return Some(format!("table {name} merges by {found}, by {here} at the server"));
        }
        definition.columns.iter().find_map(|found| {
            let ours = &self.columns.iter().find(|column| column.name == found.name)?.definition;
            if (ours.algorithm, &ours.group) == (found.algorithm, &found.group) {
                return None;
            }
            let (there, here) = (named(found), named(ours));
            Some(format!("column {} of table {name} merges by {there}, by {here} at the server", found.name))
        })
    }

    /// The definition as it travels.
    pub(crate) fn definition(&self) -> TableDefinition {
        TableDefinition {
            table: self.number(),
            incarnation: self.incarnation,
            version: self.version,
            name: self.client_name.clone(),
            schema: Some(self.schema.clone()),
            algorithm: self.algorithm,
            key: self.key.iter().map(|column| column.definition.clone()).collect(),
            columns: self.columns.iter().map(|column| column.definition.clone()).collect(),
            scoped: self.scope.is_some(),
            row_security: self.row_security,
        }
    }
}

/// The rule of a column as users write it.
fn named(column: &ColumnDefinition) -> String {
    match (column.algorithm, &column.group) {
        (ColumnAlgorithm::Group, Some(name)) => format!("group:{name}"),
        (algorithm, Some(delimiter)) => format!("{} by {delimiter:?}", algorithm.name()),
        (algorithm, None) => algorithm.name().to_owned(),
    }
}

/// Quotes an identifier: the one place where names enter statements.
pub(crate) fn quote(name: &str) -> String {
    pgrx::spi::quote_identifier(name)
}

/// Reads one table. Runs as the owner.
pub(crate) fn table(table_id: i32) -> Result<Tracked, SyncError> {
    read(Some(table_id), query::run).into_iter().next().ok_or(SyncError::NotTracked(table_id))
}

/// Reads one table as the active snapshot shows it. Runs as the owner.
pub(crate) fn table_in_snapshot(table_id: i32) -> Result<Tracked, SyncError> {
    read(Some(table_id), query::read).into_iter().next().ok_or(SyncError::NotTracked(table_id))
}

/// Reads the table of a relation. Runs as the owner.
pub(crate) fn of_relation(relation: pg_sys::Oid) -> Result<Tracked, SyncError> {
    let sql = "select t.table_id from cloudsync.tables as t where t.relation operator(pg_catalog.=) $1";
    let found = query::run(sql, &[Argument::oid(relation)]).first().map(codec::to_i32);
    table(found.ok_or_else(|| SyncError::Untracked(session::relation_name(relation)))?)
}

/// Reads one table as it is now, also for a transaction that sees an older registry. Runs as the owner.
pub(crate) fn table_now(table_id: i32) -> Result<Tracked, SyncError> {
    session::with_newest_snapshot(|| table_in_snapshot(table_id))
}

/// Reads all tables, by number. Runs as the owner.
pub(crate) fn tables() -> Vec<Tracked> {
    read(None, query::run)
}

fn read(table_id: Option<i32>, run: fn(&str, &[Argument]) -> query::Output) -> Vec<Tracked> {
    let argument = Argument::of(pg_sys::INT4OID, table_id.map(pg_sys::Datum::from));
    let rows = run(include_str!("../../sql/postgres/library/read_table.sql"), &[argument]).rows;
    let mut tables: Vec<Tracked> = Vec::new();
    for row in &rows {
        let table_id = integer(row, 1);
        if tables.last().is_none_or(|table| table.table_id != table_id) {
            tables.push(read_table(row));
        }
        let Some(table) = tables.last_mut() else { continue };
        let column = read_column(row);
        if row.attribute(12).is_some() { table.key.push(column) } else { table.columns.push(column) }
    }
    for table in &mut tables {
        table.ruled = rules(table);
    }
    tables
}

/// How a table merges, once its columns are known.
fn rules(table: &Tracked) -> TableRules {
    let columns = ruled::column_rules(table);
    let rules = Rules { table: table.algorithm, columns };
    let mut ruled = TableRules { rules, defaults: BTreeMap::new() };
    for column in table.columns.iter().filter(|column| ruled.rules.of(column.column_id()).is_register()) {
        if let Some(value) = column.default.as_ref().and_then(|text| column.codec.literal(text)) {
            ruled.defaults.insert(column.column_id(), value);
        }
    }
    ruled
}

fn read_table(row: &Tuple) -> Tracked {
    Tracked {
        table_id: integer(row, 1),
        relation: oid(row, 2),
        schema: name(row, 3),
        name: name(row, 4),
        incarnation: row.attribute(5).map_or(0, codec::to_i64).cast_unsigned(),
        version: integer(row, 6).cast_unsigned(),
        client_name: name(row, 19),
        is_partitioned: row.attribute(18).is_some_and(codec::to_bool),
        algorithm: u8::try_from(small(row, 7))
            .ok()
            .and_then(|code| TableAlgorithm::from_code(code).ok())
            .unwrap_or(TableAlgorithm::Cls),
        enabled: row.attribute(17).is_some_and(codec::to_bool),
        scope: row.attribute(22).map(codec::to_text),
        filter: row.attribute(23).map(codec::to_text),
        row_security: row.attribute(24).is_some_and(codec::to_bool),
        ruled: TableRules::default(),
        key: Vec::new(),
        columns: Vec::new(),
    }
}

fn read_column(row: &Tuple) -> Column {
    let id = small(row, 8);
    let algorithm = u8::try_from(small(row, 14)).ok();
    let algorithm =
        algorithm.and_then(|code| ColumnAlgorithm::from_code(code).ok()).unwrap_or(ColumnAlgorithm::Lww);
    let parameter = match algorithm {
        ColumnAlgorithm::Group => row.attribute(15),
        ColumnAlgorithm::Block => row.attribute(20),
        ColumnAlgorithm::Lww | ColumnAlgorithm::Counter | ColumnAlgorithm::Max | ColumnAlgorithm::Min => None,
    };
    Column {
        id,
        name: name(row, 9),
        codec: Codec::new(oid(row, 11)),
        collation: oid(row, 16),
        equality: name(row, 13),
        definition: ColumnDefinition {
            id: ColumnId::new(id.cast_unsigned()),
            name: name(row, 9),
            type_name: name(row, 10),
            algorithm,
            group: parameter.map(codec::to_text),
        },
        default: row.attribute(21).map(codec::to_text).and_then(|text| ruled::literal(&text)),
    }
}

fn integer(row: &Tuple, number: i16) -> i32 {
    row.attribute(number).map_or(0, codec::to_i32)
}

fn small(row: &Tuple, number: i16) -> i16 {
    row.attribute(number).map_or(0, codec::to_i16)
}

fn oid(row: &Tuple, number: i16) -> pg_sys::Oid {
    row.attribute(number).map_or(pg_sys::InvalidOid, |datum| pg_sys::Oid::from(integer_bits(datum)))
}

fn integer_bits(datum: pg_sys::Datum) -> u32 {
    codec::to_i32(datum).cast_unsigned()
}

fn name(row: &Tuple, number: i16) -> String {
    row.attribute(number).map(codec::to_text).unwrap_or_default()
}
