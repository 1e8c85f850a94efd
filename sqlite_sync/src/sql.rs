//! How SQL text is made and values pass to and from SQLite. Identifiers go through [`quote`], values are
//! bound, templates live in `sql/sqlite/`.

use std::borrow::Cow;

use rusqlite::types::{ToSql, ToSqlOutput, ValueRef as Column};
use rusqlite::{CachedStatement, Connection, Row};
use shared_format::{Value, ValueRef};

use crate::error::{Doing, Error, Result};

/// Unix milliseconds, exact, in every SQLite since 3.35 (`unixepoch('subsec')` is newer). Midnight of 1970 is
/// 210,866,760,000,000 ms into the julian days; these carry 0.02 ms at most of rounding, which the half takes
/// away. No argument means now, and is cheaper than saying so: every captured write pays for this.
pub(crate) const NOW_MS: &str = "cast(julianday() * 86400000.0 - 210866759999999.5 as integer)";

/// Quotes an identifier.
pub(crate) fn quote(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

/// Fills `{name}` in a template of `sql/sqlite/`; what is put in is not looked at again.
pub(crate) fn fill(template: &str, parts: &[(&str, &str)]) -> String {
    let mut out = String::with_capacity(template.len() * 2);
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').expect("a template closes its braces");
        let part = parts.iter().find(|(known, _)| *known == name);
        out.push_str(before);
        out.push_str(part.expect("a template names known parts").1);
        rest = after;
    }
    out.push_str(rest);
    out
}

/// Joins what `each` makes of every item.
pub(crate) fn join<T>(items: &[T], separator: &str, each: impl Fn(usize, &T) -> String) -> String {
    items.iter().enumerate().map(|(at, item)| each(at, item)).collect::<Vec<_>>().join(separator)
}

/// Joins expressions into a balanced tree: SQLite allows a depth of 1,000.
pub(crate) fn balanced(expressions: &[String], operator: &str) -> String {
    match expressions {
        [] => String::from("0"),
        [one] => one.clone(),
        many => {
            let (left, right) = many.split_at(many.len() / 2);
            format!("({} {operator} {})", balanced(left, operator), balanced(right, operator))
        }
    }
}

/// A value on its way into a statement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bind<'a>(pub(crate) ValueRef<'a>);

impl ToSql for Bind<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let column = match self.0 {
            ValueRef::Null => Column::Null,
            ValueRef::Integer(v) => Column::Integer(v),
            ValueRef::Real(v) => Column::Real(v),
            ValueRef::Text(v) => Column::Text(v.as_bytes()),
            ValueRef::Blob(v) => Column::Blob(v),
            ValueRef::RawText(v) => Column::Text(v),
            ValueRef::Boolean(_)
            | ValueRef::Numeric(_)
            | ValueRef::TimestampTz(_)
            | ValueRef::Timestamp(_)
            | ValueRef::Date(_)
            | ValueRef::Time(_)
            | ValueRef::Uuid(_)
            | ValueRef::Json(_)
            | ValueRef::Jsonb(_)
            | ValueRef::Other { .. } => {
                let wanted = "a value in the form that SQLite stores";
                let error = Error::Stored { what: "value", found: String::from("another form"), wanted };
                return Err(rusqlite::Error::ToSqlConversionFailure(Box::new(error)));
            }
        };
        Ok(ToSqlOutput::Borrowed(column))
    }
}

/// Borrows a column of a result row.
pub(crate) fn column<'r>(row: &'r Row<'_>, at: usize) -> Result<ValueRef<'r>> {
    Ok(match row.get_ref(at).doing("read a column")? {
        Column::Null => ValueRef::Null,
        Column::Integer(v) => ValueRef::Integer(v),
        Column::Real(v) => ValueRef::Real(v),
        Column::Text(v) => std::str::from_utf8(v).map_or(ValueRef::RawText(v), ValueRef::Text),
        Column::Blob(v) => ValueRef::Blob(v),
    })
}

/// Copies a value that SQLite holds.
pub(crate) fn owned(value: Column<'_>) -> Value {
    match value {
        Column::Null => Value::Null,
        Column::Integer(number) => Value::Integer(number),
        Column::Real(number) => Value::Real(number),
        Column::Text(text) => match std::str::from_utf8(text) {
            Ok(text) => Value::Text(text.to_owned()),
            Err(_other_encoding) => Value::RawText(text.to_vec()),
        },
        Column::Blob(bytes) => Value::Blob(bytes.to_vec()),
    }
}

/// Borrows `count` columns of a result row, from `first` on.
pub(crate) fn borrowed<'r>(row: &'r Row<'_>, first: usize, count: usize) -> Result<Vec<ValueRef<'r>>> {
    (first..first + count).map(|at| column(row, at)).collect()
}

