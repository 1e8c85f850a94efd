//! Replicas in memory that take steps written as text, for tests that are data.

#![allow(dead_code, reason = "each test file uses a part of it")]

pub(crate) mod captured;
pub(crate) mod random;
pub(crate) mod script;

use std::collections::BTreeMap;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Params};

/// One table that most tests share.
pub(crate) const TODOS: &str = "create table todos (id text primary key, title text, done integer default 0)";

/// Replicas by name, made when a step first names them.
pub(crate) struct World {
    schema: String,
    tables: Vec<String>,
    setup: String,
    replicas: BTreeMap<String, Connection>,
}

/// Opens a file in memory with the functions registered.
pub(crate) fn open() -> Connection {
    let connection = Connection::open_in_memory().expect("memory is there");
    cloudsync::register(&connection).expect("functions register");
    connection
}

/// Every row of a query, columns joined by ` | `, rows by `; `.
pub(crate) fn rows(connection: &Connection, sql: &str, params: impl Params) -> String {
    let mut statement = connection.prepare(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    let width = statement.column_count();
    let mut rows = statement.query(params).unwrap_or_else(|error| panic!("{sql}: {error}"));
    let mut lines = Vec::new();
    while let Some(row) = rows.next().unwrap_or_else(|error| panic!("{sql}: {error}")) {
        let cells: Vec<String> = (0..width).map(|at| cell(row.get_ref(at).expect("a column"))).collect();
        lines.push(cells.join(" | "));
    }
    lines.join("; ")
}

/// A value as the tests show it.
pub(crate) fn cell(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => String::from("NULL"),
        ValueRef::Integer(v) => v.to_string(),
        ValueRef::Real(v) => format!("{v:?}"),
        ValueRef::Text(v) => String::from_utf8_lossy(v).into_owned(),
        ValueRef::Blob(v) => v.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

/// Runs SQL that has to work.
pub(crate) fn run(connection: &Connection, sql: &str) {
    connection.execute_batch(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// Everything that a file knows, as a payload.
pub(crate) fn encode(connection: &Connection, since: i64) -> Option<Vec<u8>> {
    let sql = "select cloudsync_payload_encode(?1)";
    connection.query_row(sql, [since], |row| row.get(0)).expect("encode works")
}

/// Applies a payload; the number of rows that changed, or the error.
pub(crate) fn apply(connection: &Connection, payload: Option<&[u8]>) -> Result<i64, String> {
    let sql = "select cloudsync_payload_apply(?1)";
    connection.query_row(sql, [payload], |row| row.get(0)).map_err(|error| error.to_string())
}

impl World {
    /// Replicas that all begin with this schema and track the tables it creates.
    pub(crate) fn new(schema: &str) -> Self {
        let tables = schema
            .split(';')
            .filter_map(|statement| statement.trim().strip_prefix("create table "))
            .map(|rest| rest.split([' ', '(']).next().expect("a name").trim_matches('"').to_owned())
            .collect();
        Self { schema: schema.to_owned(), tables, setup: String::new(), replicas: BTreeMap::new() }
    }

    /// The same, with SQL that every replica runs once its tables are tracked.
    pub(crate) fn with_setup(schema: &str, setup: &str) -> Self {
        Self { setup: setup.to_owned(), ..Self::new(schema) }
    }

    /// A replica, made with the schema and tracked tables when it is new.
    pub(crate) fn replica(&mut self, name: &str) -> &Connection {
        if !self.replicas.contains_key(name) {
            let connection = open();
            run(&connection, &self.schema);
            for table in &self.tables {
                connection
                    .query_row("select cloudsync_init(?1, 'cls', 1)", [table], |_row| Ok(()))
                    .expect("init works");
            }
            run(&connection, &self.setup);
            self.replicas.insert(name.to_owned(), connection);
        }
        &self.replicas[name]
    }

    /// Takes one step: `a: sql`, `a -> b` or `a <-> b`.
    pub(crate) fn step(&mut self, step: &str) {
        if let Some((name, sql)) = step.split_once(": ") {
            run(self.replica(name), sql);
        } else if let Some((one, other)) = step.split_once(" <-> ") {
            self.send(one, other);
            self.send(other, one);
        } else if let Some((from, to)) = step.split_once(" -> ") {
            self.send(from, to);
        } else {
            panic!("unknown step {step:?}");
        }
    }

    fn send(&mut self, from: &str, to: &str) {
        let payload = encode(self.replica(from), 0);
        apply(self.replica(to), payload.as_deref()).expect("apply works");
    }

    /// Takes all steps.
    pub(crate) fn steps(&mut self, steps: &[&str]) {
        steps.iter().for_each(|step| self.step(step));
    }

    /// Names of the replicas so far.
    pub(crate) fn names(&self) -> Vec<String> {
        self.replicas.keys().cloned().collect()
    }
}
