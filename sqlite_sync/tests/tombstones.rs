//! Tombstones go where the server says so, and nothing comes back by it: late payload files are refused, and a
//! file that was away for longer takes a snapshot first.

mod support;

use rusqlite::Connection;
use shared_format::Hlc;
use shared_format::payload::{Collection, Limits, Payload, PayloadBuilder, decode_frame, encode_frame};
use support::script::Script;
use support::{TODOS, apply, encode, rows, run};

const SEND: &str = "select cloudsync_network_send_changes()";
const RECEIVE: &str = "select cloudsync_network_receive_changes()";
const ALL: &str = "select * from todos order by id";
const DEAD: &str = "select pk from todos_cloudsync where not alive order by pk";
const CONFLICTS: &str = "select col, lost_value, reason from cloudsync_conflicts";
const REJECTED: &str = "select key, sqlstate from cloudsync_rejected";
const EXPIRED: &str = r#"{"code":"cursor_expired"}"#;

/// A file with the table and the script that it talks to.
fn file(algorithm: &str) -> (Connection, Script) {
    let connection = Connection::open_in_memory().expect("memory is there");
    let script = Script::default();
    cloudsync::register_with(&connection, Box::new(script.clone())).expect("functions register");
    run(&connection, TODOS);
    rows(&connection, "select cloudsync_init('todos', ?1)", [algorithm]);
    run(
        &connection,
        "insert into cloudsync_settings values ('clock_offset_ms', 0);
         select cloudsync_network_init('http://hub/demo')",
    );
    (connection, script)
}

/// A client and a file that stands for the server, both with the same three rows, acknowledged.
fn synced(algorithm: &str) -> (Connection, Script, Connection) {
    let (client, script) = file(algorithm);
    let (server, _) = file(algorithm);
    run(&client, "insert into todos values ('1', 'milk', 0), ('2', 'bread', 0), ('3', 'oats', 1)");
    share(&client, &server);
    acknowledge(&client, &script);
    (client, script, server)
}

fn acknowledge(client: &Connection, script: &Script) {
    let newest = rows(client, "select max(seq) from cloudsync_log", []).parse().expect("a number");
    script.accept(newest, 1, "");
    rows(client, SEND, []);
}

/// Everything that one file knows goes to another, as a payload file.
fn share(from: &Connection, to: &Connection) {
    apply(to, encode(from, 0).as_deref()).expect("it is a payload");
}

/// Makes what was written and not folded yet a second younger.
fn later(connection: &Connection) {
    run(connection, "update cloudsync_log set ms = ms + 1000");
}

/// The server's notice that tombstones of its table are gone up to a clock.
fn event(server: &Connection, horizon: i64) -> Vec<u8> {
    let frames = encode(server, 0).expect("it has rows");
    let (body, _) = decode_frame(&frames, &Limits::UPLOAD).expect("a frame");
    let definitions = Payload::parse(&body).and_then(|payload| payload.definitions()).expect("a payload");
    let definition = definitions.first().expect("a definition");
    let (table, incarnation) = (definition.table, definition.incarnation);
    let mut payload = PayloadBuilder::new();
    payload.definition(definition);
    payload.collection(Collection { table, incarnation, horizon: Hlc::from_sql(horizon) });
    encode_frame(&payload.finish())
}

/// The clock right above the newest stamp of the server's tombstones, or of the client's parked cells.
fn above(connection: &Connection) -> i64 {
    rows(connection, "select coalesce(max(hlc), 0) + (5000 << 16) from todos_cloudsync", [])
        .parse()
        .expect("a clock")
}

/// Gives the client a part of the log or of a snapshot.
fn hand(script: &Script, source: &str, frames: Vec<u8>) {
    let headers = [
        ("cloudsync-complete", "true"),
        ("cloudsync-cursor", "c"),
        ("cloudsync-source", source),
        ("cloudsync-part", if source == "snapshot" { "0" } else { "-" }),
    ];
    script.answer(200, &headers, frames);
}

fn receive(client: &Connection, script: &Script, frames: Vec<u8>) {
    hand(script, "log", frames);
    rows(client, RECEIVE, []);
}

/// The rows of the server that match, as if it had forgotten the others for good.
fn snapshot(server: &Connection, wanted: &str) -> Vec<u8> {
    run(server, "begin");
    let sql = format!("delete from todos_cloudsync where pk not in (select id from todos where {wanted})");
    rows(server, &sql, []);
    let frames = encode(server, 0).expect("it has rows");
    run(server, "rollback");
    frames
}

