//! What is kept beside the user's tables, and a file that changes its user.

#[path = "support/fake_hub.rs"]
mod fake_hub;
mod support;

use fake_hub::Hub;
use rusqlite::Connection;
use support::{TODOS, apply, encode, open, rows, run};

fn client() -> (Connection, Hub) {
    let connection = Connection::open_in_memory().expect("memory is there");
    let hub = Hub::default();
    hub.register(&connection);
    run(&connection, TODOS);
    rows(&connection, "select cloudsync_init('todos')", []);
    run(
        &connection,
        "select cloudsync_network_init('http://hub/demo'); select cloudsync_network_set_token('t')",
    );
    (connection, hub)
}

fn tracked() -> Connection {
    let connection = open();
    run(&connection, TODOS);
    rows(&connection, "select cloudsync_init('todos')", []);
    connection
}

fn check_error(connection: &Connection, call: &str, expected: &str) {
    let error = connection.query_row(&format!("select {call}"), [], |_row| Ok(())).expect_err(call);
    assert_eq!(error.to_string(), format!("cloudsync: {expected}"), "{call}");
}

const SYNC: &str = "select cloudsync_network_sync()";
const ALL: &str = "select id, title, done from todos order by id";

#[test]
fn a_rejected_row_travels_whole_when_it_is_tried_again() {
    let (a, hub) = client();
    run(&a, "insert into todos values ('1', 'milk', 0), ('2', 'bread', 0)");
    hub.reject(1, "1");
    rows(&a, SYNC, []);
    assert_eq!(rows(&a, "select tbl, key, message from cloudsync_rejected", []), "todos | [\"1\"] | no milk");
    assert_eq!(rows(&a, "select cloudsync_retry_rejected()", []), "1");
    rows(&a, SYNC, []);
    assert_eq!(rows(&a, "select count(*) from cloudsync_rejected", []), "0");
    let uploads = hub.uploads.lock().expect("no panic held it").clone();
    assert_eq!(uploads.len(), 2);
    let b = tracked();
    apply(&b, Some(&uploads[1])).expect("apply works");
    assert_eq!(rows(&b, ALL, []), "1 | milk | 0", "the rejected row alone, with all its columns");
    assert_eq!(rows(&a, "select cloudsync_retry_rejected()", []), "0");
}

#[test]
fn a_rejected_row_is_given_up_for_what_the_server_has() {
    let (a, hub) = client();
    let server = tracked();
    run(&server, "insert into todos values ('1', 'server milk', 7)");
    run(&a, "insert into todos values ('1', 'my milk', 0), ('2', 'mine alone', 0), ('3', 'bread', 0)");
    hub.reject(1, "1");
    hub.reject(2, "2");
    rows(&a, SYNC, []);
    hub.asked();
    hub.serve("snapshot", encode(&server, 0).expect("a payload"));
    let result = rows(&a, "select cloudsync_discard_rejected('todos', '1')", []);
    assert!(result.contains("\"complete\":true"), "{result}");
    assert_eq!(hub.asked(), ["http://hub/v1/databases/demo/changes?wait_ms=0"], "from the beginning");
    assert_eq!(rows(&a, ALL, []), "1 | server milk | 7; 2 | mine alone | 0; 3 | bread | 0");
    rows(&a, "select cloudsync_discard_rejected('todos', '2')", []);
    assert_eq!(rows(&a, ALL, []), "1 | server milk | 7; 3 | bread | 0", "the server has none");
    assert_eq!(rows(&a, "select count(*) from cloudsync_rejected", []), "0");
    check_error(
        &a,
        "cloudsync_discard_rejected('todos', '3')",
        "no such row of table \"todos\" in cloudsync_rejected",
    );
    check_error(&a, "cloudsync_discard_rejected('todos')", "key of table \"todos\" has 0 parts, wanted 1");
    check_error(
        &a,
        "cloudsync_discard_rejected()",
        "cloudsync_discard_rejected: argument 1 is missing, wanted a table and a row key",
    );
}

#[test]
fn a_rejected_deletion_is_given_up() {
    let (a, hub) = client();
    let server = tracked();
    run(&server, "insert into todos values ('1', 'milk', 0)");
    apply(&a, encode(&server, 0).as_deref()).expect("apply works");
    run(&a, "delete from todos");
    hub.reject(1, "1");
    rows(&a, SYNC, []);
    hub.serve("snapshot", encode(&server, 0).expect("a payload"));
    rows(&a, "select cloudsync_discard_rejected('todos', '1')", []);
    assert_eq!(rows(&a, ALL, []), "1 | milk | 0");
}

