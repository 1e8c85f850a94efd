//! Sessions with the centre, Postgres or a SQLite file: statements in, rows as text out.

use std::path::Path;
use std::sync::{Mutex, OnceLock};

use tokio::runtime::{Builder, Runtime};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use crate::client;

/// Stands for NULL where rows are shown as text, on all engines.
pub const NULL: &str = "NULL";

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime can be built")
    })
}

/// One connection to one centre.
pub struct Session {
    connection: Connection,
}

enum Connection {
    Postgres(Client),
    /// Behind a lock, so that a session can be shared as one with Postgres.
    File(Mutex<client::Client>),
}

impl Session {
    /// Connects, or says why it cannot.
    pub fn try_connect(url: &str) -> Result<Self, String> {
        runtime().block_on(async {
            let (client, connection) = tokio_postgres::connect(url, NoTls).await.map_err(|e| message(&e))?;
            tokio::spawn(connection);
            Ok(Self { connection: Connection::Postgres(client) })
        })
    }

    /// Opens a SQLite file, as any program does; a busy file is waited for.
    pub fn open(path: &Path) -> Self {
        let file = client::Client::open(path);
        file.run("pragma foreign_keys = on");
        file.wait_for_writers();
        Self { connection: Connection::File(Mutex::new(file)) }
    }

    /// The connection to Postgres; it panics where the centre is a file.
    fn postgres(&self) -> &Client {
        match &self.connection {
            Connection::Postgres(client) => client,
            Connection::File(_) => panic!("a SQLite file is no Postgres"),
        }
    }

    /// Connects.
    pub fn connect(url: &str) -> Self {
        Self::try_connect(url).unwrap_or_else(|error| panic!("cannot connect to Postgres: {error}"))
    }

    /// Runs statements and returns the rows of all of them, each as text with `|` between its columns.
    pub fn try_rows(&self, sql: &str) -> Result<Vec<String>, String> {
        let client = match &self.connection {
            Connection::Postgres(client) => client,
            Connection::File(file) => {
                return file.lock().expect("no statement panics").try_rows(sql);
            }
        };
        let answer = runtime().block_on(client.simple_query(sql)).map_err(|e| message(&e))?;
        let mut rows = Vec::new();
        for part in answer {
            if let SimpleQueryMessage::Row(row) = part {
                let cells: Vec<&str> = (0..row.len()).map(|column| row.get(column).unwrap_or(NULL)).collect();
                rows.push(cells.join("|"));
            }
        }
        Ok(rows)
    }

    /// Runs statements and returns their rows; it panics when one fails.
    #[track_caller]
    pub fn rows(&self, sql: &str) -> Vec<String> {
        self.try_rows(sql).unwrap_or_else(|error| panic!("centre: {error}\nin: {sql}"))
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

    /// Calls a function that takes and returns bytes, which the text protocol would have to escape.
    pub fn value_of_bytes(&self, sql: &str, bytes: &[u8]) -> Result<String, String> {
        let client = match &self.connection {
            Connection::Postgres(client) => client,
            Connection::File(file) => {
                return file.lock().expect("no statement panics").value_of_bytes(sql, bytes);
            }
        };
        let row = runtime().block_on(client.query_one(sql, &[&bytes])).map_err(|e| message(&e))?;
        row.try_get::<_, String>(0).map_err(|e| message(&e))
    }

    /// Streams rows in the text format of COPY into Postgres.
    #[track_caller]
    pub fn copy_in(&self, sql: &str, rows: &str) {
        runtime().block_on(async {
            use std::pin::pin;
            let sink =
                self.postgres().copy_in(sql).await.unwrap_or_else(|e| panic!("{sql}: {}", message(&e)));
            let mut sink = pin!(sink);
            let chunk = bytes::Bytes::copy_from_slice(rows.as_bytes());
            futures_util::SinkExt::send(&mut sink, chunk).await.expect("COPY takes rows");
            sink.as_mut().finish().await.unwrap_or_else(|e| panic!("{sql}: {}", message(&e)));
        });
    }
}

/// Renders an error with what the server said: the crate's own text is only `db error`.
fn message(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) => format!("{} ({})", db.message(), db.code().code()),
        None => error.to_string(),
    }
}
