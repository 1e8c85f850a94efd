//! Tells apply's own writes from those of users' triggers and cascades, after both happened.
//!
//! Incoming cells are authoritative: where a trigger changed one, it is written again without triggers. Log
//! entries lose the columns that were asked for and the lives that hold as asked; what is left is a local
//! write and travels. At a centre it is the other way round: what its triggers made of a cell stands, and travels.

use rusqlite::params;
use rusqlite::types::ToSql;
use shared_format::{Value, encode_key};

use super::statements::rewrite_sql;
use super::{Session, Staged, TriggersOff};
use crate::changes::read_row;
use crate::connection::foreign_keys_open;
use crate::error::{Doing, Result, WRITE_ROW};
use crate::log::{Captured, ColumnSet, DbVersion};
use crate::sql::{Bind, binds, column, columns, refs};
use crate::tracked_table::TrackedTable;

/// Log entries that are held at once.
const ENTRIES_MAX: i64 = 10_000;

/// What becomes of one log entry.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// It is a local write.
    Keep,
    /// It only says what was asked for.
    Delete,
    /// These columns of it are a local write.
    Narrow(ColumnSet),
}

impl Session<'_, '_> {
    /// Brings staged cells back to what was asked and takes them out of the log.
    pub(super) fn settle(&mut self) -> Result<()> {
        let Some(mark) = self.mark else { return Ok(()) };
        let triggers = TriggersOff::when(self.replica.connection, true)?;
        let mut staged = std::mem::take(&mut self.staged);
        for row in staged.values_mut().filter(|row| row.is_alive && !row.cells.is_empty()) {
            if self.gathering.is_some() {
                self.keep_rewritten(row)?;
            } else {
                self.rewrite(row)?;
            }
        }
        drop(triggers);
        for table in self.replica.tables.clone() {
            let mut after = mark;
            loop {
                let entries = self.entries(&table, after)?;
                for (seq, captured, key) in &entries {
                    let Some(row) = staged.get(&(table.id, encode_key(refs(key)))) else { continue };
                    let is_present = read_row(self.replica.connection, &table, key)?.is_some();
                    self.carry_out(*seq, &judge(captured, row, is_present))?;
                }
                match entries.last() {
                    Some((last, _, _)) => after = *last,
                    None => break,
                }
            }
        }
        Ok(())
    }

    /// At a centre, what triggers made of a cell is a write of this file: only cells that hold as asked are taken out
    /// of the log.
    fn keep_rewritten(&self, row: &mut Staged) -> Result<()> {
        let held = read_row(self.replica.connection, &row.table, &row.key)?.unwrap_or_default();
        row.cells.retain(|(at, value)| {
            held.get(*at).is_some_and(|held| held.as_ref().cmp_encoded(&value.as_ref()).is_eq())
        });
        Ok(())
    }

    /// Writes the cells of one row again where they differ; a value that cannot be kept is a local write.
    fn rewrite(&self, row: &mut Staged) -> Result<()> {
        let connection = self.replica.connection;
        let places: Vec<usize> = row.cells.iter().map(|(at, _)| *at).collect();
        let values: Vec<Bind<'_>> =
            binds(&row.key).into_iter().chain(binds(row.cells.iter().map(|(_, value)| value))).collect();
        let parameters: Vec<&dyn ToSql> = values.iter().map(|bind| bind as &dyn ToSql).collect();
        if self.is_careful {
            connection.execute_batch("savepoint cloudsync_rewrite").doing("write a row again")?;
        }
        let sql = rewrite_sql(&row.table, &places);
        let written = connection.prepare_cached(&sql)?.execute(parameters.as_slice());
        let is_refused = match written.doing(WRITE_ROW) {
            Ok(_count) => self.is_careful && foreign_keys_open(connection)?,
            Err(error) if error.is_refusal() && !connection.is_autocommit() => true,
            Err(error) => return Err(error),
        };
        if is_refused && self.is_careful {
            connection.execute_batch("rollback to cloudsync_rewrite").doing("undo a row")?;
        }
        if is_refused {
            row.cells.clear();
        }
        if self.is_careful {
            connection.execute_batch("release cloudsync_rewrite").doing("write a row again")?;
        }
        Ok(())
    }

    /// The next entries of a table, as many as are held at once.
    fn entries(
        &self,
        table: &TrackedTable,
        after: DbVersion,
    ) -> Result<Vec<(DbVersion, Captured, Vec<Value>)>> {
        let sql = format!(
            "select seq, cols, {} from main.cloudsync_log where seq > ?1 and tbl = ?2 order by seq limit ?3",
            table.log_key("")
        );
        let mut statement = self.replica.connection.prepare_cached(&sql)?;
        let mut rows = statement.query(params![after.get(), table.id, ENTRIES_MAX])?;
        let mut entries = Vec::new();
        while let Some(row) = rows.next().doing("read the capture log")? {
            let captured = Captured::read(column(row, 1)?)?;
            entries.push((DbVersion::new(row.get(0)?), captured, columns(row, 2, table.key.len())?));
        }
        Ok(entries)
    }

    fn carry_out(&self, seq: DbVersion, verdict: &Verdict) -> Result<()> {
        let connection = self.replica.connection;
        match verdict {
            Verdict::Keep => {}
            Verdict::Delete => {
                let sql = "delete from main.cloudsync_log where seq = ?1";
                connection.prepare_cached(sql)?.execute([seq.get()]).doing("clear an entry")?;
            }
            Verdict::Narrow(set) => {
                let sql = "update main.cloudsync_log set cols = ?2 where seq = ?1";
                let cols = set.to_log();
                connection.prepare_cached(sql)?.execute(params![seq.get(), Bind(cols.as_ref())])?;
            }
        }
        Ok(())
    }
}

/// Decides what one entry of a staged row says beyond what was asked.
fn judge(captured: &Captured, row: &Staged, is_present: bool) -> Verdict {
    let without_staged = |mut set: ColumnSet| {
        for (at, _) in &row.cells {
            set.remove(row.table.columns[*at].id);
        }
        if set.is_empty() { Verdict::Delete } else { Verdict::Narrow(set) }
    };
    let holds = row.is_alive == is_present;
    match captured {
        Captured::Updated(set) => without_staged(set.clone()),
        Captured::Inserted if holds && (row.has_life || !row.is_alive) => Verdict::Delete,
        Captured::Inserted if holds => without_staged(row.table.column_ids().into_iter().collect()),
        Captured::Inserted => Verdict::Keep,
        Captured::Deleted | Captured::Look if holds => Verdict::Delete,
        Captured::Deleted | Captured::Look => Verdict::Keep,
        Captured::Baseline | Captured::Mark => Verdict::Keep,
    }
}
