//! One tracked table: its columns as the file has them now, with the ids of the registry, and the SQL that
//! names them.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, Row, params};
use shared_format::payload::{COLUMNS_MAX, ColumnDefinition, TableDefinition};
use shared_format::{ColumnId, ColumnRule, Hlc, Rules, Value, ValueRef};

use crate::algorithms;
use crate::error::{Doing, Error, Result, Untrackable};
use crate::log::DbVersion;
use crate::looks::{Unshared, hidden_rowid};
use crate::metadata::state_columns;
use crate::sql::{join, quote};

/// How the condition that holds a filter begins in a trigger's text, after the table's name.
pub(crate) const FILTER_BEGIN: &str = " as cloudsync_row where ";

/// What stands between the row key and the filter.
pub(crate) const FILTER_MIDDLE: &str = " and (";

/// What stands after the filter.
pub(crate) const FILTER_END: &str = "\n))";

/// A column of a tracked table.
#[derive(Clone, Debug)]
pub(crate) struct Column {
    pub(crate) id: ColumnId,
    pub(crate) name: String,
    pub(crate) type_name: String,
    /// The default as SQL text.
    pub(crate) default: Option<String>,
    pub(crate) may_be_null: bool,
    /// How the index of the key compares it; that of any other column does not matter here.
    pub(crate) collation: String,
}

/// What SQLite says of a table, before it has ids.
#[derive(Debug)]
pub(crate) struct Shape {
    pub(crate) name: String,
    pub(crate) key: Vec<Column>,
    pub(crate) columns: Vec<Column>,
    pub(crate) uniques: Vec<Unshared>,
}

/// A table whose writes are captured.
#[derive(Clone, Debug)]
pub(crate) struct TrackedTable {
    pub(crate) id: u32,
    pub(crate) name: String,
    /// How its rows and columns merge.
    pub(crate) rules: Rules,
    /// Defaults of the columns that hold registers.
    pub(crate) defaults: BTreeMap<ColumnId, Value>,
    pub(crate) incarnation: u64,
    pub(crate) version: u32,
    /// Number of the baseline entry, if the table was filled at `cloudsync_init`.
    pub(crate) baseline: Option<i64>,
    /// Clock of rows that were there before it was tracked.
    pub(crate) baseline_hlc: Hlc,
    /// Whether it is sent and received; what is written to a disabled table is held back.
    pub(crate) enabled: bool,
    /// Expression over its columns: rows that do not match it stay in this file.
    pub(crate) filter: Option<String>,
    /// Of a centre, who reads a row: an expression over its columns; None for everybody.
    pub(crate) scope: Option<String>,
    /// Tombstones below this clock are gone, because the server said so.
    pub(crate) horizon: Hlc,
    pub(crate) key: Vec<Column>,
    pub(crate) columns: Vec<Column>,
    /// Columns that came after the table was tracked: rows last written before this number do not speak for
    /// them.
    pub(crate) later: Vec<(ColumnId, DbVersion)>,
    pub(crate) sql: RowSql,
}

/// Statements on one row, found by its key in the first parameters.
#[derive(Clone, Debug, Default)]
pub(crate) struct RowSql {
    /// Key, then alive, hlc, site, cols, seq; `seq` never goes back.
    pub(crate) metadata_write: String,
    /// All columns that are no key.
    pub(crate) row_read: String,
    pub(crate) row_delete: String,
}

/// How SQLite treats values of a declared type: section 3.1 of its "Datatypes" page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Affinity {
    Integer,
    Text,
    Blob,
    Real,
    Numeric,
}

impl Affinity {
    pub(crate) fn of(type_name: &str) -> Self {
        let upper = type_name.to_ascii_uppercase();
        let has = |part: &str| upper.contains(part);
        if has("INT") {
            Self::Integer
        } else if has("CHAR") || has("CLOB") || has("TEXT") {
            Self::Text
        } else if has("BLOB") || upper.is_empty() || upper == "ANY" {
            Self::Blob
        } else if has("REAL") || has("FLOA") || has("DOUB") {
            Self::Real
        } else {
            Self::Numeric
        }
    }