#[test]
fn an_event_drops_the_tombstones_below_it() {
    // Algorithm, what the client does, whether that is acknowledged, what the server does, tombstones behind it.
    for (algorithm, here, is_sent, there, expected) in [
        ("cls", "select 1", false, "delete from todos where id < '3'", ""),
        ("aws", "select 1", false, "delete from todos where id < '3'", ""),
        ("dws", "select 1", false, "delete from todos where id < '3'", "1; 2"),
        ("cls", "delete from todos where id = '3'", false, "delete from todos where id < '3'", "3"),
        ("cls", "delete from todos where id = '3'", true, "delete from todos where id < '3'", ""),
        ("cls", "select 1", false, "update todos set title = 'new'", ""),
    ] {
        let (client, script, server) = synced(algorithm);
        run(&client, here);
        if is_sent {
            acknowledge(&client, &script);
        }
        run(&server, there);
        let alive = rows(&server, "select count(*) from todos where id < '3'", []);
        receive(&client, &script, encode(&server, 0).expect("it has rows"));
        receive(&client, &script, event(&server, above(&client)));
        assert_eq!(rows(&client, DEAD, []), expected, "{algorithm}: {here}; {there}");
        assert_eq!(
            rows(&client, "select count(*) from todos where id < '3'", []),
            alive,
            "{algorithm}: {there}"
        );
    }
}

#[test]
fn an_event_leaves_what_is_not_below_it_and_the_status_tells_the_horizon() {
    let horizon = "select cloudsync_status() ->> '$.tables[0].horizonMs'";
    let (client, script, server) = synced("cls");
    assert_eq!(rows(&client, horizon, []), "NULL");
    run(&server, "delete from todos where id = '1'");
    receive(&client, &script, encode(&server, 0).expect("it has rows"));
    let stamp: i64 =
        rows(&client, "select hlc from todos_cloudsync where pk = '1'", []).parse().expect("a clock");
    for (at, expected) in [(stamp, "1"), (stamp + 1, "")] {
        receive(&client, &script, event(&server, at));
        assert_eq!(rows(&client, DEAD, []), expected);
        assert_eq!(rows(&client, horizon, []), (at >> 16).to_string());
    }
    let error = client.query_row("select cloudsync_set_table('todos', 'horizon', 1)", [], |_row| Ok(()));
    assert!(error.is_err_and(|error| error.to_string().contains("the extension's own")));
}

#[test]
fn every_replica_drops_at_the_same_place_of_the_stream() {
    let (client, script, server) = synced("cls");
    let creation = encode(&server, 0).expect("it has rows");
    run(&server, "delete from todos where id = '1'");
    let deletion = encode(&server, 0).expect("it has rows");
    let event = event(&server, above(&server));
    // What comes in one answer, and whether the row lives behind it.
    for (frames, expected) in [
        (vec![&deletion, &event], "0 | 0"),
        (vec![&deletion, &event, &creation], "1 | 0"),
        (vec![&deletion, &event, &creation, &deletion], "0 | 1"),
        (vec![&deletion, &creation, &event], "0 | 0"),
    ] {
        let (client, script) = (&client, &script);
        run(client, "delete from cloudsync_table_settings; delete from todos_cloudsync");
        let frames = frames.into_iter().flatten().copied().collect();
        receive(client, script, frames);
        let sql = "select (select count(*) from todos where id = '1'),
            (select count(*) from todos_cloudsync where pk = '1' and not alive)";
        assert_eq!(rows(client, sql, []), expected);
    }
}

#[test]
fn parked_cells_that_go_are_kept_as_conflicts_or_counted() {
    let counted =
        "select cloudsync_status() ->> '$.parked.collected', cloudsync_status() ->> '$.parked.cells'";
    for (is_own, is_below, conflicts, expected) in [
        (true, true, "title | rye | collected", "0 | 0"),
        (false, true, "", "1 | 0"),
        (true, false, "", "0 | 1"),
    ] {
        let (client, script, server) = synced("cls");
        let other = file("cls").0;
        share(&server, &other);
        run(&server, "delete from todos where id = '2'");
        let author = if is_own { &client } else { &other };
        run(author, "update todos set title = 'rye' where id = '2'");
        later(author);
        receive(&client, &script, encode(&server, 0).expect("it has rows"));
        if is_own {
            acknowledge(&client, &script);
        } else {
            run(&other, "delete from todos_cloudsync where pk <> '2'");
            receive(&client, &script, encode(&other, 0).expect("it has rows"));
        }
        assert_eq!(rows(&client, counted, []), "0 | 1", "the cell is parked");
        let deleted = above(&server) - (5000 << 16);
        receive(&client, &script, event(&server, deleted + if is_below { 5000 << 16 } else { 1 }));
        assert_eq!(rows(&client, counted, []), expected);
        assert_eq!(rows(&client, CONFLICTS, []), conflicts);
    }
}

