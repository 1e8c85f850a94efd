//! Clients as apps are: SQLite files, the library loaded into them, plain SQL.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::fallible_iterator::FallibleIterator;
use rusqlite::types::ValueRef;

use crate::places;
use crate::sql::NULL;

/// An open SQLite file with the extension loaded.
#[derive(Debug)]
pub struct Client {
    connection: Connection,
    path: PathBuf,
}

impl Client {
    /// Opens a file, made when it is not there, and loads the extension.
    pub fn open(path: &Path) -> Self {
        let connection = Connection::open(path).expect("a SQLite file can be opened");
        load_extension(&connection, &places::artefact("sqlite/cloudsync.so"));
        Self { connection, path: path.to_path_buf() }
    }

    /// Lets the connection wait until other writers are done, however many there are: SQLite's own way of waiting
    /// sleeps so long between two tries that writers without a pause lock others out.
    pub fn wait_for_writers(&self) {
        fn wait(_tries: i32) -> bool {
            thread::sleep(Duration::from_micros(500));
            true
        }
        self.connection.busy_handler(Some(wait)).expect("a connection can wait");
    }

    /// Returns the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Tells the file where its hub is, and the key for it.
    #[track_caller]
    pub fn join(&self, address: &str, api_key: &str) {
        self.run(&format!("select cloudsync_network_init('{address}')"));
        self.run(&format!("select cloudsync_network_set_apikey('{api_key}')"));
    }

    /// Runs statements and returns the rows of all of them, each as text with `|` between its columns.
    pub fn try_rows(&self, sql: &str) -> Result<Vec<String>, String> {
        self.query(sql).map_err(|error| error.to_string())
    }

    fn query(&self, sql: &str) -> rusqlite::Result<Vec<String>> {
        let mut shown = Vec::new();
        let mut batch = rusqlite::Batch::new(&self.connection, sql);
        while let Some(mut statement) = batch.next()? {
            let columns = statement.column_count();
            let mut rows = statement.raw_query();
            while let Some(row) = rows.next()? {
                let cells = (0..columns).map(|column| row.get_ref(column).map(show));
                shown.push(cells.collect::<rusqlite::Result<Vec<_>>>()?.join("|"));
            }
        }
        Ok(shown)
    }

    /// Runs statements and returns their rows; it panics when one fails.
    #[track_caller]
    pub fn rows(&self, sql: &str) -> Vec<String> {
        self.try_rows(sql).unwrap_or_else(|error| panic!("SQLite: {error}\nin: {sql}"))
    }

    /// Runs statements; it panics when one fails.
    #[track_caller]
    pub fn run(&self, sql: &str) {
        self.rows(sql);
    }

    /// Runs a query of one row and one column.
    #[track_caller]
    pub fn value(&self, sql: &str) -> String {
        let mut rows = self.rows(sql);
        assert_eq!(rows.len(), 1, "one row is wanted of: {sql}");
        rows.remove(0)
    }

    /// Runs a query whose one value is bytes.
    #[track_caller]
    pub fn bytes(&self, sql: &str) -> Vec<u8> {
        self.connection
            .query_row(sql, [], |row| row.get(0))
            .unwrap_or_else(|error| panic!("SQLite: {error}\nin: {sql}"))
    }

    /// Hands bytes to a query of one row and one column.
    pub fn value_of_bytes(&self, sql: &str, bytes: &[u8]) -> Result<String, String> {
        self.connection
            .query_row(sql, [bytes], |row| row.get_ref(0).map(show))
            .map_err(|error| error.to_string())
    }

    /// Syncs once: sends what is unsent, then takes what is there; the answer is the function's JSON.
    pub fn try_sync(&self) -> Result<String, String> {
        self.try_rows("select cloudsync_network_sync()").map(|rows| rows.concat())
    }

    /// Syncs once; it panics when that fails.
    #[track_caller]
    pub fn sync(&self) -> String {
        self.try_sync().unwrap_or_else(|error| panic!("sync of {}: {error}", self.path.display()))
    }

    /// Syncs, waiting for news at the hub for a while when there are none.
    #[track_caller]
    pub fn sync_waiting(&self, wait_ms: u32) -> String {
        self.value(&format!("select cloudsync_network_sync({wait_ms}, 1)"))
    }
}

fn show(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => NULL.to_owned(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => format!("{number:?}"),
        ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
        ValueRef::Blob(bytes) => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

/// Loads a library into a connection; it panics when that fails.
#[allow(unsafe_code, reason = "loading a library is unsafe by nature, and it is what a test of it must do")]
pub fn load_extension(connection: &Connection, library: &Path) {
    // SAFETY: no SQL of the file runs while extensions may be loaded.
    unsafe { connection.load_extension_enable() }.expect("extensions can be allowed");
    // SAFETY: the library is our own artefact, or a peer's that is measured beside it.
    unsafe { connection.load_extension(library, None::<&str>) }
        .unwrap_or_else(|error| panic!("cannot load {}: {error}", library.display()));
    connection.load_extension_disable().expect("extensions can be forbidden");
}

/// Runs a script by the sqlite3 shell with the extension, on a device whose clock is off by `offset`, as in `+5y`.
pub fn device_with_clock(path: &Path, offset: &str, script: &str) -> String {
    let library = places::artefact("sqlite/cloudsync.so");
    let mut shell = shell();
    shell
        .env("LD_PRELOAD", places::faketime())
        .env("FAKETIME", offset)
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .args(["-cmd".into(), format!(".load {}", library.display())]);
    printed(shell.arg(path), script)
}

/// Runs a script by the sqlite3 shell, which knows nothing of us unless the script loads the extension.
pub fn sqlite3_shell(path: &Path, script: &str) -> String {
    printed(shell().arg(path), script)
}

fn shell() -> Command {
    let mut shell = Command::new("sqlite3");
    shell.args(["-batch", "-bail", "-nullvalue", NULL]);
    shell
}

fn printed(shell: &mut Command, script: &str) -> String {
    let output = shell.arg(script).output().expect("the sqlite3 shell can be started");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "sqlite3: {complaint}\nin: {script}");
    String::from_utf8(output.stdout).expect("sqlite3 prints UTF-8")
}
