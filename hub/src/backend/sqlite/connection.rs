//! Opens a connection to the central file and loads the extension into it: the only unsafe code of the hub.

#![allow(unsafe_code)]

use std::thread;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use crate::config::SqliteLocation;
use crate::error::{Error, Result};

/// Wait between two tries to write, while another program does.
///
/// A program that writes without end lets go of the file for some microseconds between its transactions. SQLite's own
/// handler sleeps up to 100 ms between its tries, and four such programs locked it out for 5 s again and again.
const BUSY_INTERVAL: Duration = Duration::from_micros(200);

/// Tries before the hub gives up for now: 5 s.
const BUSY_TRIES: i32 = 25_000;

/// Opens the file, made when it is not there, in a mode where readers and one writer do not wait for each other,
/// and where an answered upload survives a loss of power.
pub(super) fn open(location: &SqliteLocation) -> Result<Connection> {
    let failed = |action| move |source| Error::Sqlite { action, source };
    let connection = Connection::open(&location.file).map_err(failed("open the central file"))?;
    connection.busy_handler(Some(wait_for_writer)).map_err(failed("open the central file"))?;
    load(&connection, location)?;
    let mode: String = connection
        .query_row("pragma journal_mode = wal", [], |row| row.get(0))
        .map_err(failed("set the central file to WAL mode"))?;
    if mode != "wal" {
        return Err(Error::CentralFileMode { path: location.file.clone(), found: mode });
    }
    let settings = "pragma synchronous = full; pragma foreign_keys = on";
    connection.execute_batch(settings).map_err(failed("set up the central file"))?;
    Ok(connection)
}

/// Loads the library into a database in memory.
pub(super) fn try_library(location: &SqliteLocation) -> Result<()> {
    let memory = Connection::open_in_memory();
    let memory = memory.map_err(|source| Error::Sqlite { action: "open a database in memory", source })?;
    load(&memory, location)
}

/// Reads what a file that is there says of its tables, and tries its right to write.
pub(super) fn try_file(location: &SqliteLocation) -> Result<()> {
    let failed = |source| Error::Sqlite { action: "read and write the central file", source };
    let connection = Connection::open_with_flags(&location.file, OpenFlags::SQLITE_OPEN_READ_WRITE);
    let connection = connection.map_err(failed)?;
    connection.busy_handler(Some(wait_for_writer)).map_err(failed)?;
    connection.execute_batch("begin immediate; select count(*) from sqlite_schema; rollback").map_err(failed)
}

/// Opens a file that is there for a look, without the library.
pub(super) fn open_to_read(location: &SqliteLocation) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(&location.file, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    connection.busy_handler(Some(wait_for_writer))?;
    Ok(connection)
}

/// Waits for another program that writes; false when that has taken too long.
fn wait_for_writer(tries: i32) -> bool {
    thread::sleep(BUSY_INTERVAL);
    tries < BUSY_TRIES
}

fn load(connection: &Connection, location: &SqliteLocation) -> Result<()> {
    let failed = |source| Error::Sqlite { action: "load the cloudsync library", source };
    // SAFETY: no SQL of the file runs while extensions may be loaded.
    unsafe { connection.load_extension_enable() }.map_err(failed)?;
    // SAFETY: the operator names the library, and its entry point has the signature of an extension's.
    let loaded = unsafe { connection.load_extension(&location.extension, None::<&str>) };
    connection.load_extension_disable().map_err(failed)?;
    loaded.map_err(failed)
}
