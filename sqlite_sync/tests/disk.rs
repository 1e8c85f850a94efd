//! A disk that fails or is full at any one operation is an error; after it the file is whole and the same
//! call, made again, has the same result as one that nothing disturbed.

#[path = "support/faults.rs"]
mod faults;
#[path = "support/hub.rs"]
mod hub;
mod support;

use std::path::Path;

use faults::Fault;
use hub::Hub;
use rusqlite::Connection;
use support::{encode, rows, run};

const SCHEMA: &str = "
create table if not exists notes (id text primary key, text text, n integer);
create table if not exists lines (note text references notes (id) on delete cascade, at integer, text text unique,
    primary key (note, at));";

fn open(path: &Path, hub: &Hub) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    cloudsync::register_with(&connection, Box::new(hub.clone()))?;
    connection.execute_batch("pragma cache_size = 5; pragma foreign_keys = on; pragma synchronous = off")?;
    connection.execute_batch(SCHEMA)?;
    for call in
        ["cloudsync_init('notes')", "cloudsync_init('lines')", "cloudsync_network_init('http://hub/demo')"]
    {
        connection.query_row(&format!("select {call}"), [], |_row| Ok(()))?;
    }
    Ok(connection)
}

/// Rows that another device wrote, more than the page cache holds.
fn payload() -> Vec<u8> {
    let a = support::open();
    run(&a, SCHEMA);
    rows(&a, "select cloudsync_init('notes'), cloudsync_init('lines')", []);
    run(
        &a,
        "with recursive i(i) as (select 1 union all select i + 1 from i where i < 60)
             insert into notes select 'peer-' || i, hex(zeroblob(150)), i from i;
         insert into lines select id, n, 'line ' || n from notes;
         delete from notes where n % 7 = 0;",
    );
    encode(&a, 0).expect("there are rows")
}

/// Everything that a device does with its file, from the first start on.
fn work(path: &Path, hub: &Hub, payload: &[u8]) -> rusqlite::Result<()> {
    let connection = open(path, hub)?;
    connection.execute_batch(
        "insert into notes values ('own', 'mine', 1), ('peer-3', 'mine', 3)
             on conflict do update set text = excluded.text;
         insert or replace into lines values ('own', 1, 'my line')",
    )?;
    connection.query_row("select cloudsync_payload_apply(?1)", [payload], |_row| Ok(()))?;
    connection.execute_batch("update notes set text = 'changed' where n % 3 = 1")?;
    for call in [
        "cloudsync_network_sync()",
        "cloudsync_payload_encode(0)",
        "cloudsync_db_version()",
        "cloudsync_cleanup('lines')",
        "cloudsync_init('lines')",
    ] {
        connection.query_row(&format!("select {call}"), [], |_row| Ok(()))?;
    }
    Ok(())
}

/// What the file holds in the end, stamps aside.
fn contents(path: &Path) -> String {
    let connection = Connection::open(path).expect("the file opens");
    let check = rows(&connection, "pragma integrity_check", []);
    let notes = rows(&connection, "select * from notes order by id", []);
    let lines = rows(&connection, "select * from lines order by note, at", []);
    let own = rows(&connection, "select name from sqlite_schema order by name", []);
    format!("{check}; {notes}; {lines}; {own}")
}

/// Lets every `step`-th operation fail once, and then all from it on.
fn check(fault: Fault, mode: &str, step: usize) {
    faults::install();
    let payload = payload();
    let prepare = |path: &Path| {
        let connection = Connection::open(path).expect("the file opens");
        rows(&connection, &format!("pragma journal_mode = {mode}"), []);
    };
    let undisturbed = {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("app.db");
        prepare(&path);
        work(&path, &Hub::default(), &payload).expect("nothing disturbs it");
        contents(&path)
    };
    let mut failed = 0;
    for is_lasting in [false, true] {
        for good in (0..).step_by(step) {
            let dir = tempfile::tempdir().expect("a directory");
            let path = dir.path().join("app.db");
            prepare(&path);
            let hub = Hub::default();
            faults::after(good, fault, is_lasting);
            let outcome = work(&path, &hub, &payload);
            let was_struck = faults::end();
            if let Err(error) = outcome {
                let error = error.to_string();
                assert!(was_struck, "{error}");
                assert!(!error.contains("panick") && !error.contains("internal"), "{good}: {error}");
                failed += 1;
                let connection = Connection::open(&path).expect("the file opens");
                assert_eq!(rows(&connection, "pragma integrity_check", []), "ok", "{good}: {error}");
            }
            work(&path, &hub, &payload).unwrap_or_else(|error| panic!("{fault:?} after {good}: {error}"));
            let found = contents(&path);
            let differs = found.split("; ").zip(undisturbed.split("; ")).find(|(one, other)| one != other);
            assert!(found == undisturbed, "{fault:?} after {good}: {differs:?}");
            if !was_struck {
                break;
            }
        }
    }
    assert!(failed > 20, "{failed} calls failed");
}

#[test]
fn a_disk_that_fails_is_an_error_and_no_more() {
    check(Fault::InputOutput, "delete", 61);
    check(Fault::InputOutput, "wal", 53);
    check(Fault::Full, "delete", 31);
    check(Fault::Full, "wal", 29);
}
