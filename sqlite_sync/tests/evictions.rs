//! Rows that a file's user may read no more go without a trace of a deletion, unless something of them is unsent.

mod support;

use rusqlite::Connection;
use shared_format::payload::{Limits, Payload, PayloadBuilder, decode_frame, encode_frame};
use support::script::{Script, client};
use support::{TODOS, apply, encode, open, rows, run};

const RECEIVE: &str = "select cloudsync_network_receive_changes()";
const SEND: &str = "select cloudsync_network_send_changes()";
const ALL: &str = "select * from todos order by id";

/// A file that stands for the server, and a client with the same three rows, acknowledged.
fn synced() -> (Connection, Script, Connection) {
    let (a, script) = client();
    let server = open();
    run(&server, TODOS);
    rows(&server, "select cloudsync_init('todos')", []);
    run(&a, "insert into todos values ('1', 'milk', 0), ('2', 'bread', 0), ('3', 'oats', 1)");
    apply(&server, encode(&a, 0).as_deref()).expect("it is a payload");
    script.accept(3, 1, "");
    rows(&a, SEND, []);
    (a, script, server)
}

/// The rows of the server that match, whole.
fn some(server: &Connection, wanted: &str) -> Vec<u8> {
    run(server, "begin");
    rows(
        server,
        &format!("delete from todos_cloudsync where pk not in (select id from todos where {wanted})"),
        [],
    );
    let frames = encode(server, 0).expect("rows travel");
    run(server, "rollback");
    frames
}

/// Tells to forget the rows of the server that match.
fn forget(server: &Connection, wanted: &str) -> Vec<u8> {
    let frame = some(server, wanted);
    let (body, _) = decode_frame(&frame, &Limits::UPLOAD).expect("it is a frame");
    let payload = Payload::parse(&body).expect("it is a payload");
    let mut evictions = PayloadBuilder::new();
    payload
        .definitions()
        .expect("definitions")
        .iter()
        .for_each(|definition| evictions.definition(definition));
    payload.changes().iter().for_each(|changes| evictions.evict_all(changes));
    encode_frame(&evictions.finish())
}

/// Gives the client a part of the log.
fn hand(script: &Script, frames: Vec<u8>) {
    let headers = [("cloudsync-complete", "true"), ("cloudsync-cursor", "c"), ("cloudsync-source", "log")];
    script.answer(200, &headers, frames);
}

fn waiting(client: &Connection) -> String {
    rows(client, "select count(*) from cloudsync_evictions", [])
}

#[test]
fn a_row_to_forget_goes_with_all_that_is_known_of_it() {
    let (a, script, server) = synced();
    hand(&script, forget(&server, "id < '3'"));
    rows(&a, RECEIVE, []);
    assert_eq!(rows(&a, ALL, []), "3 | oats | 1");
    assert_eq!(rows(&a, "select pk from todos_cloudsync", []), "3", "no tombstone stays");
    assert_eq!(waiting(&a), "0");
    assert_eq!(rows(&a, "select cloudsync_network_has_unsent_changes()", []), "0");
    hand(&script, some(&server, "id = '1'"));
    rows(&a, RECEIVE, []);
    assert_eq!(rows(&a, ALL, []), "1 | milk | 0; 3 | oats | 1", "it may come back");
}

#[test]
fn a_row_with_unsent_changes_stays_until_they_are_answered() {
    let (a, script, server) = synced();
    run(&a, "update todos set title = 'mine' where id = '1'");
    hand(&script, forget(&server, "id < '3'"));
    rows(&a, RECEIVE, []);
    assert_eq!(rows(&a, ALL, []), "1 | mine | 0; 3 | oats | 1");
    assert_eq!(waiting(&a), "1");
    script.accept(4, 2, "");
    rows(&a, SEND, []);
    hand(&script, Vec::new());
    rows(&a, RECEIVE, []);
    assert_eq!(rows(&a, ALL, []), "3 | oats | 1");
    assert_eq!(waiting(&a), "0");
}

#[test]
fn a_row_that_comes_back_in_the_same_answer_stays() {
    let (a, script, server) = synced();
    let joined = [forget(&server, "id < '3'"), some(&server, "id = '2'")].concat();
    hand(&script, joined);
    rows(&a, RECEIVE, []);
    assert_eq!(rows(&a, ALL, []), "2 | bread | 0; 3 | oats | 1");
    let joined = [some(&server, "id = '1'"), forget(&server, "id < '3'")].concat();
    hand(&script, joined);
    rows(&a, RECEIVE, []);
    assert_eq!(rows(&a, ALL, []), "3 | oats | 1", "the last word counts");
    assert_eq!(waiting(&a), "0");
}

#[test]
fn a_payload_file_makes_nobody_forget() {
    let (a, _script, server) = synced();
    apply(&a, Some(&forget(&server, "id < '3'"))).expect("it is a payload");
    assert_eq!(rows(&a, "select count(*) from todos", []), "3");
}
