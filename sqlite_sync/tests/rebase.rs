//! A snapshot is the truth: what a file holds beside it goes, except what the server does not know yet.

mod support;

use rusqlite::Connection;
use support::script::{Script, client};
use support::{TODOS, apply, encode, open, rows, run};

const RECEIVE: &str = "select cloudsync_network_receive_changes()";
const ALL: &str = "select * from todos order by id";

/// A file that stands for the server: what it knows is the snapshot.
fn server() -> Connection {
    let server = open();
    run(&server, TODOS);
    rows(&server, "select cloudsync_init('todos')", []);
    server
}

/// A client at a server, both with the same three rows, acknowledged.
fn synced() -> (Connection, Script, Connection) {
    let (a, script) = client();
    let server = server();
    run(&a, "insert into todos values ('1', 'milk', 0), ('2', 'bread', 0), ('3', 'oats', 1)");
    apply(&server, encode(&a, 0).as_deref()).expect("it is a payload");
    script.accept(3, 1, "");
    rows(&a, "select cloudsync_network_send_changes()", []);
    (a, script, server)
}

/// Gives the client one part of the log or of a snapshot.
fn hand(script: &Script, source: &str, part: &str, complete: bool, frames: Option<Vec<u8>>) {
    let headers = [
        ("cloudsync-complete", if complete { "true" } else { "false" }),
        ("cloudsync-cursor", "c"),
        ("cloudsync-source", source),
        ("cloudsync-part", part),
    ];
    script.answer(200, &headers, frames.unwrap_or_default());
}

/// The rows of the server that match, as if it had forgotten the others for good.
fn snapshot(server: &Connection, wanted: &str) -> Option<Vec<u8>> {
    run(server, "begin");
    let sql = format!("delete from todos_cloudsync where pk not in (select id from todos where {wanted})");
    rows(server, &sql, []);
    let frames = encode(server, 0);
    run(server, "rollback");
    frames
}

#[test]
fn rows_that_a_snapshot_lacks_go_and_unsent_ones_stay() {
    let (a, script, server) = synced();
    run(&a, "insert into todos values ('4', 'unsent', 0); update todos set done = 5 where id = '3'");
    hand(&script, "snapshot", "0", true, snapshot(&server, "id = '1'"));
    rows(&a, RECEIVE, []);
    assert_eq!(rows(&a, ALL, []), "1 | milk | 0; 3 | oats | 5; 4 | unsent | 0");
    assert_eq!(rows(&a, "select pk from todos_cloudsync order by pk", []), "1; 3; 4");
    assert_eq!(rows(&a, "select count(*) from cloudsync_rebase", []), "0");
}

#[test]
fn a_row_that_a_snapshot_lacks_goes_when_what_is_unsent_of_it_is_answered() {
    let (a, script, server) = synced();
    run(
        &a,
        "insert into todos values ('4', 'mine', 0); update todos set done = 5 where id <> '1' and id <> '4'",
    );
    hand(&script, "snapshot", "0", true, snapshot(&server, "id = '1'"));
    rows(&a, RECEIVE, []);
    assert_eq!(rows(&a, "select id from todos order by id", []), "1; 2; 3; 4");
    hand(&script, "log", "-", true, None);
    rows(&a, RECEIVE, []);
    assert_eq!(rows(&a, "select id from todos order by id", []), "1; 2; 3; 4", "nothing is answered");
    script.accept(6, 2, "");
    rows(&a, "select cloudsync_network_send_changes()", []);
    hand(&script, "log", "-", true, snapshot(&server, "id = '2'"));
    rows(&a, RECEIVE, []);
    assert_eq!(rows(&a, "select id from todos order by id", []), "1; 2; 4", "one may be read again");
    assert_eq!(rows(&a, "select pk from todos_cloudsync order by pk", []), "1; 2; 4", "no tombstone stays");
    assert_eq!(rows(&a, "select count(*) from cloudsync_evictions", []), "0");
}