    /// A declared type of this affinity.
    pub(crate) const fn type_name(self) -> &'static str {
        match self {
            Self::Integer => "integer",
            Self::Text => "text",
            Self::Blob => "blob",
            Self::Real => "real",
            Self::Numeric => "numeric",
        }
    }
}

impl Column {
    pub(crate) fn quoted(&self) -> String {
        quote(&self.name)
    }

    pub(crate) fn affinity(&self) -> Affinity {
        Affinity::of(&self.type_name)
    }

    /// Whether the index of the key tells any two texts apart.
    pub(crate) fn is_binary(&self) -> bool {
        self.collation.eq_ignore_ascii_case("binary")
    }

    /// `column = value` for a column of the key. Rows are told apart byte by byte; where the index is laxer, it
    /// finds the row and the bytes decide.
    fn key_is(&self, column: &str, value: &str) -> String {
        let exact = format!("{column} = {value} collate binary");
        if self.is_binary() {
            return exact;
        }
        format!("{column} = {value} collate {} and {exact}", quote(&self.collation))
    }

    fn definition(&self, rule: &ColumnRule) -> ColumnDefinition {
        ColumnDefinition {
            id: self.id,
            name: self.name.clone(),
            type_name: self.type_name.clone(),
            algorithm: rule.algorithm(),
            group: algorithms::parameter(rule).map(String::from),
        }
    }
}

impl Shape {
    /// Reads a table that is to be tracked; says why it cannot be.
    pub(crate) fn read(connection: &Connection, table: &str) -> Result<Self> {
        let name = find(connection, table)?.ok_or_else(|| Error::TableMissing { table: table.into() })?;
        let refuse = |reason| Error::Untrackable { table: name.clone(), reason };
        let lower = name.to_ascii_lowercase();
        let is_ours = lower.starts_with("cloudsync_") || lower.ends_with("_cloudsync");
        if is_ours || lower.starts_with("sqlite_") {
            return Err(refuse(Untrackable::NotOrdinary));
        }
        let (key, columns) = read_columns(connection, &name)?;
        if key.is_empty() {
            return Err(refuse(Untrackable::NoPrimaryKey));
        }
        if key.len() + columns.len() > COLUMNS_MAX {
            let found = key.len() + columns.len();
            return Err(refuse(Untrackable::Columns { found, max: COLUMNS_MAX }));
        }
        let mut shape = Self { key, columns, uniques: Vec::new(), name: name.clone() };
        shape.read_uniques(connection)?;
        Ok(shape)
    }

    /// Reads what two rows of the table cannot share.
    fn read_uniques(&mut self, connection: &Connection) -> Result<()> {
        let sql = "select name, origin from pragma_index_list(?1, 'main') where \"unique\" order by seq";
        let mut statement = connection.prepare_cached(sql)?;
        let indexes = statement
            .query_map([&self.name], |row| Ok((row.get(0)?, row.get(1)?)))
            .and_then(Iterator::collect::<rusqlite::Result<Vec<(String, String)>>>)
            .doing("read the indexes")?;
        for (index, origin) in &indexes {
            // Under a binary index a row with an equal key is the same row, and its entry is a creation.
            let is_binary = || self.key.iter().all(Column::is_binary);
            if origin != "pk" || !is_binary() {
                self.uniques.push(Unshared::index(connection, &self.name, index)?);
            }
        }
        if indexes.iter().any(|(_, origin)| origin == "pk") {
            self.uniques.extend(hidden_rowid(connection, &self.name)?.map(Unshared::Rowid));
        } else {
            // INTEGER PRIMARY KEY is the rowid itself and never NULL.
            self.key.iter_mut().for_each(|column| column.may_be_null = false);
        }
        Ok(())
    }
}

/// The name of a table as the file spells it; None when there is no such ordinary table.
pub(crate) fn find(connection: &Connection, table: &str) -> Result<Option<String>> {
    let sql = "select name from main.sqlite_schema
        where type = 'table' and rootpage > 0 and name = ?1 collate nocase";
    let mut statement = connection.prepare_cached(sql)?;
    statement.query_row([table], |row| row.get(0)).optional().doing("look for the table")
}

