//! What a file says of itself: status, explain, UUIDs.

mod support;

use rusqlite::Connection;
use support::{TODOS, apply, encode, open, rows, run};

fn tracked() -> Connection {
    let connection = open();
    run(&connection, TODOS);
    rows(&connection, "select cloudsync_init('todos')", []);
    connection
}

/// Parts of a JSON result, by paths of SQLite's own.
fn check(connection: &Connection, json: &str, paths: &[(&str, &str)]) {
    for (path, expected) in paths {
        let found = rows(connection, &format!("select json_extract({json}, '{path}')"), []);
        assert_eq!(found, *expected, "{json} {path}");
    }
}

#[test]
fn uuids_go_between_text_and_bytes() {
    let a = open();
    let uuid = "0189f7e2-7c3a-7d52-8c1e-001122334455";
    assert_eq!(rows(&a, "select cloudsync_uuid_blob(?1)", [uuid]), uuid.replace('-', ""));
    assert_eq!(rows(&a, "select cloudsync_uuid_blob(?1)", [uuid.replace('-', "")]), uuid.replace('-', ""));
    assert_eq!(rows(&a, "select cloudsync_uuid_text(cloudsync_uuid_blob(?1))", [uuid]), uuid);
    assert_eq!(
        rows(&a, "select cloudsync_uuid_text(cloudsync_uuid_blob(?1), 0)", [uuid]),
        uuid.replace('-', "")
    );
    assert_eq!(rows(&a, "select cloudsync_uuid_blob(null), cloudsync_uuid_text(null)", []), "NULL | NULL");
    for (call, expected) in [
        (
            "cloudsync_uuid_blob('zz')",
            "cloudsync_uuid_blob: argument 1 is text of 2 bytes, wanted a UUID: 32 hexadecimal digits, or 36 characters with hyphens",
        ),
        (
            "cloudsync_uuid_blob('+189f7e27c3a7d528c1e00112233445é')",
            "cloudsync_uuid_blob: argument 1 is text of 33 bytes, wanted a UUID: 32 hexadecimal digits, or 36 characters with hyphens",
        ),
        (
            "cloudsync_uuid_text('x')",
            "cloudsync_uuid_text: argument 1 is text of 1 bytes, wanted a blob of 16 bytes",
        ),
        ("cloudsync_explain()", "cloudsync_explain: argument 1 is missing, wanted a table and a row key"),
        (
            "cloudsync_explain('todos', 1)",
            "no table of this file is tracked, call cloudsync_init(table) first",
        ),
    ] {
        let error = a.query_row(&format!("select {call}"), [], |_row| Ok(())).expect_err(call).to_string();
        assert_eq!(error, format!("cloudsync: {expected}"));
    }
}

#[test]
fn the_status_counts_what_the_file_holds() {
    check(&open(), "cloudsync_status()", &[("$.siteId", "NULL"), ("$.tables", "[]")]);
    let a = tracked();
    run(&a, "insert into todos values ('1', 'milk', 0), ('2', 'bread', 0)");
    check(
        &a,
        "cloudsync_status()",
        &[
            ("$.newest", "2"),
            ("$.folded", "0"),
            ("$.acknowledged", "0"),
            ("$.unsent", "2"),
            ("$.tables[0].metadata", "0"),
        ],
    );
    encode(&a, 0);
    run(&a, "delete from todos where id = '2'");
    encode(&a, 0);
    run(&a, "select cloudsync_disable('todos'); insert into todos values ('3', 'salt', 0)");
    assert_eq!(
        rows(&a, "select cloudsync_status() ->> '$.siteId' = lower(hex(cloudsync_siteid()))", []),
        "1"
    );
    check(
        &a,
        "cloudsync_status()",
        &[
            ("$.newest", "3"),
            ("$.folded", "3"),
            ("$.unsent", "0"),
            ("$.tables[0].name", "todos"),
            ("$.tables[0].algorithm", "cls"),
            ("$.tables[0].enabled", "0"),
            ("$.tables[0].held", "4"),
            ("$.tables[0].metadata", "1"),
            ("$.tables[0].tombstones", "1"),
            ("$.parked.cells", "0"),
            ("$.rejected", "0"),
            ("$.conflicts", "0"),
            ("$.conflictsExpired", "0"),
            ("$.gaps", "[]"),
            ("$.clockOffsetMs", "0"),
            ("$.lastSync.atMs", "NULL"),
            ("$.progress", "NULL"),
        ],
    );
}

#[test]
fn explain_tells_who_wrote_what_and_what_is_unsent() {
    let (a, b) = (tracked(), tracked());
    run(&a, "insert into todos values ('1', 'milk', 0)");
    apply(&b, encode(&a, 0).as_deref()).expect("apply works");
    run(&b, "update todos set done = 1");
    let before = rows(&b, "select count(*) from todos_cloudsync where cols is not null", []);
    let explained = "cloudsync_explain('TODOS', '1')";
    check(
        &b,
        explained,
        &[
            ("$.table", "todos"),
            ("$.key", "[\"1\"]"),
            ("$.present", "1"),
            ("$.alive", "1"),
            ("$.life.own", "0"),
            ("$.life.unsent", "0"),
            ("$.columns.title.own", "0"),
            ("$.columns.title.unsent", "0"),
            ("$.columns.done.own", "1"),
            ("$.columns.done.unsent", "1"),
            ("$.rejected", "NULL"),
            ("$.refused", "[]"),
        ],
    );
    assert_eq!(before, "0");
    assert_eq!(
        rows(&b, "select count(*) from todos_cloudsync where cols is not null", []),
        before,
        "it writes nothing"
    );
    let sql = format!("select json_extract({explained}, '$.columns.title.site') = ?1");
    assert_eq!(rows(&b, &sql, [rows(&a, "select lower(hex(cloudsync_siteid()))", [])]), "1");
    let sql = format!(
        "select json_extract({explained}, '$.columns.done.time') > json_extract({explained}, '$.life.time')"
    );
    assert!(matches!(rows(&b, &sql, []).as_str(), "0" | "1"));
    run(&b, "delete from todos");
    check(
        &b,
        explained,
        &[
            ("$.present", "0"),
            ("$.alive", "0"),
            ("$.life.own", "1"),
            ("$.life.unsent", "1"),
            ("$.columns.title", "NULL"),
        ],
    );
    check(&b, "cloudsync_explain('todos', 'nobody')", &[("$.present", "0"), ("$.life", "NULL")]);
    let error = b.query_row("select cloudsync_explain('todos')", [], |_row| Ok(())).expect_err("no key");
    assert_eq!(error.to_string(), "cloudsync: key of table \"todos\" has 0 parts, wanted 1");
}

#[test]
fn a_row_that_was_there_before_has_no_time() {
    let a = open();
    run(&a, "create table t (id integer, n text, v, primary key (id, n)); insert into t values (1, 'x', 5)");
    run(&a, "select cloudsync_init('t')");
    check(
        &a,
        "cloudsync_explain('t', '1', 'x')",
        &[
            ("$.key", "[1,\"x\"]"),
            ("$.life.time", "NULL"),
            ("$.life.own", "1"),
            ("$.life.unsent", "1"),
            ("$.columns.v.unsent", "1"),
        ],
    );
}
