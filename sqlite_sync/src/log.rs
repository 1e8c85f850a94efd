//! The capture log: what its entries mean, and its three marks.
//!
//! Triggers append to it in pure SQL; numbers only grow and are never used twice, which is why the newest
//! entry is never deleted.

use rusqlite::{Connection, OptionalExtension, params};
use shared_format::{ColumnId, Value, ValueRef};

use crate::error::{Doing, Error, Result};
use crate::settings::{self, Setting};
use crate::sql::{NOW_MS, binds, join, wall_ms};
use crate::tracked_table::TrackedTable;

/// Code of a created row.
pub(crate) const INSERTED: i64 = -1;
/// Code of a deleted row.
pub(crate) const DELETED: i64 = -2;
/// Code of a row that may have been deleted without a trace.
pub(crate) const LOOK: i64 = -3;
/// Code of the entry that stands for all rows that were there before `cloudsync_init`.
pub(crate) const BASELINE: i64 = -4;
/// Code of an entry that only moves the number: an apply that changed something, or a row of a table that
/// is tracked no more.
pub(crate) const MARK: i64 = -5;

/// Column ids in one word: as many as leave an integer of SQLite positive.
pub(crate) const WORD_COLUMNS: u16 = 63;

/// Numbers that one baseline entry takes up, so that its rows can be cut into as many uploads.
pub(crate) const BASELINE_SPAN: i64 = 65_536;

/// Number of the newest capture-log entry of one SQLite file.
///
/// Invariant: zero before the first, never used twice by one site.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DbVersion(i64);

impl DbVersion {
    /// Takes a number read from the file or given by a caller.
    #[must_use]
    pub const fn new(number: i64) -> Self {
        Self(number)
    }

    /// Returns the number.
    #[must_use]
    pub const fn get(self) -> i64 {
        self.0
    }
}

/// A set of column ids, in words of [`WORD_COLUMNS`] bits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ColumnSet(Vec<u64>);

impl ColumnSet {
    pub(crate) fn insert(&mut self, column: ColumnId) {
        let word = usize::from(column.get() / WORD_COLUMNS);
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (column.get() % WORD_COLUMNS);
    }

    pub(crate) fn remove(&mut self, column: ColumnId) {
        if let Some(word) = self.0.get_mut(usize::from(column.get() / WORD_COLUMNS)) {
            *word &= !(1 << (column.get() % WORD_COLUMNS));
        }
    }

    pub(crate) fn contains(&self, column: ColumnId) -> bool {
        let word = self.0.get(usize::from(column.get() / WORD_COLUMNS));
        word.is_some_and(|word| word & (1 << (column.get() % WORD_COLUMNS)) != 0)
    }

    pub(crate) fn add(&mut self, other: &Self) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        for (word, more) in self.0.iter_mut().zip(&other.0) {
            *word |= more;
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// The form that triggers write: one integer, or words joined by commas.
    pub(crate) fn to_log(&self) -> shared_format::Value {
        match self.0.as_slice() {
            [] => shared_format::Value::Integer(0),
            [word] => shared_format::Value::Integer(word.cast_signed()),
            words => {
                let words: Vec<String> = words.iter().map(u64::to_string).collect();
                shared_format::Value::Text(words.join(","))
            }
        }
    }

    /// The same as SQL text.
    pub(crate) fn to_log_sql(&self) -> String {
        match self.0.as_slice() {
            [] => String::from("0"),
            [word] => word.to_string(),
            words => format!("'{}'", join(words, ",", |_, word| word.to_string())),
        }
    }

    fn from_text(text: &str) -> Option<Self> {
        text.split(',').map(|word| word.parse().ok()).collect::<Option<Vec<u64>>>().map(Self)
    }
}

impl FromIterator<ColumnId> for ColumnSet {
    fn from_iter<I: IntoIterator<Item = ColumnId>>(columns: I) -> Self {
        let mut set = Self::default();
        columns.into_iter().for_each(|column| set.insert(column));
        set
    }
}

/// What one entry of the capture log says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Captured {
    Inserted,
    Updated(ColumnSet),
    Deleted,
    Look,
    Baseline,
    Mark,
}

impl Captured {
    pub(crate) fn read(cols: ValueRef<'_>) -> Result<Self> {
        let wrong = |found: String| Error::Stored { what: "cols", found, wanted: "a code or column ids" };
        Ok(match cols {
            ValueRef::Integer(INSERTED) => Self::Inserted,
            ValueRef::Integer(DELETED) => Self::Deleted,
            ValueRef::Integer(LOOK) => Self::Look,
            ValueRef::Integer(BASELINE) => Self::Baseline,
            ValueRef::Integer(MARK) => Self::Mark,
            ValueRef::Integer(word) => match u64::try_from(word) {
                Ok(word) => Self::Updated(ColumnSet(vec![word])),
                Err(_negative) => return Err(wrong(word.to_string())),
            },
            ValueRef::Text(text) => {
                Self::Updated(ColumnSet::from_text(text).ok_or_else(|| wrong(String::from("other text")))?)
            }
            _other => return Err(wrong(String::from("another type"))),
        })
    }
}