/// Key columns in key order and other columns in table order; generated columns are left out.
fn read_columns(connection: &Connection, table: &str) -> Result<(Vec<Column>, Vec<Column>)> {
    let sql = "select name, type, dflt_value, \"notnull\", pk, hidden
        from pragma_table_xinfo(?1, 'main') order by cid";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([table])?;
    let mut key = Vec::new();
    let mut columns = Vec::new();
    while let Some(row) = rows.next()? {
        let position: i64 = row.get(4)?;
        let is_generated = row.get::<_, i64>(5)? != 0;
        let column = Column {
            id: ColumnId::new(0),
            name: row.get(0)?,
            type_name: row.get(1)?,
            default: row.get(2)?,
            may_be_null: !row.get::<_, bool>(3)?,
            collation: String::from("BINARY"),
        };
        // SQLite allows no generated column in a key.
        if position != 0 {
            key.push((position, column));
        } else if !is_generated {
            columns.push(column);
        }
    }
    key.sort_by_key(|(position, _)| *position);
    let mut key: Vec<Column> = key.into_iter().map(|(_, column)| column).collect();
    read_collations(connection, table, &mut key)?;
    Ok((key, columns))
}

/// Reads how the index of the key compares its columns.
fn read_collations(connection: &Connection, table: &str, key: &mut [Column]) -> Result<()> {
    let sql = "select x.name, x.coll from pragma_index_list(?1, 'main') as i, pragma_index_xinfo(i.name, 'main') as x
        where i.origin = 'pk' and x.key";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([table])?;
    while let Some(row) = rows.next().doing("read the index of the key")? {
        let name: String = row.get(0)?;
        let collation: String = row.get(1)?;
        if let Some(column) = key.iter_mut().find(|column| column.name.eq_ignore_ascii_case(&name)) {
            column.collation = collation;
        }
    }
    Ok(())
}

impl TrackedTable {
    /// Whether the file is the centre of others.
    pub(crate) fn is_of_centre(&self) -> bool {
        self.baseline_hlc == Hlc::BASELINE_CENTRE
    }

    /// Reads the columns of a table that the registry knows; None when the file lost the table or its key.
    pub(crate) fn read_columns(mut self, connection: &Connection) -> Result<Option<Self>> {
        let Some(name) = find(connection, &self.name)? else { return Ok(None) };
        self.name = name;
        let (key, columns) = read_columns(connection, &self.name)?;
        let sql = "select id, added from main.cloudsync_columns where tbl = ?1 and name = ?2 and not dropped";
        let mut statement = connection.prepare_cached(sql)?;
        let mut later = Vec::new();
        let mut with_id = |mut column: Column| -> Result<Option<Column>> {
            let read = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
            let found = statement.query_row(params![self.id, column.name], read).optional()?;
            let Some((id, added)) = found else { return Ok(None) };
            column.id = ColumnId::new(id);
            if added > 0 {
                later.push((column.id, DbVersion::new(added)));
            }
            Ok(Some(column))
        };
        for column in key {
            match with_id(column)? {
                Some(column) => self.key.push(column),
                None => return Ok(None),
            }
        }
        for column in columns {
            self.columns.extend(with_id(column)?);
        }
        self.later = later;
        algorithms::read(connection, &mut self)?;
        if self.key.is_empty() {
            return Ok(None);
        }
        self.sql = self.row_sql();
        Ok(Some(self))
    }

    fn row_sql(&self) -> RowSql {
        let (table, metadata, parts) = (self.quoted(), self.metadata(), self.key.len());
        let (key, log_key) = (self.key_is(1), self.log_key(""));
        let state = state_columns("");
        let read = if self.columns.is_empty() { String::from("null") } else { self.other_columns("") };
        let places: Vec<String> = (1..=parts + 5).map(|at| format!("?{at}")).collect();
        RowSql {
            metadata_write: format!(
                "insert into {metadata} as m ({log_key}, {state}) values ({})
                 on conflict ({log_key}) do update set alive = excluded.alive, hlc = excluded.hlc,
                   site = excluded.site, cols = excluded.cols, seq = max(m.seq, excluded.seq)",
                places.join(", ")
            ),
            row_read: format!("select {read} from {table} where {key}"),
            row_delete: format!("delete from {table} where {key}"),
        }
    }

