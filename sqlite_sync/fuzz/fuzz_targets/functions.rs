//! Feeds bytes to every other SQL function that takes a BLOB, by its arguments: the aggregate that puts
//! payloads together, keys to explain, UUIDs.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rusqlite::params;

thread_local! {
    static REPLICA: rusqlite::Connection = replica::open();
}

/// Statements with one parameter. Each may fail, none may panic, and what is encoded can be read.
const CALLS: [&str; 8] = [
    "select cloudsync_payload_encode('lists', ?1, 'title', 'x', 1, 1, zeroblob(16), 1, 0)",
    "select cloudsync_payload_encode('todos', ?1, 'title', ?1, 1, 1, zeroblob(16), 1, 0)",
    "select cloudsync_payload_encode('numbers', ?1, 'v', ?1, -1, 1, zeroblob(16), 2, 0)",
    "select cloudsync_payload_encode('lists', pk, 'title', ?1, 1, 1, ?1, 1, 0) from cloudsync_changes limit 1",
    "select cloudsync_explain('lists', ?1)",
    "select cloudsync_explain('todos', ?1, ?1)",
    "select cloudsync_uuid_text(?1)",
    "select cloudsync_uuid_blob(cast(?1 as text))",
];

fuzz_target!(|bytes: &[u8]| {
    REPLICA.with(|connection| {
        for sql in CALLS {
            let mut statement = connection.prepare_cached(sql).expect("the statement is right");
            let result = statement.query_row(params![bytes], |row| row.get::<_, rusqlite::types::Value>(0));
            if sql.contains("encode")
                && let Ok(rusqlite::types::Value::Blob(payload)) = result
            {
                drop(statement);
                replica::apply_and_undo(connection, &payload, false);
            }
        }
    });
});