#[test]
fn parked_changes_are_tried_again_when_asked() {
    let a = tracked();
    run(&a, "insert into todos values ('1', 'milk', 0), ('2', 'milk', 0)");
    let b = open();
    run(&b, TODOS);
    run(&b, "create unique index by_title on todos (title); select cloudsync_init('todos')");
    apply(&b, encode(&a, 0).as_deref()).expect("apply works");
    assert_eq!(rows(&b, "select kind from cloudsync_parked", []), "refused");
    assert_eq!(rows(&b, "select cloudsync_retry_parked()", []), "0");
    run(&b, "drop index by_title");
    assert_eq!(rows(&b, "select cloudsync_retry_parked()", []), "1");
    assert_eq!(rows(&b, ALL, []), "1 | milk | 0; 2 | milk | 0");
    assert_eq!(rows(&b, "select count(*) from cloudsync_parked", []), "0");
}

#[test]
fn a_parked_change_that_cannot_be_read_does_not_hold_up_others() {
    let a = tracked();
    run(&a, "insert into todos values ('1', 'milk', 0), ('2', 'milk', 0), ('3', 'milk', 0)");
    let b = open();
    run(&b, TODOS);
    run(&b, "create unique index by_title on todos (title); select cloudsync_init('todos')");
    apply(&b, encode(&a, 0).as_deref()).expect("apply works");
    run(&b, "drop index by_title");
    run(&b, "update cloudsync_parked set change = x'0102' where id = (select min(id) from cloudsync_parked)");
    let c = tracked();
    run(&c, "insert into todos values ('4', 'tea', 0)");
    assert_eq!(apply(&b, encode(&c, 0).as_deref()), Ok(2), "the other parked change goes in too");
    assert_eq!(rows(&b, "select id from todos", []), "1; 3; 4");
    let reason = rows(&b, "select reason from cloudsync_parked", []);
    assert!(reason.starts_with("wrong parked change: "), "{reason}");
    assert_eq!(rows(&b, "select cloudsync_retry_parked()", []), "0");
}

#[test]
fn conflicts_are_forgotten_when_asked() {
    let (a, b) = (tracked(), tracked());
    run(&a, "insert into todos values ('1', 'milk', 0), ('2', 'bread', 0)");
    apply(&b, encode(&a, 0).as_deref()).expect("apply works");
    run(&a, "update todos set title = 'mine'");
    encode(&a, 0);
    while rows(&b, "select count(*) from todos where title = 'theirs'", []) != "2" {
        run(&b, "update todos set title = 'theirs'");
    }
    let later = "select max(col_version) from cloudsync_changes where col_name = 'title'";
    while rows(&b, later, []).parse::<i64>().expect("a number")
        <= rows(&a, later, []).parse().expect("a number")
    {
        run(&b, "update todos set title = 'x' || title; update todos set title = 'theirs'");
    }
    apply(&a, encode(&b, 0).as_deref()).expect("apply works");
    assert_eq!(
        rows(&a, "select key, col, lost_value, won_value from cloudsync_conflicts order by key", []),
        "[\"1\"] | title | mine | theirs; [\"2\"] | title | mine | theirs"
    );
    assert_eq!(rows(&a, "select cloudsync_status() ->> '$.conflicts'", []), "2");
    assert_eq!(rows(&a, "select cloudsync_clear_conflicts('todos', '1')", []), "1");
    assert_eq!(rows(&a, "select cloudsync_clear_conflicts('todos')", []), "1");
    assert_eq!(rows(&a, "select cloudsync_clear_conflicts()", []), "0");
    check_error(
        &open(),
        "cloudsync_clear_conflicts()",
        "no table of this file is tracked, call cloudsync_init(table) first",
    );
}