    /// The definition that travels with changes.
    pub(crate) fn definition(&self) -> TableDefinition {
        TableDefinition {
            table: self.id,
            incarnation: self.incarnation,
            version: self.version,
            name: self.name.clone(),
            schema: None,
            algorithm: self.rules.table,
            key: self.key.iter().map(|column| column.definition(&ColumnRule::Lww)).collect(),
            columns: self.columns.iter().map(|column| column.definition(self.rules.of(column.id))).collect(),
            scoped: self.scope.is_some() && self.is_of_centre(),
            row_security: false,
        }
    }

    pub(crate) fn column_ids(&self) -> Vec<ColumnId> {
        self.columns.iter().map(|column| column.id).collect()
    }

    /// Place of a column among those that are no key.
    pub(crate) fn position(&self, id: ColumnId) -> Option<usize> {
        self.columns.iter().position(|column| column.id == id)
    }

    /// Finds a column that is no key by its name.
    pub(crate) fn column_named(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name.eq_ignore_ascii_case(name))
    }

    /// The default of a column that holds a register.
    pub(crate) fn default_of(&self, id: ColumnId) -> ValueRef<'_> {
        self.defaults.get(&id).map_or(ValueRef::Null, Value::as_ref)
    }

    /// Refuses a key with too many or too few parts.
    pub(crate) fn check_key(&self, key: &[Value]) -> Result<()> {
        let (found, wanted) = (key.len(), self.key.len());
        if found == wanted {
            return Ok(());
        }
        Err(Error::KeyParts { table: self.name.clone(), found, wanted })
    }

    /// Says in a trigger that the row with the key of `row` (NEW, OLD or an alias) matches the filter; None
    /// without one.
    ///
    /// Asked of the table itself, since values of NEW and OLD compare without the type of their column. A
    /// trigger that names its database cannot be attached under another name.
    pub(crate) fn shares(&self, row: &str) -> Option<String> {
        self.shares_of(&quote(&self.name), row)
    }

    /// The same in a query, where a temporary table of that name would come first.
    pub(crate) fn shares_in_main(&self, row: &str) -> Option<String> {
        self.shares_of(&self.quoted(), row)
    }

    fn shares_of(&self, table: &str, row: &str) -> Option<String> {
        let filter = self.filter.as_ref()?;
        let key =
            join(&self.key, " and ", |_, column| format!("cloudsync_row.{0} = {row}.{0}", column.quoted()));
        Some(format!("exists (select 1 from {table}{FILTER_BEGIN}{key}{FILTER_MIDDLE}{filter}{FILTER_END}"))
    }

    /// Where its writes are captured.
    pub(crate) const fn log_name(&self) -> &'static str {
        if self.enabled { "cloudsync_log" } else { "cloudsync_held" }
    }

    /// The user's table, quoted.
    pub(crate) fn quoted(&self) -> String {
        format!("main.{}", quote(&self.name))
    }

    /// The metadata table, quoted.
    pub(crate) fn metadata(&self) -> String {
        format!("main.{}", quote(&metadata_name(&self.name)))
    }

    /// `pk, pk2, ...`, each after `prefix`.
    pub(crate) fn log_key(&self, prefix: &str) -> String {
        log_key(self.key.len(), prefix)
    }

    /// The key columns of the user's table, each after `prefix`.
    pub(crate) fn key_columns(&self, prefix: &str) -> String {
        join(&self.key, ", ", |_, column| format!("{prefix}{}", column.quoted()))
    }

    /// The other columns of the user's table, each after `prefix`.
    pub(crate) fn other_columns(&self, prefix: &str) -> String {
        join(&self.columns, ", ", |_, column| format!("{prefix}{}", column.quoted()))
    }

    /// The other columns of the user's table, each after a comma and `prefix`: what a query reads behind a key.
    pub(crate) fn and_other_columns(&self, prefix: &str) -> String {
        self.columns.iter().map(|column| format!(", {prefix}{}", column.quoted())).collect()
    }

    /// `?1, ?2, ...` for the parts of a key, parameters from `first` on.
    pub(crate) fn key_places(&self, first: usize) -> String {
        join(&self.key, ", ", |at, _| format!("?{}", first + at))
    }

    /// Says of a row of the user's table that no part of its key is NULL.
    pub(crate) fn key_is_whole(&self, prefix: &str) -> String {
        join(&self.key, " and ", |_, column| format!("{prefix}{} is not null", column.quoted()))
    }

    /// `m.pk = t."id" and ...`, the metadata on the left, so that its index is asked.
    pub(crate) fn metadata_equals_key(&self, metadata: &str, table: &str) -> String {
        join(&self.key, " and ", |at, column| {
            format!("{metadata}.{} = {table}.{}", log_key_name(at), column.quoted())
        })
    }

    /// `"id" = ?1 and ...` for the user's table, parameters from `first` on.
    pub(crate) fn key_is(&self, first: usize) -> String {
        join(&self.key, " and ", |at, column| column.key_is(&column.quoted(), &format!("?{}", first + at)))
    }

    /// `pk = ?1 and ...` for the metadata table, parameters from `first` on.
    pub(crate) fn log_key_is(&self, first: usize) -> String {
        join(&self.key, " and ", |at, _| format!("{} = ?{}", log_key_name(at), first + at))
    }

    /// `t."id" = l.pk and ...`: the table's column stands on the left, so that its type rules.
    pub(crate) fn key_equals_log(&self, table: &str, log: &str) -> String {
        join(&self.key, " and ", |at, column| {
            column.key_is(&format!("{table}.{}", column.quoted()), &format!("{log}.{}", log_key_name(at)))
        })
    }

    /// `m.pk = l.pk and ...`, the metadata on the left.
    pub(crate) fn metadata_equals_log(&self, metadata: &str, log: &str) -> String {
        join(&self.key, " and ", |at, _| format!("{metadata}.{0} = {log}.{0}", log_key_name(at)))
    }
}

