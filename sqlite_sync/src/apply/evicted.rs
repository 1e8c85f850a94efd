//! Forgets rows that this file's user may read no more. The server decides; no tombstone stays.
//!
//! A row with changes that the server has not answered stays until they are: only then is it known what became of
//! them. What waits so is kept in `cloudsync_evictions`, and a row that comes back is dropped from it.

use rusqlite::{Connection, params};
use shared_format::payload::Payload;
use shared_format::{decode_key, encode_key};

use super::buried::Edits;
use super::incoming::{Change, Mappings};
use super::rebase::{self, unsent};
use super::{Session, Source};
use crate::changes::read_row;
use crate::error::{Doing, Reading, Result};
use crate::sql::refs;
use crate::tracked_table::TrackedTable;

impl Session<'_, '_> {
    /// Takes in which rows a payload says to forget.
    pub(super) fn evict(&mut self, payload: &Payload<'_>, mappings: &Mappings) -> Result<()> {
        for eviction in payload.evictions() {
            let Some(evicted) = mappings.evicted(&eviction)? else { continue };
            for key in &evicted.keys {
                note(self.replica.connection, evicted.table.id, &encode_key(refs(key)))?;
            }
            self.has_evictions = true;
        }
        Ok(())
    }

    /// A row that comes again from the server may be read again.
    pub(super) fn keep_evicted(&self, change: &Change<'_>) -> Result<()> {
        if !self.has_evictions || !matches!(self.source, Source::Log | Source::Snapshot) {
            return Ok(());
        }
        let sql = "delete from main.cloudsync_evictions where tbl = ?1 and pk = ?2";
        let mut statement = self.replica.connection.prepare_cached(sql)?;
        statement.execute(params![change.table.id, change.pk()]).doing("drop an eviction")?;
        Ok(())
    }

    /// Forgets the rows that no unsent change holds here any more.
    pub(super) fn forget_evicted(&mut self) -> Result<()> {
        if !self.has_evictions {
            return Ok(());
        }
        let replica = &*self.replica;
        let tables: Vec<_> = replica.tables.iter().filter(|table| table.enabled).collect();
        let mut gone = Vec::new();
        for table in &tables {
            let waiting = waiting(replica.connection, table)?;
            if waiting.is_empty() {
                continue;
            }
            let unsent = unsent(replica, table)?;
            for pk in waiting.into_iter().filter(|pk| !unsent.contains(pk)) {
                gone.push((*table, decode_key(&pk).reading("eviction")?));
                self.applied.tables.insert(table.name.clone());
            }
        }
        self.applied.rows += rebase::evict(replica, gone, &Edits::new())?;
        tables.into_iter().try_for_each(|table| forget_done(replica.connection, table))
    }
}

/// Remembers that a row has to be forgotten as soon as nothing of it is unsent.
pub(super) fn note(connection: &Connection, table: u32, pk: &[u8]) -> Result<()> {
    let sql = "insert or ignore into main.cloudsync_evictions (tbl, pk) values (?1, ?2)";
    connection.prepare_cached(sql)?.execute(params![table, pk]).doing("note an eviction")?;
    Ok(())
}

/// Whether rows wait to be forgotten.
pub(crate) fn are_waiting(connection: &Connection) -> Result<bool> {
    let sql = "select exists (select 1 from main.cloudsync_evictions)";
    connection.query_row(sql, [], |row| row.get(0)).doing("look for evictions")
}

/// Encoded keys of the rows of a table that wait.
fn waiting(connection: &Connection, table: &TrackedTable) -> Result<Vec<Vec<u8>>> {
    let sql = "select pk from main.cloudsync_evictions where tbl = ?1";
    let mut statement = connection.prepare_cached(sql)?;
    let waiting = statement.query_map([table.id], |row| row.get(0)).and_then(Iterator::collect);
    waiting.doing("look for evictions")
}

/// Waits no more for rows of which nothing is left here.
fn forget_done(connection: &Connection, table: &TrackedTable) -> Result<()> {
    for pk in waiting(connection, table)? {
        let key = decode_key(&pk).reading("eviction")?;
        if read_row(connection, table, &key)?.is_none() {
            let sql = "delete from main.cloudsync_evictions where tbl = ?1 and pk = ?2";
            connection.prepare_cached(sql)?.execute(params![table.id, pk]).doing("drop an eviction")?;
        }
    }
    Ok(())
}