#[test]
fn a_payload_file_from_before_the_horizon_is_refused() {
    let lines = "select cloudsync_payload_encode(tbl, pk, col_name, col_value, col_version, db_version, site_id,
        cl, seq) from cloudsync_changes where pk = (select pk from cloudsync_changes where col_value = 'milk')";
    let chunk = "select payload from cloudsync_payload_chunks";
    for (encoding, has_seen, is_refused) in [
        ("select cloudsync_payload_encode()", false, true),
        ("select cloudsync_payload_encode()", true, false),
        (chunk, false, true),
        (chunk, true, false),
        (lines, false, true),
        (lines, true, false),
    ] {
        let (client, script, server) = synced("cls");
        let (author, authors) = file("cls");
        // The deleted row in truth; one that lives and that the client never got in the other case.
        let is_there = "insert into todos values ('0', 'milk', 0)";
        run(&author, if has_seen { is_there } else { "select 1" });
        share(&client, &author);
        run(&server, "delete from todos where id = '1'; delete from todos where id = '2'");
        receive(&client, &script, encode(&server, 0).expect("it has rows"));
        let event = event(&server, above(&server));
        receive(&client, &script, event.clone());
        if has_seen {
            hand(&authors, "log", encode(&server, 0).into_iter().flatten().chain(event).collect());
            rows(&author, RECEIVE, []);
        }
        let payload: Vec<u8> = author.query_row(encoding, [], |row| row.get(0)).expect("it encodes");
        let before = rows(&client, ALL, []);
        match apply(&client, Some(&payload)) {
            Ok(_) => {
                assert!(!is_refused, "{encoding}");
                assert_eq!(rows(&client, "select title from todos order by id", []), "milk; oats");
            }
            Err(error) => {
                assert!(is_refused, "{encoding}: {error}");
                assert!(error.contains("payload is older than the horizon of table \"todos\""), "{error}");
                assert!(error.contains("author's horizon is none"), "{error}");
                assert_eq!(rows(&client, ALL, []), before);
            }
        }
    }
}

#[test]
fn an_old_payload_of_rows_that_live_here_and_of_newer_ones_is_taken() {
    let (client, script, server) = synced("cls");
    let other = file("cls").0;
    share(&client, &other);
    receive(&client, &script, event(&server, above(&server)));
    run(&other, "update todos set done = 7; insert into todos values ('9', 'after', 0)");
    run(&other, "update cloudsync_log set ms = ms + 10000");
    share(&other, &client);
    assert_eq!(rows(&client, "select id, done from todos order by id", []), "1 | 7; 2 | 7; 3 | 7; 9 | 0");
}

#[test]
fn lines_that_were_read_before_the_horizon_do_not_speak_for_it() {
    let (client, script, server) = synced("cls");
    let (author, authors) = file("cls");
    share(&client, &author);
    run(&author, "create temp table kept as select * from cloudsync_changes");
    run(&server, "delete from todos where id = '1'");
    let news: Vec<u8> =
        encode(&server, 0).into_iter().flatten().chain(event(&server, above(&server))).collect();
    receive(&client, &script, news.clone());
    receive(&author, &authors, news);
    let sql =
        "select cloudsync_payload_encode(tbl, pk, col_name, col_value, col_version, db_version, site_id,
        cl, seq) from kept";
    let payload: Vec<u8> = author.query_row(sql, [], |row| row.get(0)).expect("it encodes");
    assert!(apply(&client, Some(&payload)).is_err_and(|error| error.contains("older than the horizon")));
}