/// Name of a table's metadata.
pub(crate) fn metadata_name(table: &str) -> String {
    format!("{table}_cloudsync")
}

/// Name of one key part in the log and in metadata.
pub(crate) fn log_key_name(at: usize) -> String {
    if at == 0 { String::from("pk") } else { format!("pk{}", at + 1) }
}

/// `pk, pk2, ...`, each after `prefix`.
pub(crate) fn log_key(parts: usize, prefix: &str) -> String {
    (0..parts).map(|at| format!("{prefix}{}", log_key_name(at))).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_declared_type_has_the_affinity_that_sqlite_gives_it() {
        let connection = Connection::open_in_memory().unwrap();
        for type_name in [
            "INTEGER",
            "TEXT",
            "",
            "BLOB",
            "REAL",
            "NUMERIC",
            "varchar(36)",
            "double precision",
            "boolean",
            "FLOATING POINT",
            "CHARINT",
            "uuid",
            "timestamptz",
            "decimal(10,2)",
            "STRING",
            "bigint",
        ] {
            let ours = Affinity::of(type_name).type_name();
            let sql = format!(
                "create temp table t (theirs {type_name}, ours {ours});
                insert into t values ('1', '1'), (1, 1), (1.5, 1.5), ('1.0', '1.0'), (x'31', x'31')"
            );
            connection.execute_batch(&sql).unwrap();
            let sql = "select count(*) from temp.t where typeof(theirs) <> typeof(ours)";
            let wrong: i64 = connection.query_row(sql, [], |row| row.get(0)).unwrap();
            assert_eq!(wrong, 0, "{type_name}");
            connection.execute_batch("drop table temp.t").unwrap();
        }
    }
}
