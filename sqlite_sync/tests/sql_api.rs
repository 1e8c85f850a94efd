//! `docs/sql-api.md` names everything that the extension adds to SQLite, and what it shows is what happens.

#[path = "support/hub.rs"]
mod hub;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use hub::Hub;
use rusqlite::Connection;
use support::{TODOS, open, rows, run};

fn document() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/sql-api.md");
    std::fs::read_to_string(path).expect("the reference is there")
}

/// What a query lists on a connection with the extension and not on one without.
fn added(sql: &str) -> BTreeSet<String> {
    let lines = |connection: &Connection| -> BTreeSet<String> {
        rows(connection, sql, []).split("; ").map(String::from).collect()
    };
    let plain = Connection::open_in_memory().expect("memory is there");
    lines(&open()).difference(&lines(&plain)).cloned().collect()
}

/// Argument counts that a heading like `name(a [, b [, c]])` or `name(a, b...)` allows.
fn counts(heading: &str) -> Option<(String, BTreeSet<i64>)> {
    let (name, arguments) = heading.trim_end().strip_suffix(')')?.split_once('(')?;
    if arguments.contains("...") {
        return Some((name.to_owned(), BTreeSet::from([-1])));
    }
    let count = |text: &str| {
        let named = |part: &&str| part.chars().any(char::is_alphanumeric);
        i64::try_from(text.split(',').filter(named).count()).expect("few arguments")
    };
    let required = arguments.split('[').next().unwrap_or("");
    Some((name.to_owned(), (count(required)..=count(arguments)).collect()))
}

#[test]
fn every_function_is_described_with_its_arguments() {
    let mut described: BTreeMap<String, BTreeSet<i64>> = BTreeMap::new();
    for heading in document().lines().filter_map(|line| line.strip_prefix("### ")) {
        let (name, counts) = counts(heading).unwrap_or_else(|| panic!("{heading}: not a function"));
        described.entry(name).or_default().extend(counts);
    }
    let mut registered: BTreeMap<String, BTreeSet<i64>> = BTreeMap::new();
    for line in added("select distinct name, narg from pragma_function_list") {
        let (name, count) = line.split_once(" | ").expect("two columns");
        registered.entry(name.to_owned()).or_default().insert(count.parse().expect("a number"));
    }
    assert_eq!(described, registered);
}

#[test]
fn every_table_is_described() {
    let document = document();
    for module in added("select name from pragma_module_list") {
        assert!(document.contains(&format!("\n## {module}")), "{module}");
    }
    let connection = open();
    run(&connection, TODOS);
    rows(&connection, "select cloudsync_init('todos')", []);
    let tables = "select name from sqlite_schema where type = 'table' and name like '%cloudsync%'";
    for table in rows(&connection, tables, []).split("; ") {
        let name = if table == "todos_cloudsync" { "<table>_cloudsync" } else { table };
        assert!(document.contains(&format!("`{name}`")), "{name}");
    }
}

/// A statement of an example with what it shows.
struct Example {
    line: usize,
    sql: String,
    shown: Vec<String>,
}

fn examples(document: &str) -> Vec<Example> {
    let mut examples: Vec<Example> = Vec::new();
    let mut is_sql = false;
    let mut is_open = false;
    for (at, line) in document.lines().enumerate() {
        if line.starts_with("```") {
            is_sql = line == "```sql";
        } else if is_sql && line.starts_with("-- ") {
            let example = examples.last_mut().filter(|_| !is_open).expect("a result follows a statement");
            example.shown.push(line.to_owned());
        } else if is_sql {
            if !is_open {
                examples.push(Example { line: at + 1, sql: String::new(), shown: Vec::new() });
            }
            let sql = &mut examples.last_mut().expect("one was pushed").sql;
            sql.push_str(line);
            sql.push('\n');
            is_open = !line.ends_with(';');
        }
    }
    examples
}

/// What a statement shows: its rows, or its error.
fn show(connection: &Connection, sql: &str) -> Vec<String> {
    let mut shown = Vec::new();
    let mut run = || -> rusqlite::Result<()> {
        let mut statement = connection.prepare(sql)?;
        let width = statement.column_count();
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let cells: rusqlite::Result<Vec<String>> =
                (0..width).map(|at| Ok(support::cell(row.get_ref(at)?))).collect();
            shown.push(format!("-- => {}", cells?.join(" | ")));
        }
        Ok(())
    };
    match run() {
        Ok(()) => shown,
        Err(error) => vec![format!("-- !! {}", error.to_string().trim_start_matches("cloudsync: "))],
    }
}

#[test]
fn every_example_shows_what_happens() {
    let examples = examples(&document());
    assert!(examples.len() > 50, "the reference has examples");
    let directory = tempfile::tempdir().expect("a directory");
    let connection = Connection::open(directory.path().join("example.sqlite")).expect("it opens");
    cloudsync::register_with(&connection, Box::new(Hub::default())).expect("functions register");
    let place = directory.path().join("todos.payload");
    for Example { line, sql, shown } in examples {
        let sql = sql.replace("todos.payload", place.to_str().expect("UTF-8"));
        assert_eq!(show(&connection, &sql), shown, "docs/sql-api.md, line {line}: {sql}");
    }
}