#[test]
fn a_file_is_emptied_for_another_user() {
    let (a, hub) = client();
    run(
        &a,
        "create table logged (id); create trigger watch after delete on todos begin insert into logged values (OLD.id); end",
    );
    run(&a, "insert into todos values ('1', 'milk', 0)");
    check_error(
        &a,
        "cloudsync_network_logout()",
        "1 unsent changes and 0 rejected rows would be lost, wanted none: sync first, or call cloudsync_network_logout(1)",
    );
    check_error(
        &a,
        "cloudsync_network_logout(2)",
        "cloudsync_network_logout: argument 1 is 2, wanted 0, or 1 to lose what is unsent",
    );
    rows(&a, SYNC, []);
    let (site, number) =
        (rows(&a, "select cloudsync_siteid()", []), rows(&a, "select cloudsync_db_version()", []));
    assert_eq!(rows(&a, "select cloudsync_network_logout()", []), "0");
    assert_eq!(rows(&a, "select count(*) from todos", []), "0");
    assert_eq!(rows(&a, "select count(*) from logged", []), "0");
    assert_ne!(rows(&a, "select cloudsync_siteid()", []), site);
    assert_eq!(rows(&a, "select cloudsync_db_version()", []), number, "numbers are not used again");
    check_error(
        &a,
        "cloudsync_network_receive_changes()",
        "no server is set, call cloudsync_network_init(url) first",
    );
    run(&a, "select cloudsync_network_init('http://hub/demo'); insert into todos values ('2', 'other', 0)");
    let server = tracked();
    run(&server, "insert into todos values ('3', 'theirs', 0)");
    hub.serve("snapshot", encode(&server, 0).expect("a payload"));
    rows(&a, SYNC, []);
    assert_eq!(rows(&a, ALL, []), "2 | other | 0; 3 | theirs | 0");
    let sent = hub.uploads.lock().expect("no panic held it").last().cloned();
    let b = tracked();
    assert_eq!(apply(&b, sent.as_deref()), Ok(1));
    assert_eq!(rows(&b, ALL, []), "2 | other | 0", "nothing of the former user");
    run(&a, "insert into todos values ('4', 'lost', 0)");
    assert_eq!(rows(&a, "select cloudsync_network_logout(1)", []), "0");
    assert_eq!(rows(&a, ALL, []), "");
}

#[test]
fn the_network_says_where_it_is() {
    let (a, hub) = client();
    assert_eq!(
        rows(&a, "select cloudsync_network_status()", []),
        r#"{"receive":{"started":false},"send":{"localVersion":0,"rejected":0,"serverVersion":0,"status":"synced"},"server":"http://hub/v1/databases/demo"}"#
    );
    rows(&a, SYNC, []);
    assert_eq!(rows(&a, "select cloudsync_network_status() ->> '$.receive.started'", []), "1");
    assert_eq!(rows(&a, "select cloudsync_network_reset_sync_version()", []), "NULL");
    hub.asked();
    rows(&a, SYNC, []);
    assert_eq!(hub.asked(), ["http://hub/v1/databases/demo/changes?wait_ms=0"]);
    assert_eq!(
        rows(
            &a,
            "select cloudsync_status() ->> '$.lastSync.atMs' > 0, cloudsync_status() ->> '$.lastSync.error'",
            []
        ),
        "1 | NULL"
    );
    *hub.is_down.lock().expect("no panic held it") = true;
    a.query_row(SYNC, [], |_row| Ok(())).expect_err("nobody answers");
    assert!(rows(&a, "select cloudsync_status() ->> '$.lastSync.error'", []).contains("connection refused"));
    assert_eq!(rows(&a, "select cloudsync_network_cleanup(), cloudsync_terminate()", []), "0 | 1");
    assert_eq!(rows(&a, "select cloudsync_network_status() ->> '$.server'", []), "NULL");
    check_error(
        &a,
        "cloudsync_network_set_token('a b')",
        "cloudsync_network_set_token: argument 1 is text of 3 bytes, wanted visible ASCII characters",
    );
}

#[test]
fn a_snapshot_takes_no_row_that_the_filter_keeps_here() {
    let (a, hub) = client();
    run(&a, "select cloudsync_set_filter('todos', 'done >= 0')");
    run(&a, "insert into todos values ('1', 'shared', 0), ('2', 'private', -1), ('3', 'gone there', 0)");
    run(&a, "update todos set title = 'still private' where id = '2'");
    rows(&a, SYNC, []);
    run(&a, "select cloudsync_network_reset_sync_version()");
    let server = tracked();
    run(&server, "insert into todos values ('1', 'shared', 5)");
    hub.serve("truth", encode(&server, 0).expect("a payload"));
    rows(&a, SYNC, []);
    assert_eq!(rows(&a, ALL, []), "1 | shared | 5; 2 | still private | -1");
}

#[test]
fn another_user_may_use_the_keys_that_the_one_before_deleted() {
    let (a, _hub) = client();
    run(&a, "create table keys (id text primary key)");
    rows(&a, "select cloudsync_init('keys', 'dws')", []);
    run(&a, "insert into keys values ('k'); delete from keys; select cloudsync_network_logout(1)");
    assert_eq!(rows(&a, "select count(*) from cloudsync_dead", []), "0");
    run(&a, "insert into keys values ('k')");
}
