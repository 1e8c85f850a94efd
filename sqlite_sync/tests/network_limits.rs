//! A server that takes no more for now: the client waits as it is told, and what it cannot send it keeps.

mod support;

use std::time::Duration;

use rusqlite::Connection;
use support::script::{Script, client};
use support::{rows, run};

const SYNC: &str = "select cloudsync_network_sync()";
const THROTTLED: &str = r#"{"code":"too_many_requests","title":"busy","detail":"later","limit":"requests"}"#;

/// A client that has synced before, with a row that was not sent.
fn unsent() -> (Connection, Script) {
    let (a, script) = client();
    run(&a, "insert into cloudsync_settings (key, value) values ('cursor', 'there')");
    run(&a, "insert into todos values ('1', 'milk', 0)");
    (a, script)
}

/// What a call fails with.
fn error(connection: &Connection, sql: &str) -> String {
    connection.query_row(sql, [], |_row| Ok(())).expect_err("it is refused").to_string()
}

/// Checks how long the client waited: as it was told, and up to a quarter more so that not all come at once.
#[track_caller]
fn check_paused(script: &Script, told: &[u64]) {
    let paused = std::mem::take(&mut *script.paused.lock().expect("no panic held it"));
    let told: Vec<Duration> = told.iter().map(|seconds| Duration::from_secs(*seconds)).collect();
    let is_as_told = |(wait, told): (&Duration, &Duration)| told <= wait && *wait < *told * 5 / 4;
    assert!(paused.len() == told.len() && paused.iter().zip(&told).all(is_as_told), "{paused:?}, {told:?}");
}

fn throttle(script: &Script, seconds: &str) {
    script.answer(429, &[("retry-after", seconds)], THROTTLED);
}

fn nothing_new(script: &Script) {
    script.answer(204, &[("cloudsync-cursor", "here"), ("cloudsync-complete", "true")], "");
}

#[test]
fn a_throttled_client_waits_as_told_and_sends_the_same_again() {
    let (a, script) = unsent();
    throttle(&script, "2");
    throttle(&script, "1");
    script.accept(1, 1, "");
    throttle(&script, "3");
    nothing_new(&script);
    rows(&a, SYNC, []);
    check_paused(&script, &[2, 1, 3]);
    let seen = script.seen();
    assert_eq!(seen.len(), 5);
    let upload = |place: usize| (seen[place].header("Cloudsync-Upload"), &seen[place].body);
    assert_eq!((upload(0), upload(1)), (upload(1), upload(2)));
    assert_eq!(rows(&a, "select cloudsync_network_has_unsent_changes()", []), "0");
}

#[test]
fn a_client_does_not_wait_for_ever_and_keeps_what_it_has() {
    let (a, script) = unsent();
    for _ in 0..3 {
        throttle(&script, "20");
    }
    let found = error(&a, SYNC);
    assert!(found.contains("429 too_many_requests"), "{found}");
    // The third would be beyond a minute.
    check_paused(&script, &[20, 20]);
    // One that says nothing of when, or a day from now, is not waited for at all.
    throttle(&script, "86400");
    error(&a, SYNC);
    throttle(&script, "Wed, 21 Oct 2026 07:28:00 GMT");
    error(&a, SYNC);
    // Neither is whoever shows wrong keys.
    script.answer(429, &[("retry-after", "3")], r#"{"code":"too_many_failures"}"#);
    error(&a, SYNC);
    check_paused(&script, &[]);
    assert_eq!(rows(&a, "select cloudsync_network_has_unsent_changes()", []), "1");
    script.accept(1, 1, "");
    nothing_new(&script);
    rows(&a, SYNC, []);
    assert_eq!(rows(&a, "select cloudsync_network_has_unsent_changes()", []), "0");
}

#[test]
fn an_interrupt_ends_the_wait() {
    let (a, script) = unsent();
    throttle(&script, "20");
    *script.interrupt.lock().expect("no panic held it") = Some(a.get_interrupt_handle());
    let found = error(&a, SYNC);
    assert!(found.contains("interrupted"), "{found}");
    assert_eq!(script.seen().len(), 1, "nothing more was asked");
}

#[test]
fn a_full_server_still_gives_what_it_has() {
    let (a, script) = unsent();
    script.answer(
        507,
        &[("retry-after", "60")],
        r#"{"code":"storage_full","title":"full","detail":"5 bytes"}"#,
    );
    nothing_new(&script);
    let found = error(&a, SYNC);
    assert!(found.contains("507 storage_full: full: 5 bytes"), "{found}");
    let seen = script.seen();
    assert!(seen.len() == 2 && seen[1].line.contains("/changes"), "it asked for what is new: {seen:?}");
    check_paused(&script, &[]);
    assert_eq!(rows(&a, "select cloudsync_network_has_unsent_changes()", []), "1");
    let cursor = "select value from cloudsync_settings where key = 'cursor'";
    assert_eq!(rows(&a, cursor, []), "here");
}
