//! Statements on the rows of one table and on their metadata, prepared once for a whole apply.

use std::rc::Rc;

use rusqlite::{Connection, Row, Rows, Statement};
use schema_mapping::SqliteValue;
use shared_format::{ColumnId, RowState, Value, ValueRef};

use crate::error::{Doing, Error, Result, WRITE_ROW};
use crate::log::DbVersion;
use crate::metadata::{self, Registers, Stored};
use crate::parked;
use crate::settings::Sites;
use crate::sql::{Bind, columns};
use crate::tracked_table::{Affinity, TrackedTable};

/// Writing statements kept ready: rows of one payload seldom come in more shapes.
const SHAPES_MAX: usize = 32;

/// Which columns a statement writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape<'p> {
    /// Whether the row is made.
    pub(super) inserts: bool,
    /// Places that get a value, ascending.
    pub(super) places: &'p [usize],
    /// Places that go to their default.
    pub(super) defaults: &'p [usize],
}

/// All statements of one table.
pub(super) struct RowStatements<'c> {
    connection: &'c Connection,
    table: Rc<TrackedTable>,
    /// Whether something in the file asks for a ROLLBACK where a statement does not say what it wants.
    aborts: bool,
    metadata_read: Lazy<'c>,
    metadata_add: Lazy<'c>,
    metadata_update: Lazy<'c>,
    metadata_remove: Lazy<'c>,
    row_read: Lazy<'c>,
    rows_from: Lazy<'c>,
    row_delete: Lazy<'c>,
    writes: Vec<Write<'c>>,
}

/// A statement that writes rows of one shape.
struct Write<'c> {
    inserts: bool,
    places: Vec<usize>,
    defaults: Vec<usize>,
    statement: Statement<'c>,
}

/// A statement that is prepared when it is first needed.
struct Lazy<'c> {
    sql: String,
    statement: Option<Statement<'c>>,
}

impl<'c> Lazy<'c> {
    const fn new(sql: String) -> Self {
        Self { sql, statement: None }
    }

    fn get(&mut self, connection: &'c Connection) -> Result<&mut Statement<'c>> {
        Ok(match &mut self.statement {
            Some(statement) => statement,
            empty => empty.insert(connection.prepare(&self.sql).doing("prepare a statement")?),
        })
    }
}

impl<'c> RowStatements<'c> {
    pub(super) fn new(connection: &'c Connection, table: Rc<TrackedTable>, aborts: bool) -> Self {
        let metadata = table.metadata();
        let parts = table.key.len();
        let places: Vec<String> = (1..=parts + 5).map(|at| format!("?{at}")).collect();
        let state = metadata::state_columns("");
        let key = table.log_key("");
        let key_is = table.log_key_is(1);
        Self {
            connection,
            aborts,
            metadata_read: Lazy::new(format!("select {state} from {metadata} where {key_is}")),
            metadata_add: Lazy::new(format!(
                "insert into {metadata} ({key}, {state}) values ({}) on conflict ({key}) do nothing",
                places.join(", ")
            )),
            metadata_update: Lazy::new(format!(
                "update {metadata} set alive = {}, hlc = {}, site = {}, cols = {}, seq = {} where {key_is}",
                places[parts],
                places[parts + 1],
                places[parts + 2],
                places[parts + 3],
                places[parts + 4],
            )),
            metadata_remove: Lazy::new(format!("delete from {metadata} where {key_is}")),
            row_read: Lazy::new(table.sql.row_read.clone()),
            rows_from: Lazy::new(format!(
                "select {}, {}{} from {metadata} as m cross join {} as t on {} where ({}) >= ({}) order by {}",
                table.log_key("m."),
                metadata::state_columns("m."),
                table.and_other_columns("t."),
                table.quoted(),
                table.key_equals_log("t", "m"),
                table.log_key("m."),
                places[..parts].join(", "),
                table.log_key("m."),
            )),
            row_delete: Lazy::new(table.sql.row_delete.clone()),
            writes: Vec::new(),
            table,
        }
    }

