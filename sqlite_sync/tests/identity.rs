//! One site, several files: copies, restored backups, two processes, and transactions that never happened.

mod support;

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