/// Newest number of the file.
pub(crate) fn newest(connection: &Connection) -> Result<DbVersion> {
    let sql = "select max(seq) from main.cloudsync_log";
    let number: Option<i64> = connection.prepare_cached(sql)?.query_row([], |row| row.get(0))?;
    Ok(DbVersion(number.unwrap_or(0)))
}

/// Up to where the log is in the metadata.
pub(crate) fn folded(connection: &Connection) -> Result<DbVersion> {
    Ok(DbVersion(settings::integer(connection, Setting::Folded)?.unwrap_or(0)))
}

/// Up to where the server has answered for.
pub(crate) fn acknowledged(connection: &Connection) -> Result<DbVersion> {
    Ok(DbVersion(settings::integer(connection, Setting::Acknowledged)?.unwrap_or(0)))
}

/// Appends one entry of a row to the log or to what is held back of it; `cols` as triggers write it.
pub(crate) fn append_row(
    connection: &Connection,
    log: &str,
    table: &TrackedTable,
    cols: &str,
    key: &[Value],
) -> Result<()> {
    let sql = format!(
        "insert into main.{log} (tbl, cols, ms, {}) values ({}, {cols}, {NOW_MS}, {})",
        table.log_key(""),
        table.id,
        table.key_places(1),
    );
    let mut statement = connection.prepare_cached(&sql)?;
    statement.execute(rusqlite::params_from_iter(binds(key))).doing("log a row")?;
    Ok(())
}

/// Appends an entry that only moves the number, where everything below is folded; of a row of such entries the
/// last is kept.
pub(crate) fn append_mark(connection: &Connection) -> Result<DbVersion> {
    let before = newest(connection)?;
    let sql = "insert into main.cloudsync_log (tbl, cols, ms) values (null, ?1, ?2)";
    connection.prepare_cached(sql)?.execute(params![MARK, wall_ms(connection)?])?;
    let sql = "delete from main.cloudsync_log where seq = ?1 and cols = ?2";
    connection.prepare_cached(sql)?.execute(params![before.0, MARK])?;
    let mark = newest(connection)?;
    settings::store(connection, Setting::Folded, &Value::Integer(mark.0))?;
    Ok(mark)
}

/// Appends the baseline entry of a table and returns its number, the last of those it takes up.
pub(crate) fn append_baseline(connection: &Connection, table: u32) -> Result<DbVersion> {
    let number = newest(connection)?.0 + BASELINE_SPAN;
    let sql = "insert into main.cloudsync_log (seq, tbl, cols, ms) values (?1, ?2, ?3, ?4)";
    connection.prepare_cached(sql)?.execute(params![number, table, BASELINE, wall_ms(connection)?])?;
    Ok(DbVersion(number))
}

/// Deletes the entries of a range; the newest stays as a mark.
pub(crate) fn delete_range(connection: &Connection, first: DbVersion, last: DbVersion) -> Result<()> {
    let newest = newest(connection)?;
    let sql = "delete from main.cloudsync_log where seq between ?1 and ?2 and seq < ?3";
    connection.prepare_cached(sql)?.execute(params![first.0, last.0, newest.0])?;
    if newest <= last && newest >= first {
        let sql = "update main.cloudsync_log set tbl = null, cols = ?2, pk = null where seq = ?1";
        connection.prepare_cached(sql)?.execute(params![newest.0, MARK])?;
    }
    Ok(())
}

/// How many entries no upload was acknowledged for.
pub(crate) fn count_unsent(connection: &Connection) -> Result<i64> {
    let sql = "select count(*) from main.cloudsync_log where seq > ?1 and cols <> ?2";
    connection
        .prepare_cached(sql)?
        .query_row(params![acknowledged(connection)?.0, MARK], |row| row.get(0))
        .doing("count unsent entries")
}

/// Whether the log holds anything that no upload was acknowledged for.
pub(crate) fn has_unsent(connection: &Connection) -> Result<bool> {
    let sql = "select 1 from main.cloudsync_log where seq > ?1 and cols <> ?2 limit 1";
    let unsent = connection
        .prepare_cached(sql)?
        .query_row(params![acknowledged(connection)?.0, MARK], |_row| Ok(()))
        .optional()
        .doing("look for unsent changes")?;
    Ok(unsent.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(columns: &[u16], expected: &shared_format::Value) {
        let set: ColumnSet = columns.iter().copied().map(ColumnId::new).collect();
        assert_eq!(&set.to_log(), expected);
        assert_eq!(Captured::read(expected.as_ref()).unwrap(), Captured::Updated(set.clone()));
        for column in 0..200 {
            assert_eq!(set.contains(ColumnId::new(column)), columns.contains(&column));
        }
    }

    #[test]
    fn a_set_of_columns_reads_back_from_the_log() {
        use shared_format::Value::{Integer, Text};
        check(&[0, 3], &Integer(9));
        check(&[62], &Integer(1 << 62));
        check(&[63], &Text("0,1".into()));
        check(&[1, 64, 127], &Text("2,2,2".into()));
    }

    #[test]
    fn an_unknown_code_is_refused() {
        let error = Captured::read(ValueRef::Integer(-9)).unwrap_err();
        assert_eq!(error.line(), "stored cols is -9, wanted a code or column ids");
    }
}
