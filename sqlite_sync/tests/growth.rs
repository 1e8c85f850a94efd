//! A million operations on a file of bounded size need no more memory than the first ten thousand.

#[path = "support/faults.rs"]
mod faults;
#[path = "support/hub.rs"]
mod hub;
mod support;

use hub::Hub;
use rusqlite::Connection;
use support::{rows, run};

/// Operations: rows written, rows applied, calls of functions.
const OPERATIONS: usize = 1_000_000;

/// Rows that one round writes, and that another device takes.
const ROWS: usize = 2_000;

/// Operations of one round: three writes of each row, its export and its apply, and some calls.
const ROUND: usize = 5 * ROWS + CALLS;
const CALLS: usize = 1_000;

/// What may be added: blocks that the allocator keeps, and counters that grow by a digit.
const GROWTH_BYTES_MAX: i64 = 4 * 1024 * 1024;

fn device(hub: &Hub) -> Connection {
    let connection = Connection::open_in_memory().expect("memory is there");
    cloudsync::register_with(&connection, Box::new(hub.clone())).expect("functions register");
    run(&connection, "create table notes (id text primary key, text text, n integer)");
    rows(&connection, "select cloudsync_init('notes'), cloudsync_network_init('http://hub/demo')", []);
    connection
}

/// Bytes of this process that are in memory.
fn resident_bytes() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has a size");
    let kib: i64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kib * 1024
}

fn round(a: &Connection, b: &Connection, n: usize) {
    run(
        a,
        &format!(
            "begin;
             with recursive i(i) as (select 1 union all select i + 1 from i where i < {ROWS})
                 insert or replace into notes select 'n' || i, 'text {n}', i from i;
             update notes set text = text || n;
             update notes set n = n + {n};
             commit;"
        ),
    );
    let payload = support::encode(a, 0);
    support::apply(b, payload.as_deref()).expect("apply works");
    for device in [a, b] {
        rows(device, "select cloudsync_network_sync()", []);
    }
    let calls = format!(
        "with recursive i(i) as (select 1 union all select i + 1 from i where i < {})
         select count(cloudsync_uuid()), count(cloudsync_db_version()) from i",
        CALLS / 2
    );
    rows(a, &calls, []);
}

#[test]
fn a_million_operations_need_no_more_memory_than_ten_thousand() {
    let hub = Hub::forgetful();
    let (a, b) = (device(&hub), device(&hub));
    let rounds = OPERATIONS.div_ceil(ROUND);
    let mut before = (0, 0);
    for n in 0..rounds {
        round(&a, &b, n);
        if n == 9 {
            before = (faults::sqlite_bytes(), resident_bytes());
        }
    }
    let grown = (faults::sqlite_bytes() - before.0, resident_bytes() - before.1);
    assert!(grown.0 < GROWTH_BYTES_MAX, "SQLite holds {} bytes more", grown.0);
    assert!(grown.1 < GROWTH_BYTES_MAX, "the process holds {} bytes more", grown.1);
}