/// Copies `count` columns of a result row, from `first` on.
pub(crate) fn columns(row: &Row<'_>, first: usize, count: usize) -> Result<Vec<Value>> {
    (first..first + count).map(|at| Ok(column(row, at)?.to_owned_value())).collect()
}

/// Borrows every value of a slice.
pub(crate) fn refs(values: &[Value]) -> Vec<ValueRef<'_>> {
    values.iter().map(Value::as_ref).collect()
}

/// Makes parameters of values.
pub(crate) fn binds<'a>(values: impl IntoIterator<Item = &'a Value>) -> Vec<Bind<'a>> {
    values.into_iter().map(|value| Bind(value.as_ref())).collect()
}

/// Wall time of this device in Unix milliseconds. Asked of SQLite, so that it works wherever SQLite does.
pub(crate) fn wall_ms(connection: &Connection) -> Result<i64> {
    let sql: Cow<'_, str> = Cow::Owned(format!("select {NOW_MS}"));
    connection.prepare_cached(&sql)?.query_row([], |row| row.get(0)).doing("read the clock")
}

/// Fails when the application called `sqlite3_interrupt`: from then on no statement runs until the outermost one
/// has ended.
pub(crate) fn check_interrupt(connection: &Connection) -> Result<()> {
    connection.prepare_cached("select 1")?.query_row([], |_row| Ok(())).doing("go on")
}

/// Does nothing, but counts as a write: when it is interrupted, SQLite rolls the transaction back by itself. An
/// interrupted ROLLBACK does not.
const ROLL_BACK: &str = "drop table if exists main.cloudsync_nothing";

/// One atomic unit of work: a transaction, or a savepoint inside the caller's. Dropped without
/// [`Unit::commit`] it leaves no trace.
pub(crate) struct Unit<'c> {
    connection: &'c Connection,
    /// What ends it without a trace. Ready from the start: when memory is gone nothing could be prepared.
    undo: Vec<CachedStatement<'c>>,
    is_transaction: bool,
    is_open: bool,
}

impl<'c> Unit<'c> {
    /// Begins; outside a transaction it takes the write lock at once, so that it cannot fail half way.
    pub(crate) fn begin(connection: &'c Connection) -> Result<Self> {
        let is_transaction = connection.is_autocommit();
        let (begin, undo): (_, &[&str]) = if is_transaction {
            ("begin immediate", &["rollback", ROLL_BACK])
        } else {
            ("savepoint cloudsync_unit", &["rollback to cloudsync_unit", "release cloudsync_unit"])
        };
        let undo = undo.iter().map(|sql| connection.prepare_cached(sql)).collect::<rusqlite::Result<_>>();
        let undo = undo.doing("prepare a transaction")?;
        connection.execute_batch(begin).doing("begin a transaction")?;
        Ok(Self { connection, undo, is_transaction, is_open: true })
    }

    /// Makes everything done since [`Unit::begin`] stay.
    pub(crate) fn commit(mut self) -> Result<()> {
        let sql = if self.is_transaction { "commit" } else { "release cloudsync_unit" };
        self.connection.execute_batch(sql).doing("commit")?;
        self.is_open = false;
        Ok(())
    }
}

impl Drop for Unit<'_> {
    fn drop(&mut self) {
        if self.is_open && !(self.is_transaction && self.connection.is_autocommit()) {
            for statement in &mut self.undo {
                // SQLite may have rolled back by itself (disk full); then there is nothing left to undo.
                if !(self.is_transaction && self.connection.is_autocommit()) {
                    drop(statement.execute([]));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_quoted() {
        assert_eq!(quote("a\"b c"), "\"a\"\"b c\"");
    }

    #[test]
    fn what_is_filled_in_is_not_filled_again() {
        assert_eq!(fill("a {x} b {y}", &[("x", "{y}"), ("y", "1")]), "a {y} b 1");
    }

    #[test]
    fn a_long_sum_stays_shallow() {
        let terms: Vec<String> = (0..1_000).map(|n| n.to_string()).collect();
        let sql = format!("select {}", balanced(&terms, "+"));
        let connection = Connection::open_in_memory().unwrap();
        let sum: i64 = connection.query_row(&sql, [], |row| row.get(0)).unwrap();
        assert_eq!(sum, 499_500);
    }

    #[test]
    fn the_clock_is_exact_to_the_millisecond() {
        let connection = Connection::open_in_memory().unwrap();
        let at = "1780000000 + n * 0.001, 'unixepoch'";
        let ours = NOW_MS.replace("julianday()", &format!("julianday({at})"));
        let sql = format!(
            "with recursive t(n) as (select 0 union all select n + 1 from t where n < 50000)
             select count(*) from t
             where {ours} <> strftime('%s', {at}) * 1000 + cast(substr(strftime('%f', {at}), 4) as integer)"
        );
        let wrong: i64 = connection.query_row(&sql, [], |row| row.get(0)).unwrap();
        assert_eq!(wrong, 0);
    }
}