#[test]
fn a_file_behind_the_horizon_takes_a_snapshot_before_it_sends() {
    const GONE: &str = "1 | milk | 0";
    // Unsent writes, what the server has; the table, the conflicts and the refusals behind it. Row 5 is the server's.
    for (unsent, held, table, conflicts, rejected) in [
        (
            "update todos set title = 'rye' where id = '2'",
            "id = '1'",
            GONE,
            "title | rye | collected",
            "[\"2\"] | 02000",
        ),
        (
            "update todos set title = 'rye', done = 4 where id = '5'",
            "id = '1'",
            GONE,
            "title | rye | collected; done | 4 | collected",
            "[\"5\"] | 02000",
        ),
        (
            "delete from todos where id = '5'; insert into todos values ('5', 'as if new', 0)",
            "id = '1'",
            GONE,
            "title | as if new | collected; done | 0 | collected",
            "[\"5\"] | 02000",
        ),
        ("update todos set title = 'rye' where id = '2'", "id < '3'", "1 | milk | 0; 2 | rye | 0", "", ""),
        ("insert into todos values ('4', 'new', 0)", "id = '1'", "1 | milk | 0; 4 | new | 0", "", ""),
        (
            "delete from todos where id = '2'; insert into todos values ('2', 'again', 0)",
            "id = '1'",
            "1 | milk | 0; 2 | again | 0",
            "",
            "",
        ),
        ("delete from todos where id = '2'", "id = '1'", GONE, "", ""),
    ] {
        for is_upload in [true, false] {
            let (client, script, server) = synced("cls");
            run(&server, "insert into todos values ('5', 'tea', 0)");
            share(&server, &client);
            run(&client, unsent);
            script.seen();
            script.answer(410, &[], EXPIRED);
            hand(&script, "snapshot", snapshot(&server, held));
            if is_upload {
                script.accept(100, 2, "");
                rows(&client, SEND, []);
            } else {
                rows(&client, RECEIVE, []);
            }
            assert_eq!(rows(&client, ALL, []), table, "{unsent}");
            assert_eq!(rows(&client, CONFLICTS, []), conflicts, "{unsent}");
            assert_eq!(rows(&client, REJECTED, []), rejected, "{unsent}");
            assert_eq!(
                rows(&client, "select value from cloudsync_settings where key = 'expired'", []),
                "NULL"
            );
            let unsent_rows = "select count(*) from cloudsync_log where cols <> -5 and pk in ('2', '5')";
            let is_sent = is_upload || !rejected.is_empty();
            assert!(!is_sent || rows(&client, unsent_rows, []) == "0", "nothing is left to send: {unsent}");
            let seen: Vec<bool> = script.seen().iter().map(|seen| seen.line.contains("cursor=")).collect();
            assert!(seen.iter().skip(1).all(|has_cursor| !has_cursor), "a snapshot is asked for");
        }
    }
}

#[test]
fn a_row_that_was_buried_can_be_written_anew() {
    let (client, script, server) = synced("cls");
    run(&client, "update todos set title = 'rye' where id = '2'");
    script.answer(410, &[], EXPIRED);
    hand(&script, "snapshot", snapshot(&server, "id = '1'"));
    rows(&client, SEND, []);
    assert_eq!(rows(&client, "select cloudsync_retry_rejected(), count(*) from todos", []), "1 | 1");
    run(&client, "insert into todos values ('2', 'rye again', 0)");
    acknowledge(&client, &script);
    assert_eq!(rows(&client, REJECTED, []), "", "it was accepted");
    assert_eq!(rows(&client, ALL, []), "1 | milk | 0; 2 | rye again | 0");
}

#[test]
fn a_creation_that_the_server_refused_is_no_row_that_it_had() {
    let (client, script, server) = synced("cls");
    run(&client, "insert into todos values ('4', 'refused', 0)");
    let newest = rows(&client, "select max(seq) from cloudsync_log", []);
    let refusal = format!(
        r#"{{"id":1,"table":"todos","key":["4"],"sqlstate":"23514","message":"no","first":{newest},"last":{newest}}}"#
    );
    script.accept(newest.parse().expect("a number"), 2, &refusal);
    rows(&client, SEND, []);
    script.answer(410, &[], EXPIRED);
    hand(&script, "snapshot", snapshot(&server, "id = '1'"));
    rows(&client, RECEIVE, []);
    assert_eq!(rows(&client, ALL, []), "1 | milk | 0; 4 | refused | 0");
    assert_eq!(rows(&client, REJECTED, []), "[\"4\"] | 23514");
}

#[test]
fn a_server_that_gives_no_snapshot_is_an_error_and_nothing_is_sent() {
    // What the server answers after the first 410, and the error.
    for (status, expected) in [
        (204, "http://hub/v1/databases/demo/changes?wait_ms=0: answer has no usable snapshot"),
        (410, "server answered 410 cursor_expired, wanted 200 or 204"),
    ] {
        let (client, script, _server) = synced("cls");
        run(&client, "update todos set title = 'rye' where id = '2'");
        script.seen();
        for status in [410, status, status, status, status] {
            script.answer(status, &[], if status == 410 { EXPIRED } else { "" });
        }
        let error = client.query_row(SEND, [], |_row| Ok(())).expect_err("it is refused").to_string();
        assert!(error.contains(expected), "{error}");
        let posts = script.seen().iter().filter(|seen| seen.line.starts_with("POST")).count();
        assert_eq!(posts, 1, "nothing is sent before the snapshot");
        assert_eq!(rows(&client, "select title from todos where id = '2'", []), "rye");
    }
}