#[test]
fn a_snapshot_in_parts_is_one_truth_and_the_log_after_it_counts_too() {
    let (a, script, server) = synced();
    hand(&script, "snapshot", "0", false, snapshot(&server, "id = '1'"));
    rows(&a, "select cloudsync_network_receive_changes(1)", []);
    assert_eq!(rows(&a, "select count(*) from todos", []), "3", "nothing goes before the end");
    hand(&script, "snapshot", "1", false, snapshot(&server, "id = '2'"));
    run(&server, "insert into todos values ('9', 'after the snapshot', 0)");
    hand(&script, "log", "-", true, snapshot(&server, "id = '9'"));
    rows(&a, RECEIVE, []);
    assert_eq!(rows(&a, "select id from todos order by id", []), "1; 2; 9");
}

#[test]
fn a_snapshot_that_begins_again_forgets_the_parts_before() {
    let (a, script, server) = synced();
    hand(&script, "snapshot", "0", false, snapshot(&server, "id = '1'"));
    hand(&script, "snapshot", "0", true, snapshot(&server, "id = '2'"));
    rows(&a, RECEIVE, []);
    assert_eq!(rows(&a, "select id from todos order by id", []), "2");
}

#[test]
fn a_table_that_the_snapshot_does_not_name_is_left_alone() {
    let (a, script, _server) = synced();
    let other = open();
    run(&other, "create table other (id text primary key); insert into other values ('x')");
    rows(&other, "select cloudsync_init('other')", []);
    hand(&script, "snapshot", "0", true, encode(&other, 0));
    rows(&a, RECEIVE, []);
    assert_eq!(rows(&a, "select id from todos order by id", []), "1; 2; 3");
}

#[test]
fn what_was_written_in_a_gap_becomes_a_local_write() {
    let (a, script, server) = synced();
    run(
        &a,
        "begin; create table new_todos (id text primary key, title text, done integer default 0);
         insert into new_todos select * from todos where id <> '2'; drop table todos;
         alter table new_todos rename to todos;
         update todos set title = 'aaa, in the gap' where id = '1'; commit",
    );
    run(&server, "update todos set done = 8 where id = '3'");
    hand(&script, "snapshot", "0", true, encode(&server, 0));
    rows(&a, RECEIVE, []);
    assert_eq!(rows(&a, ALL, []), "1 | aaa, in the gap | 0; 2 | bread | 0; 3 | oats | 8");
    assert_eq!(rows(&a, "select count(*) from cloudsync_gaps", []), "0");
    apply(&server, encode(&a, 0).as_deref()).expect("it is a payload");
    assert_eq!(rows(&server, ALL, []), rows(&a, ALL, []));
}

#[test]
fn what_was_passed_over_is_fetched_when_the_column_comes() {
    let (a, script, server) = synced();
    run(&server, "alter table todos add column note text; update todos set note = 'told'");
    hand(&script, "log", "-", true, encode(&server, 0));
    rows(&a, RECEIVE, []);
    assert_eq!(rows(&a, "select tbl, col from cloudsync_skipped", []), "todos | note");
    run(&a, "alter table todos add column note text default 'zzz'");
    hand(&script, "snapshot", "0", true, encode(&server, 0));
    script.seen();
    rows(&a, RECEIVE, []);
    let line = &script.seen()[0].line;
    assert!(!line.contains("cursor"), "a snapshot is asked for: {line}");
    assert_eq!(rows(&a, "select distinct note from todos", []), "told");
    hand(&script, "log", "-", true, None);
    rows(&a, RECEIVE, []);
    let line = &script.seen()[0].line;
    assert!(line.contains("cursor=c"), "once is enough: {line}");
}