    /// Reads the metadata of a row.
    pub(super) fn state(&mut self, sites: &Sites, key: &[SqliteValue<'_>]) -> Result<Option<RowState>> {
        let statement = self.metadata_read.get(self.connection)?;
        bind_key(statement, key)?;
        let mut rows = statement.raw_query();
        match rows.next().doing("read metadata")? {
            Some(row) => metadata::state(sites, &self.table, row, 0),
            None => Ok(None),
        }
    }

    /// Reads the registers of a row.
    pub(super) fn registers(&mut self, key: &[SqliteValue<'_>]) -> Result<Registers> {
        if !self.table.rules.have_registers() {
            return Ok(Registers::new());
        }
        let statement = self.metadata_read.get(self.connection)?;
        bind_key(statement, key)?;
        let mut rows = statement.raw_query();
        match rows.next().doing("read registers")? {
            Some(row) => metadata::registers(&self.table, row, 0),
            None => Ok(Registers::new()),
        }
    }

    /// Writes the metadata of a row that has none; says whether it had none.
    pub(super) fn add_state(
        &mut self,
        key: &[SqliteValue<'_>],
        stored: &Stored,
        seq: DbVersion,
    ) -> Result<bool> {
        let statement = self.metadata_add.get(self.connection)?;
        bind_state(statement, key, stored, seq)?;
        Ok(statement.raw_execute().doing("write metadata")? == 1)
    }

    /// Writes the metadata of a row that has some.
    pub(super) fn update_state(
        &mut self,
        key: &[SqliteValue<'_>],
        stored: &Stored,
        seq: DbVersion,
    ) -> Result<bool> {
        let statement = self.metadata_update.get(self.connection)?;
        bind_state(statement, key, stored, seq)?;
        Ok(statement.raw_execute().doing("write metadata")? == 1)
    }

    /// Writes the metadata of a row; `is_known` says which of the two is probably right.
    pub(super) fn write_state(
        &mut self,
        key: &[SqliteValue<'_>],
        stored: &Stored,
        seq: DbVersion,
        is_known: bool,
    ) -> Result<()> {
        if is_known && self.update_state(key, stored, seq)? {
            return Ok(());
        }
        if self.add_state(key, stored, seq)? || self.update_state(key, stored, seq)? {
            return Ok(());
        }
        Err(Error::Stored { what: "metadata row", found: String::from("none"), wanted: "one row written" })
    }

    /// Takes back what [`Self::add_state`] wrote.
    pub(super) fn remove_state(&mut self, key: &[SqliteValue<'_>]) -> Result<()> {
        let statement = self.metadata_remove.get(self.connection)?;
        bind_key(statement, key)?;
        statement.raw_execute().doing("write metadata")?;
        Ok(())
    }

    /// Hands a row to `look`; None when it is not there.
    pub(super) fn with_row<T>(
        &mut self,
        key: &[SqliteValue<'_>],
        look: impl FnOnce(&Row<'_>) -> Result<T>,
    ) -> Result<Option<T>> {
        let statement = self.row_read.get(self.connection)?;
        bind_key(statement, key)?;
        let mut rows = statement.raw_query();
        rows.next().doing("read a row")?.map(look).transpose()
    }

    /// Rows that have metadata, from a key on and by key: the key, the state, the other columns.
    pub(super) fn rows_from(&mut self, key: &[SqliteValue<'_>]) -> Result<Rows<'_>> {
        let statement = self.rows_from.get(self.connection)?;
        bind_key(statement, key)?;
        Ok(statement.raw_query())
    }

    /// Reads all columns of a row that are no key.
    pub(super) fn values(&mut self, key: &[SqliteValue<'_>]) -> Result<Option<Vec<Value>>> {
        let count = self.table.columns.len();
        self.with_row(key, |row| columns(row, 0, count))
    }

    /// Whether a row holds what a column makes of a value when it stores it.
    pub(super) fn would_hold(
        &self,
        key: &[SqliteValue<'_>],
        place: usize,
        value: ValueRef<'_>,
    ) -> Result<bool> {
        let column = &self.table.columns[place];
        if column.affinity() == Affinity::Blob {
            return Ok(false);
        }
        let sql = format!(
            "select 1 from {} where {} and {} collate binary is ?{}",
            self.table.quoted(),
            self.table.key_is(1),
            column.quoted(),
            key.len() + 1
        );
        let mut statement = self.connection.prepare_cached(&sql).doing("compare a value")?;
        bind_key(&mut statement, key)?;
        bind(&mut statement, key.len(), value)?;
        let mut rows = statement.raw_query();
        Ok(rows.next().doing("compare a value")?.is_some())
    }

    /// Reads the cells that are parked beside a row.
    pub(super) fn parked(&self, pk: &[u8]) -> Result<Vec<(ColumnId, Value)>> {
        parked::cells(self.connection, &self.table, pk)
    }

    /// Puts other values into some columns of a row.
    pub(super) fn put_aside(&mut self, key: &[SqliteValue<'_>], cells: &[(usize, Value)]) -> Result<usize> {
        let places: Vec<usize> = cells.iter().map(|(at, _)| *at).collect();
        let shape = Shape { inserts: false, places: &places, defaults: &[] };
        self.write(shape, key, cells.iter().map(|(_, value)| value.as_ref()))
    }

    /// Deletes a row; says how many there were.
    pub(super) fn delete(&mut self, key: &[SqliteValue<'_>]) -> Result<usize> {
        let statement = self.row_delete.get(self.connection)?;
        bind_key(statement, key)?;
        statement.raw_execute().doing(WRITE_ROW)
    }

    /// Writes values into one row; says how many rows were written.
    pub(super) fn write<'v>(
        &mut self,
        shape: Shape<'_>,
        key: &[SqliteValue<'_>],
        values: impl Iterator<Item = ValueRef<'v>>,
    ) -> Result<usize> {
        let statement = self.writing(shape)?;
        bind_key(statement, key)?;
        for (at, value) in values.enumerate() {
            bind(statement, key.len() + at, value)?;
        }
        statement.raw_execute().doing(WRITE_ROW)
    }

    /// The statement of a shape. The latest ones are kept.
    fn writing(&mut self, shape: Shape<'_>) -> Result<&mut Statement<'c>> {
        let is_same = |write: &Write<'_>| {
            write.inserts == shape.inserts && write.places == shape.places && write.defaults == shape.defaults
        };
        let at = match self.writes.iter().position(is_same) {
            Some(at) => at,
            None => {
                if self.writes.len() >= SHAPES_MAX {
                    self.writes.remove(0);
                }
                let or = if self.aborts { " or abort" } else { "" };
                let sql = if shape.inserts {
                    insert_sql(&self.table, or, shape.places)
                } else {
                    update_sql(&self.table, or, shape.places, shape.defaults)
                };
                self.writes.push(Write {
                    inserts: shape.inserts,
                    places: shape.places.to_vec(),
                    defaults: shape.defaults.to_vec(),
                    statement: self.connection.prepare(&sql).doing(WRITE_ROW)?,
                });
                self.writes.len() - 1
            }
        };
        Ok(&mut self.writes[at].statement)
    }
}

fn bind(statement: &mut Statement<'_>, at: usize, value: ValueRef<'_>) -> Result<()> {
    statement.raw_bind_parameter(at + 1, Bind(value)).doing("bind a value")
}

fn bind_key(statement: &mut Statement<'_>, key: &[SqliteValue<'_>]) -> Result<()> {
    key.iter().enumerate().try_for_each(|(at, part)| bind(statement, at, part.as_value()))
}

fn bind_state(
    statement: &mut Statement<'_>,
    key: &[SqliteValue<'_>],
    stored: &Stored,
    seq: DbVersion,
) -> Result<()> {
    bind_key(statement, key)?;
    let cols = stored.cols.as_deref().map_or(ValueRef::Null, ValueRef::Blob);
    let state = [
        ValueRef::Integer(i64::from(stored.alive)),
        ValueRef::Integer(stored.hlc),
        ValueRef::Integer(i64::from(stored.site)),
        cols,
        ValueRef::Integer(seq.get()),
    ];
    state.into_iter().enumerate().try_for_each(|(at, value)| bind(statement, key.len() + at, value))
}

fn insert_sql(table: &TrackedTable, or: &str, places: &[usize]) -> String {
    let mut names = vec![table.key_columns("")];
    names.extend(places.iter().map(|at| table.columns[*at].quoted()));
    let values: Vec<String> = (1..=table.key.len() + places.len()).map(|at| format!("?{at}")).collect();
    format!("insert{or} into {} ({}) values ({})", table.quoted(), names.join(", "), values.join(", "))
}

fn update_sql(table: &TrackedTable, or: &str, places: &[usize], defaults: &[usize]) -> String {
    let mut sets: Vec<String> = places
        .iter()
        .enumerate()
        .map(|(at, place)| format!("{} = ?{}", table.columns[*place].quoted(), table.key.len() + at + 1))
        .collect();
    sets.extend(defaults.iter().map(|at| {
        let column = &table.columns[*at];
        format!("{} = ({})", column.quoted(), column.default.as_deref().unwrap_or("null"))
    }));
    format!("update{or} {} set {} where {}", table.quoted(), sets.join(", "), table.key_is(1))
}

/// Writes staged cells again where they differ from what was asked; no constraint may remove other rows for it.
pub(super) fn rewrite_sql(table: &TrackedTable, places: &[usize]) -> String {
    let differs: Vec<String> = places
        .iter()
        .enumerate()
        .map(|(at, place)| format!("{} is not ?{}", table.columns[*place].quoted(), table.key.len() + at + 1))
        .collect();
    format!("{} and ({})", update_sql(table, " or abort", places, &[]), differs.join(" or "))
}
