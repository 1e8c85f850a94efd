//! Memory: an allocation that SQLite cannot make is an error and no more, whichever it is.

#[path = "support/faults.rs"]
mod faults;
#[path = "support/hub.rs"]
mod hub;
mod support;

use faults::Fault;
use hub::Hub;
use rusqlite::Connection;
use support::{encode, rows, run};

const SCHEMA: &str = "
create table notes (id text primary key, text text, n integer);
create table lines (note text references notes (id) on delete cascade, at integer, text text unique,
    primary key (note, at));
insert into notes values ('old', 'text', 0);";

/// A device before the call that is tried.
fn device(hub: &Hub, before: &str) -> Connection {
    let connection = Connection::open_in_memory().expect("memory is there");
    cloudsync::register_with(&connection, Box::new(hub.clone())).expect("functions register");
    run(&connection, SCHEMA);
    run(&connection, before);
    connection
}

const TRACKED: &str = "select cloudsync_init('notes'), cloudsync_init('lines');
    select cloudsync_network_init('http://hub/demo');
    pragma foreign_keys = on;
    insert into notes values ('own', 'mine', 1), ('3', 'mine', 3);
    insert into lines values ('own', 1, 'line 4');
    update notes set text = 'changed' where id = 'old';
    delete from notes where id = 'nobody';";

fn payload() -> Vec<u8> {
    let a = device(&Hub::default(), TRACKED);
    run(
        &a,
        "with recursive i(i) as (select 1 union all select i + 1 from i where i < 12)
             insert or replace into notes select i, 'peer', i from i;
         insert or replace into lines select id, n, 'line ' || n from notes where n > 1;
         delete from notes where n = 7;",
    );
    encode(&a, 0).expect("there are rows")
}

/// Makes each allocation of a call fail in turn; the call then fails or not, and works when it is made again.
fn check(before: &str, call: &str, payload: &[u8]) {
    let sql = format!("select {call}");
    let hub = Hub::default();
    let run_once = |connection: &Connection| {
        let parameters: &[&dyn rusqlite::ToSql] = if call.contains('?') { &[&payload] } else { &[] };
        connection.query_row(&sql, parameters, |_row| Ok(()))
    };
    let mut failed = 0;
    for is_lasting in [false, true] {
        let mut good = 0;
        loop {
            let connection = device(&hub, before);
            faults::after(good, Fault::Full, is_lasting);
            let outcome = run_once(&connection);
            let was_struck = faults::end();
            if let Err(error) = outcome {
                failed += 1;
                assert!(was_struck, "{call}: {error}");
                let error = error.to_string();
                assert!(!error.contains("panick"), "{call}, allocation {good}: {error}");
                assert_eq!(
                    rows(&connection, "pragma integrity_check", []),
                    "ok",
                    "{call}, allocation {good}"
                );
            }
            if !connection.is_autocommit() {
                // SQLite prepares nothing before the outermost statement has ended with SQLITE_NOMEM, so
                // what was made void meanwhile cannot be undone from inside of it: docs/embedding.md says so.
                assert!(!call.starts_with("cloudsync_payload_encode"), "{call}, allocation {good}");
                run(&connection, "rollback");
            }
            run_once(&connection).unwrap_or_else(|error| panic!("{call}, allocation {good}: {error}"));
            if !was_struck {
                break;
            }
            // Nearly all of the first ones, then fewer: a call makes thousands of alike allocations.
            good += 1 + good / 20;
        }
    }
    assert!(failed > 10, "{call}: {failed} calls failed");
}

#[test]
fn an_allocation_that_fails_is_an_error_and_no_more() {
    faults::install_allocator();
    let payload = payload();
    check("", "cloudsync_init('notes')", &payload);
    check(TRACKED, "cloudsync_payload_encode(0)", &payload);
    check(TRACKED, "cloudsync_payload_apply(?1)", &payload);
    check(TRACKED, "cloudsync_network_sync()", &payload);
    check(TRACKED, "cloudsync_cleanup('notes')", &payload);
    check(TRACKED, "cloudsync_siteid()", &payload);
    check(TRACKED, "cloudsync_db_version()", &payload);
}