#[test]
fn a_column_that_the_server_renames_later_is_fetched() {
    let (a, script, server) = synced();
    run(&a, "alter table todos rename column title to name");
    run(&server, "update todos set title = 'passed over' where id = '1'");
    hand(&script, "log", "-", true, encode(&server, 0));
    rows(&a, RECEIVE, []);
    assert_eq!(rows(&a, "select name from todos where id = '1'", []), "milk");
    run(&server, "alter table todos rename column title to name; update todos set done = 3 where id = '2'");
    let news = encode(&server, 0);
    hand(&script, "log", "-", true, news.clone());
    hand(&script, "snapshot", "0", true, news);
    rows(&a, RECEIVE, []);
    assert_eq!(rows(&a, ALL, []), "1 | passed over | 0; 2 | bread | 3; 3 | oats | 1");
}

#[test]
fn a_reload_in_the_log_fetches_the_rows_again() {
    let (a, script, server) = synced();
    let mut payload = shared_format::payload::PayloadBuilder::new();
    payload.reload(1, 1, "truncate");
    let frame = shared_format::payload::encode_frame(&payload.finish());
    hand(&script, "log", "-", true, Some(frame));
    hand(&script, "snapshot", "0", true, snapshot(&server, "id = '2'"));
    rows(&a, RECEIVE, []);
    assert_eq!(rows(&a, "select id from todos", []), "2");
}

/// A client and its server have two parents and a child of the first; the client wrote `unsent`, then a snapshot
/// lacks the first parent and the child.
fn check_family(action: &str, unsent: &str, parents: &str, children: &str) {
    let family = format!(
        "pragma foreign_keys = on; create table parents (id text primary key);
         create table children (id text primary key, parent text references parents {action})"
    );
    let (a, script) = client();
    let server = open();
    for connection in [&a, &server] {
        run(connection, &family);
        rows(connection, "select cloudsync_init('parents'), cloudsync_init('children')", []);
    }
    run(&a, "insert into parents values ('p1'), ('p2'); insert into children values ('c1', 'p1')");
    apply(&server, encode(&a, 0).as_deref()).expect("it is a payload");
    script.accept(3, 1, "");
    rows(&a, "select cloudsync_network_send_changes()", []);
    run(&a, unsent);
    run(
        &server,
        "delete from parents_cloudsync where pk = 'p1'; delete from children_cloudsync;
         insert into children values ('c9', 'p2')",
    );
    hand(&script, "snapshot", "0", true, encode(&server, 0));
    rows(&a, RECEIVE, []);
    assert_eq!(rows(&a, "select id from parents order by id", []), parents, "{action}");
    assert_eq!(rows(&a, "select id, parent from children order by id", []), children, "{action}");
}

#[test]
fn a_parent_goes_after_its_children_and_stays_with_an_unsent_one() {
    let actions = [
        "",
        "on delete restrict",
        "on delete cascade",
        "on delete set null",
        "deferrable initially deferred",
    ];
    for action in actions {
        check_family(action, "", "p2", "c9 | p2");
        let unsent = "insert into children values ('c2', 'p1')";
        check_family(action, unsent, "p1; p2", "c2 | p1; c9 | p2");
    }
}

#[test]
fn a_table_that_is_tracked_again_takes_what_was_received_before() {
    let (a, script, server) = synced();
    run(&server, "update todos set title = 'theirs' where id = '1'");
    hand(&script, "log", "-", true, encode(&server, 0));
    rows(&a, RECEIVE, []);
    run(&a, "select cloudsync_cleanup('todos'); update todos set title = 'untracked' where id = '1'");
    run(&a, "delete from todos where id = '2'; select cloudsync_init('todos')");
    script.seen();
    hand(&script, "snapshot", "0", true, encode(&server, 0));
    rows(&a, RECEIVE, []);
    let line = &script.seen()[0].line;
    assert!(!line.contains("cursor"), "the table is behind the place: {line}");
    assert_eq!(rows(&a, ALL, []), "1 | theirs | 0; 2 | bread | 0; 3 | oats | 1");
}
