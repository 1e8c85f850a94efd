//! One site, several files: copies, restored backups, two processes, and transactions that never happened.

mod support;

use rusqlite::Connection;
use support::script::{Script, client};
use support::{TODOS, apply, encode, open, rows, run};

const RECEIVE: &str = "select cloudsync_network_receive_changes()";

fn hand(script: &Script, source: &str, frames: Vec<u8>) {
    let part = if source == "snapshot" { "0" } else { "-" };
    let headers = [
        ("cloudsync-complete", "true"),
        ("cloudsync-cursor", "c"),
        ("cloudsync-source", source),
        ("cloudsync-part", part),
    ];
    script.answer(200, &headers, frames);
}

/// What a file's own site wrote comes back to a file that is as the given SQL leaves it.
fn check(before: &str, after: &str, expected: &str) {
    for source in ["log", "snapshot"] {
        let (a, script) = client();
        run(&a, before);
        let own = encode(&a, 0).expect("rows");
        run(&a, after);
        hand(&script, source, own);
        rows(&a, RECEIVE, []);
        assert_eq!(rows(&a, "select * from todos order by id", []), expected, "{source}");
    }
}

/// As in a file that was restored from before anything was written, or in a copy from then that only reads.
const FORGET: &str = "delete from todos; delete from todos_cloudsync; delete from cloudsync_log;
    delete from cloudsync_settings where key = 'folded'";

#[test]
fn what_this_site_wrote_in_another_file_is_taken() {
    check("insert into todos values ('1', 'milk', 0)", FORGET, "1 | milk | 0");
}

#[test]
fn what_this_site_wrote_in_this_file_stays_as_it_is() {
    check(
        "insert into todos values ('1', 'milk', 0), ('2', 'bread', 0)",
        "update todos set title = 'later' where id = '1'; delete from todos where id = '2'",
        "1 | later | 0",
    );
}

#[test]
fn an_export_inside_a_transaction_that_is_rolled_back_harms_nobody() {
    let [a, b] = [open(), open()];
    for connection in [&a, &b] {
        run(connection, TODOS);
        rows(connection, "select cloudsync_init('todos')", []);
    }
    run(&a, "insert into todos values ('1', 'stays', 0); begin; insert into todos values ('2', 'never', 0)");
    run(&a, "update todos set title = 'never' where id = '1'");
    let given_away = encode(&a, 0);
    run(&a, "rollback; update todos set done = 7 where id = '1'; insert into todos values ('3', 'later', 0)");
    for payload in [given_away, encode(&a, 0)] {
        apply(&b, payload.as_deref()).expect("it is a payload");
    }
    apply(&a, encode(&b, 0).as_deref()).expect("it is a payload");
    let all = "select * from todos order by id";
    assert_eq!(rows(&a, all, []), rows(&b, all, []));
    assert_eq!(rows(&a, "select id from todos order by id", []), "1; 2; 3");
}

#[test]
fn a_network_function_inside_a_transaction_is_refused_and_stores_nothing() {
    let (a, script) = client();
    run(&a, "begin; insert into todos values ('1', 'milk', 0)");
    let call = a.query_row("select cloudsync_network_sync()", [], |row| row.get::<_, String>(0));
    let error = call.expect_err("no transaction may be open").to_string();
    assert!(error.contains("inside an open transaction"), "{error}");
    run(&a, "rollback");
    assert_eq!(rows(&a, "select count(*) from cloudsync_outbox", []), "0");
    assert!(script.seen().is_empty(), "nothing was sent");
}

/// Unix milliseconds of this device.
fn now(connection: &Connection) -> i64 {
    let sql = "select cast((julianday('now') - 2440587.5) * 86400000.0 as integer)";
    rows(connection, sql, []).parse().expect("a number")
}

const YEAR_MS: i64 = 365 * 24 * 3_600_000;

#[test]
fn the_time_is_asked_for_before_the_first_stamp() {
    for years in [-5, 5] {
        let (a, script) = client();
        run(&a, "delete from cloudsync_settings where key = 'clock_offset_ms'");
        run(&a, "insert into todos values ('1', 'milk', 0)");
        let server_ms = now(&a) + years * YEAR_MS;
        script.answer(405, &[("cloudsync-time", &server_ms.to_string())], "");
        script.accept(1, 1, "");
        rows(&a, "select cloudsync_network_send_changes()", []);
        let hlc: i64 = rows(&a, "select hlc from todos_cloudsync", []).parse().expect("a number");
        assert!(((hlc >> 16) - server_ms).abs() < 60_000, "{hlc} is near {server_ms}");
        assert_eq!(script.seen().len(), 2);
    }
}

#[test]
fn stamps_of_a_server_that_was_a_day_ahead_hold_nobody_up() {
    let (a, script) = client();
    let day_ms = 24 * 3_600_000;
    let (server_ms, accepted) = (now(&a), (now(&a) + day_ms) << 16);
    run(&a, &format!("update cloudsync_settings set value = {day_ms} where key = 'clock_offset_ms'"));
    run(&a, "insert into todos values ('1', 'milk', 0)");
    let body = format!(r#"{{"code":"clock_ahead","accepted_hlc":{accepted},"server_time_ms":{server_ms}}}"#);
    script.answer(409, &[("cloudsync-time", &server_ms.to_string())], body);
    script.accept(1, 1, "");
    rows(&a, "select cloudsync_network_send_changes()", []);
    let hlc: i64 = rows(&a, "select hlc from todos_cloudsync", []).parse().expect("a number");
    assert!((hlc >> 16) < server_ms + 60_000, "{hlc} is not ahead of {server_ms}");
}

#[test]
fn the_place_up_to_which_everything_is_here_is_told_with_every_request() {
    let (a, script) = client();
    hand(&script, "log", Vec::new());
    rows(&a, RECEIVE, []);
    run(&a, "insert into todos values ('1', 'milk', 0)");
    script.accept(1, 1, "");
    rows(&a, "select cloudsync_network_send_changes()", []);
    let seen = script.seen();
    let told: Vec<&str> = seen.iter().map(|request| request.header("Cloudsync-Acknowledged")).collect();
    assert_eq!(told, ["", "c"]);
}
