//! What is measured: SQLite alone, our library, a peer's. Knows the SQL that differs between them.

use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use tests::{client, places};

use crate::rows::DDL;

/// One thing that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// SQLite without any extension.
    Plain,
    /// The library of `make dist`.
    Ours,
    /// `cloudsync` of npm's `@sqliteai/sqlite-sync-linux-x86_64`.
    Peer,
}

impl Subject {
    pub(crate) const ALL: [Self; 3] = [Self::Plain, Self::Ours, Self::Peer];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Ours => "ours",
            Self::Peer => "peer",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|subject| subject.name() == name)
    }

    /// The library that is loaded; None for SQLite alone and for a peer that is not installed.
    pub(crate) fn library(self) -> Option<PathBuf> {
        match self {
            Self::Plain => None,
            Self::Ours => Some(places::artefact("sqlite/cloudsync.so")),
            Self::Peer => {
                let modules = places::tools().join("peers/node_modules");
                Some(modules.join("@sqliteai/sqlite-sync-linux-x86_64/cloudsync.so")).filter(|so| so.exists())
            }
        }
    }

    /// Whether the subject syncs at all.
    pub(crate) fn syncs(self) -> bool {
        self != Self::Plain
    }

    /// Opens a file as an app does.
    pub(crate) fn open(self, path: &Path) -> Connection {
        let connection = Connection::open(path).expect("a SQLite file can be opened");
        connection
            .execute_batch("pragma journal_mode = wal; pragma synchronous = normal")
            .expect("the journal can be set");
        if let Some(library) = self.library() {
            client::load_extension(&connection, &library);
        }
        connection
    }

    /// Opens a new file with the empty table, tracked.
    pub(crate) fn fresh(self, path: &Path) -> Connection {
        remove(path);
        let connection = self.open(path);
        connection.execute_batch(DDL).expect("the table can be made");
        self.init(&connection);
        connection
    }

    pub(crate) fn init(self, connection: &Connection) {
        if self.syncs() {
            run(connection, "select cloudsync_init('item')");
        }
    }

    /// Everything since a number as payload bytes.
    pub(crate) fn encode(self, connection: &Connection, since: i64) -> Vec<u8> {
        let sql = match self {
            Self::Ours | Self::Plain => "select cloudsync_payload_encode(?1)",
            Self::Peer => {
                "select cloudsync_payload_encode(
                     tbl, pk, col_name, col_value, col_version, db_version, site_id, cl, seq)
                 from cloudsync_changes where db_version > ?1"
            }
        };
        connection.query_row(sql, [since], |row| row.get(0)).expect("a payload can be made")
    }

    pub(crate) fn apply(connection: &Connection, payload: &[u8]) {
        connection
            .query_row("select cloudsync_payload_apply(?1)", [payload], |_row| Ok(()))
            .expect("a payload can be applied");
    }

    pub(crate) fn db_version(connection: &Connection) -> i64 {
        connection
            .query_row("select cloudsync_db_version()", [], |row| row.get(0))
            .expect("there is a number")
    }

    /// Adds a column and lets the library know, in the way that its documentation gives.
    pub(crate) fn add_column(self, connection: &Connection) {
        let add = "alter table item add column extra text";
        match self {
            Self::Plain => run(connection, add),
            // Nobody tells it; a call that reads the table notices.
            Self::Ours => {
                run(connection, add);
                run(connection, "select cloudsync_payload_encode(cloudsync_db_version())");
            }
            Self::Peer => {
                run(connection, "select cloudsync_begin_alter('item')");
                run(connection, add);
                run(connection, "select cloudsync_commit_alter('item')");
            }
        }
    }

    /// Ends the library's work on a connection, so that it can be closed.
    pub(crate) fn close(self, connection: Connection) {
        if self.syncs() {
            run(&connection, "select cloudsync_terminate()");
        }
        connection.close().map_err(|(_, error)| error).expect("a connection can be closed");
    }
}

/// Runs one statement to its end.
pub(crate) fn run(connection: &Connection, sql: &str) {
    let mut statement = connection.prepare(sql).expect("the statement is right");
    let mut rows = statement.raw_query();
    while rows.next().expect("the statement runs").is_some() {}
}

/// Removes a SQLite file with what lies beside it.
pub(crate) fn remove(path: &Path) {
    for end in ["", "-wal", "-shm", "-journal"] {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        // A file that is not there is what is wanted.
        drop(fs::remove_file(name));
    }
}
