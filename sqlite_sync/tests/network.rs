//! Uploads, downloads and refusals, against a scripted transport; the last test goes through real HTTP.

mod support;

use std::io::{Read, Write};
use std::net::TcpListener;

use rusqlite::Connection;
use support::script::{client, client_of};
use support::{TODOS, World, apply, encode, open, rows, run};

/// Calls a function and expects its result or error.
fn check(connection: &Connection, call: &str, expected: Result<&str, &str>) {
    let found = connection.query_row(&format!("select {call}"), [], |row| row.get::<_, String>(0));
    let found = found.map_err(|error| error.to_string());
    assert!(!found.as_ref().is_err_and(|error| error.contains("secret")), "a key in {found:?}");
    assert_eq!(found.as_deref().map_err(String::as_str), expected);
}

const SEND: &str = "cloudsync_network_send_changes()";
const RECEIVE: &str = "cloudsync_network_receive_changes()";

#[test]
fn an_acknowledged_range_goes_and_numbers_go_on() {
    let (a, script) = client();
    run(&a, "insert into todos values ('1', 'milk', 0), ('2', 'bread', 0)");
    assert_eq!(rows(&a, "select cloudsync_network_has_unsent_changes()", []), "1");
    script.accept(2, 7, "");
    check(&a, SEND, Ok(r#"{"send":{"localVersion":2,"rejected":0,"serverVersion":2,"status":"synced"}}"#));
    let seen = script.seen();
    assert_eq!(seen[0].line, "POST http://hub/v1/databases/demo/uploads");
    assert_eq!(seen[0].header("Authorization"), "Bearer secret-key");
    assert_eq!(seen[0].header("Cloudsync-Range"), "1-2");
    assert_eq!(seen[0].header("Cloudsync-Token"), "");
    assert_eq!(
        seen[0].header("Cloudsync-Site").to_uppercase(),
        rows(&a, "select hex(cloudsync_siteid())", [])
    );
    assert_eq!(
        rows(&a, "select seq, cols from cloudsync_log", []),
        "2 | -5",
        "the newest entry stays as a mark"
    );
    assert_eq!(rows(&a, "select count(*) from cloudsync_outbox", []), "0");
    check(&a, SEND, Ok(r#"{"send":{"localVersion":2,"rejected":0,"serverVersion":2,"status":"synced"}}"#));
    assert_eq!(script.seen().len(), 0, "nothing unsent, nothing asked");
    run(&a, "update todos set done = 1 where id = '1'");
    script.accept(3, 8, "");
    check(&a, SEND, Ok(r#"{"send":{"localVersion":3,"rejected":0,"serverVersion":3,"status":"synced"}}"#));
    let seen = script.seen();
    assert_eq!(
        (seen[0].header("Cloudsync-Range"), seen[0].header("Cloudsync-Token")),
        ("3-3", "00000000000000000000000000000007")
    );
}

#[test]
fn an_edit_that_a_deletion_overtook_before_it_was_sent_is_sent() {
    let (a, script) = client();
    run(&a, "insert into todos values ('1', 'milk', 0)");
    script.accept(1, 7, "");
    rows(&a, &format!("select {SEND}"), []);
    script.seen();
    let mut world = World::new(TODOS);
    apply(world.replica("b"), encode(&a, 0).as_deref()).expect("apply works");
    world.step("b: delete from todos where id = '1'");
    let deletion = encode(world.replica("b"), 0);
    run(&a, "update todos set title = 'oat milk'; update cloudsync_log set ms = ms + 1000");
    apply(&a, deletion.as_deref()).expect("apply works");
    assert_eq!(rows(&a, "select * from todos", []), "");
    script.accept(2, 8, "");
    rows(&a, &format!("select {SEND}"), []);
    let seen = script.seen();
    assert_eq!(seen.len(), 1, "the title is newer than the deletion");
    apply(world.replica("b"), Some(&seen[0].body)).expect("apply works");
    let parked = "select tbl, kind from cloudsync_parked";
    assert_eq!(rows(world.replica("b"), parked, []), "1 | cells");
}

#[test]
fn without_a_server_nothing_is_sent() {
    let (a, _script) = client();
    run(&a, "select cloudsync_terminate(); insert into todos values ('1', 'milk', 0)");
    let no_server = "cloudsync: no server is set, call cloudsync_network_init(url) first";
    check(&a, SEND, Err(no_server));
    check(&a, RECEIVE, Err(no_server));
    assert_eq!(rows(&a, "select cloudsync_network_has_unsent_changes()", []), "1");
}

#[test]
fn an_upload_that_was_not_answered_is_sent_again_with_the_same_id_and_bytes() {
    let (a, script) = client();
    run(&a, "insert into todos values ('1', 'milk', 0)");
    script.fail("connection lost");
    check(
        &a,
        SEND,
        Err(
            "cloudsync: POST http://hub/v1/databases/demo/uploads: no answer (connection lost), wanted 200 or 202",
        ),
    );
    run(&a, "update todos set title = 'changed meanwhile'");
    script.answer(
        503,
        &[("retry-after", "1")],
        r#"{"code":"unavailable","title":"away","detail":"postgres is away"}"#,
    );
    check(
        &a,
        SEND,
        Err(
            "cloudsync: POST http://hub/v1/databases/demo/uploads: server answered 503 unavailable: away: postgres is away, wanted 200 or 202",
        ),
    );
    script.accept(1, 1, "");
    script.accept(2, 2, "");
    check(&a, SEND, Ok(r#"{"send":{"localVersion":2,"rejected":0,"serverVersion":2,"status":"synced"}}"#));
    let seen = script.seen();
    let uploads: Vec<_> = seen
        .iter()
        .map(|one| (one.header("Cloudsync-Upload"), one.header("Cloudsync-Range"), &one.body))
        .collect();
    assert_eq!(uploads[0], uploads[1]);
    assert_eq!(uploads[0], uploads[2]);
    assert_eq!(uploads[3].1, "2-2");
    assert_ne!(uploads[3].0, uploads[0].0);
}

#[test]
fn a_server_that_refuses_is_an_error_and_the_range_is_kept() {
    let (a, script) = client();
    run(&a, "insert into todos values ('1', 'milk', 0)");
    script.answer(401, &[], r#"{"code":"unauthorized","title":"unauthorized","detail":"unknown api key"}"#);
    check(
        &a,
        SEND,
        Err(
            "cloudsync: POST http://hub/v1/databases/demo/uploads: server answered 401 unauthorized: unauthorized: unknown api key, wanted 200 or 202",
        ),
    );
    script.answer(404, &[], "not json");
    check(
        &a,
        SEND,
        Err("cloudsync: POST http://hub/v1/databases/demo/uploads: server answered 404, wanted 200 or 202"),
    );
    script.answer(200, &[], "not json");
    check(&a, SEND, Err("cloudsync: http://hub/v1/databases/demo/uploads: answer has no usable JSON body"));
    assert_eq!(
        rows(&a, "select count(*), cloudsync_network_has_unsent_changes() from cloudsync_outbox", []),
        "1 | 1"
    );
    run(&a, "begin");
    check(
        &a,
        SEND,
        Err("cloudsync: cloudsync_network_send_changes was called inside an open transaction, wanted none"),
    );
    check(
        &a,
        RECEIVE,
        Err(
            "cloudsync: cloudsync_network_receive_changes was called inside an open transaction, wanted none",
        ),
    );
}

#[test]
fn a_refused_row_is_kept_and_travels_whole_until_it_is_accepted() {
    let (a, script) = client();
    run(&a, "insert into todos values ('1', 'milk', 0), ('2', 'bread', 0)");
    let refusal =
        r#"{"id":4,"table":"todos","key":["1"],"sqlstate":"23514","message":"too short","first":1,"last":2}"#;
    script.accept(2, 1, refusal);
    check(&a, SEND, Ok(r#"{"send":{"localVersion":2,"rejected":1,"serverVersion":2,"status":"synced"}}"#));
    assert_eq!(
        rows(&a, "select tbl, key, sqlstate, message from cloudsync_rejected", []),
        "todos | [\"1\"] | 23514 | too short"
    );
    assert_eq!(rows(&a, "select title from todos where id = '1'", []), "milk", "the user's value stays");
    script.seen();
    run(&a, "update todos set done = 1");
    script.accept(4, 2, refusal);
    check(&a, SEND, Ok(r#"{"send":{"localVersion":4,"rejected":0,"serverVersion":4,"status":"synced"}}"#));
    let seen = script.seen();
    assert_eq!(seen[0].header("Cloudsync-Rejected-Seen"), "4");
    // A replica that knows neither row makes only the one that came whole.
    let b = open();
    run(&b, TODOS);
    rows(&b, "select cloudsync_init('todos')", []);
    b.query_row("select cloudsync_payload_apply(?1)", [&seen[0].body], |_row| Ok(())).expect("apply works");
    assert_eq!(rows(&b, "select * from todos", []), "1 | milk | 1");
    assert_eq!(rows(&a, "select count(*) from cloudsync_rejected", []), "0", "accepted, so forgotten");
}

#[test]
fn an_upload_is_sent_again_until_every_refusal_of_it_was_told() {
    let (a, script) = client();
    run(&a, "insert into todos values ('1', 'milk', 0), ('2', 'bread', 0)");
    let refusal = |id: i64, key: i64| {
        format!(
            r#"{{"id":{id},"table":"todos","key":["{key}"],"sqlstate":"23514","message":"short","first":1,"last":2}}"#
        )
    };
    let answer = |refusal: &str, more: i64| {
        let token = "00112233445566778899aabbccddeeff";
        let body = format!(
            r#"{{"status":"duplicate","acked":2,"token":"{token}","rejected":[{refusal}],"rejected_more":{more}}}"#
        );
        script.answer(200, &[], body);
    };
    answer(&refusal(4, 1), 1);
    answer(&refusal(5, 2), 0);
    check(&a, SEND, Ok(r#"{"send":{"localVersion":2,"rejected":2,"serverVersion":2,"status":"synced"}}"#));
    assert_eq!(rows(&a, "select key from cloudsync_rejected order by key", []), "[\"1\"]; [\"2\"]");
    let seen = script.seen();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0].header("Cloudsync-Upload"), seen[1].header("Cloudsync-Upload"));
    assert_eq!(seen[1].header("Cloudsync-Rejected-Seen"), "4");
    // A server that names none and says that there are more is not asked for ever.
    run(&a, "insert into todos values ('3', 'eggs', 0)");
    answer("", 7);
    check(&a, SEND, Ok(r#"{"send":{"localVersion":3,"rejected":2,"serverVersion":3,"status":"synced"}}"#));
}

#[test]
fn a_site_conflict_gives_the_file_a_new_site_for_what_is_unsent() {
    let (a, script) = client();
    run(&a, "insert into todos values ('1', 'sent', 0)");
    script.accept(1, 1, "");
    rows(&a, &format!("select {SEND}"), []);
    let former = rows(&a, "select cloudsync_siteid()", []);
    run(&a, "update todos set title = 'unsent' where id = '1'; insert into todos values ('2', 'new', 0)");
    script.answer(409, &[], r#"{"code":"site_conflict","title":"site conflict"}"#);
    script.accept(3, 9, "");
    check(&a, SEND, Ok(r#"{"send":{"localVersion":3,"rejected":0,"serverVersion":3,"status":"synced"}}"#));
    let seen = script.seen();
    let new = rows(&a, "select cloudsync_siteid()", []);
    assert_ne!(former, new);
    assert_eq!(seen[2].header("Cloudsync-Site"), new);
    assert_eq!((seen[2].header("Cloudsync-Token"), seen[2].header("Cloudsync-Range")), ("", "1-3"));
    assert_ne!(seen[1].header("Cloudsync-Upload"), seen[2].header("Cloudsync-Upload"));
    let sites = "select t.id, s.site from todos_cloudsync m join todos t on t.id = m.pk join cloudsync_sites s on s.ordinal = m.site order by 1";
    assert_eq!(rows(&a, sites, []), format!("1 | {former}; 2 | {new}"), "only what was unsent moved");
}

#[test]
fn two_processes_that_sync_one_file_are_no_conflict() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let (a, script) = client_of(Connection::open(file.path()).expect("it opens"));
    let meanwhile = |sql: &str| {
        *script.meanwhile.lock().expect("no panic held it") = Some((file.path().to_owned(), sql.to_owned()));
    };
    let site = rows(&a, "select cloudsync_siteid()", []);
    run(&a, "insert into todos values ('1', 'milk', 0)");
    // The other one is answered first and has gone on: this one's token is old.
    meanwhile(
        "insert into cloudsync_settings values ('token', 'newer'), ('acknowledged', 1); delete from cloudsync_outbox",
    );
    script.answer(409, &[], r#"{"code":"site_conflict"}"#);
    check(&a, SEND, Ok(r#"{"send":{"localVersion":1,"rejected":0,"serverVersion":1,"status":"synced"}}"#));
    assert_eq!(rows(&a, "select cloudsync_siteid()", []), site);
    // The other one took in the answer first: this one leaves its marks alone.
    run(&a, "insert into todos values ('2', 'bread', 0), ('3', 'oats', 0)");
    meanwhile(
        "update cloudsync_settings set value = 3 where key = 'acknowledged'; update cloudsync_settings set value = 'newest' where key = 'token'; delete from cloudsync_outbox; delete from cloudsync_log where seq < 3",
    );
    script.accept(2, 5, "");
    rows(&a, &format!("select {SEND}"), []);
    let marks = "select group_concat(key || '=' || value) from cloudsync_settings where key in ('token', 'acknowledged')";
    assert_eq!(rows(&a, marks, []), "acknowledged=3,token=newest");
}

#[test]
fn stamps_from_a_clock_that_was_ahead_come_down_in_order() {
    let (a, script) = client();
    run(&a, "insert into todos values ('1', 'milk', 0)");
    run(
        &a,
        "update todos set title = 'first'; update todos set done = 5; update cloudsync_log set ms = ms + 100000000000",
    );
    let now: i64 = rows(&a, "select cast((julianday('now') - 2440587.5) * 86400000.0 as integer)", [])
        .parse()
        .expect("a number");
    let accepted = (now - 5_000) << 16;
    let body = format!(r#"{{"code":"clock_ahead","accepted_hlc":{accepted},"server_time_ms":{now}}}"#);
    script.answer(409, &[("cloudsync-time", &now.to_string())], body);
    script.accept(3, 1, "");
    check(&a, SEND, Ok(r#"{"send":{"localVersion":3,"rejected":0,"serverVersion":3,"status":"synced"}}"#));
    let mut world = World::new(TODOS);
    let body = script.seen().pop().expect("a request").body;
    let b = world.replica("b");
    b.query_row("select cloudsync_payload_apply(?1)", [&body], |_row| Ok(())).expect("no longer ahead");
    assert_eq!(rows(b, "select * from todos", []), "1 | first | 5");
    let hlc: i64 = rows(b, "select hlc from todos_cloudsync", []).parse().expect("a number");
    assert!(hlc > accepted && hlc >> 16 <= now + 1, "{hlc} is above {accepted} and near {now}");
}

#[test]
fn a_download_is_applied_with_its_cursor() {
    let (a, script) = client();
    let mut world = World::new(TODOS);
    world.steps(&["b: insert into todos values ('1', 'milk', 0)"]);
    let first = encode(world.replica("b"), 0).expect("a row");
    world.steps(&["b: insert into todos values ('2', 'bread', 0)"]);
    let second = encode(world.replica("b"), 1).expect("a row");
    let headers = |complete, cursor| {
        [("cloudsync-complete", complete), ("cloudsync-cursor", cursor), ("cloudsync-source", "log")]
    };
    script.answer(200, &headers("false", "c/1"), first.clone());
    script.answer(200, &headers("true", "c/2"), second.clone());
    let bytes = first.len() + second.len();
    check(
        &a,
        RECEIVE,
        Ok(&format!(
            r#"{{"receive":{{"bytes":{bytes},"chunks":2,"complete":true,"rows":2,"tables":["todos"]}}}}"#
        )),
    );
    let seen = script.seen();
    assert_eq!(seen[0].line, "GET http://hub/v1/databases/demo/changes?wait_ms=0");
    assert_eq!(seen[1].line, "GET http://hub/v1/databases/demo/changes?cursor=c%2F1&wait_ms=0");
    script.answer(204, &[("cloudsync-cursor", "c/3")], "");
    check(&a, RECEIVE, Ok(r#"{"receive":{"bytes":0,"chunks":0,"complete":true,"rows":0,"tables":[]}}"#));
    assert_eq!(script.seen()[0].line, "GET http://hub/v1/databases/demo/changes?cursor=c%2F2&wait_ms=0");
}

#[test]
fn a_bad_download_changes_nothing_and_keeps_the_cursor() {
    let (a, script) = client();
    let headers = [("cloudsync-complete", "true"), ("cloudsync-cursor", "c/1"), ("cloudsync-source", "log")];
    script.answer(200, &headers, "no frame at all");
    check(&a, RECEIVE, Err("cloudsync: wrong frame: frame begins with [6e, 6f, 20, 66], wanted \"CSY1\""));
    script.answer(200, &headers[1..], "");
    check(
        &a,
        RECEIVE,
        Err(
            "cloudsync: http://hub/v1/databases/demo/changes?wait_ms=0: answer has no usable Cloudsync-Complete",
        ),
    );
    assert_eq!(rows(&a, "select count(*) from cloudsync_settings where key = 'cursor'", []), "0");
}

#[test]
fn rows_that_were_there_before_go_up_in_parts_below_the_limit() {
    let (a, script) = client();
    run(&a, "create table big (id integer primary key, v blob)");
    run(
        &a,
        "with recursive n(i) as (select 1 union all select i + 1 from n where i < 40) insert into big select i, randomblob(512 * 1024) from n",
    );
    rows(&a, "select cloudsync_init('big', 'cls', 1)", []);
    run(&a, "insert into big values (100, x'00'); update big set v = x'01' where id = 7");
    for token in 0..5 {
        script.accept(0, token, "");
    }
    rows(&a, &format!("select {SEND}"), []);
    let seen = script.seen();
    let b = open();
    run(&b, "create table big (id integer primary key, v blob)");
    rows(&b, "select cloudsync_init('big', 'cls', 1)", []);
    for one in &seen {
        assert!(one.body.len() <= 8 * 1024 * 1024 + 64, "{} bytes", one.body.len());
        b.query_row("select cloudsync_payload_apply(?1)", [&one.body], |_row| Ok(())).expect("apply works");
    }
    let ranges: Vec<&str> = seen.iter().map(|one| one.header("Cloudsync-Range")).collect();
    assert_eq!(ranges, ["1-1", "2-2", "3-65536", "65537-65538"]);
    let all = "select count(*), sum(length(v)), hex(max(case id when 7 then v end)) from big";
    assert_eq!(rows(&a, all, []), rows(&b, all, []));
    assert_eq!(rows(&a, "select cloudsync_network_has_unsent_changes()", []), "0");
}

/// The answer of a server to a path that it does not know.
const OLD: &str = "{\"code\":\"not_found\"}";

#[test]
fn a_long_log_goes_up_in_parts_below_the_limit() {
    let (a, script) = client();
    let numbers = "with recursive n(i) as (select 1 union all select i + 1 from n where i < 36)";
    // Half of the rows compress to nothing, half not at all; the keys mix both.
    run(
        &a,
        &format!(
            "{numbers} insert into todos select i * 7919 % 101, randomblob(512 * 1024), 0 from n;
             {numbers} insert into todos select 'x' || (i * 7919 % 101), printf('%.*c', 524288, 'y'), 0 from n"
        ),
    );
    // A server that is older than chunks takes parts that are uploads of their own.
    script.answer(404, &[], OLD);
    for token in 0..20 {
        script.accept(0, token, "");
    }
    rows(&a, &format!("select {SEND}"), []);
    let seen = script.seen().split_off(1);
    assert!(seen.len() < 10, "{} uploads", seen.len());
    let b = open();
    run(&b, TODOS);
    rows(&b, "select cloudsync_init('todos')", []);
    let mut next = 1;
    for one in &seen {
        assert!(one.body.len() <= 8 * 1024 * 1024, "{} bytes", one.body.len());
        let (first, last) = one.header("Cloudsync-Range").split_once('-').expect("a range has two numbers");
        assert_eq!(first, next.to_string());
        next = last.parse::<i64>().expect("a number") + 1;
        b.query_row("select cloudsync_payload_apply(?1)", [&one.body], |_row| Ok(())).expect("apply works");
    }
    assert_eq!(next, 73);
    let all = "select count(*), sum(length(title)), hex(min(title)) from todos";
    assert_eq!(rows(&a, all, []), rows(&b, all, []));
    assert_eq!(rows(&a, "select cloudsync_network_has_unsent_changes()", []), "0");
}

#[test]
fn a_row_too_large_for_any_upload_is_reported_and_blocks_nothing() {
    let (a, script) = client();
    run(
        &a,
        "insert into todos values ('1', randomblob(9 * 1024 * 1024), 0), ('2', 'small', 0), ('3', printf('%.*c', 20000000, 'x'), 0)",
    );
    script.answer(404, &[], OLD);
    for token in 0..3 {
        script.accept(0, token, "");
    }
    rows(&a, &format!("select {SEND}"), []);
    let rejected = rows(&a, "select key, sqlstate, substr(message, 1, 9) from cloudsync_rejected", []);
    assert_eq!(rejected, "[\"1\"] | 54000 | too large");
    assert_eq!(rows(&a, "select cloudsync_network_has_unsent_changes(), count(*) from todos", []), "0 | 3");
}

#[test]
fn requests_and_answers_pass_through_real_http() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let server = std::thread::spawn(move || {
        let (mut stream, _peer) = listener.accept().expect("a client");
        let mut request = Vec::new();
        let mut part = [0; 4096];
        while !request.windows(4).any(|window| window == b"\r\n\r\n") {
            let length = stream.read(&mut part).expect("a request");
            request.extend_from_slice(&part[..length]);
        }
        stream
            .write_all(b"HTTP/1.1 204 No Content\r\nCloudsync-Cursor: here\r\nCloudsync-Time: 1\r\n\r\n")
            .expect("an answer");
        String::from_utf8_lossy(&request).to_lowercase()
    });
    let a = open();
    run(&a, TODOS);
    rows(&a, "select cloudsync_init('todos')", []);
    run(
        &a,
        &format!(
            "select cloudsync_network_init('http://127.0.0.1:{port}/demo'); select cloudsync_network_set_apikey('k')"
        ),
    );
    check(
        &a,
        "cloudsync_network_sync(0, 0)",
        Ok(
            r#"{"receive":{"bytes":0,"chunks":0,"complete":true,"rows":0,"tables":[]},"send":{"localVersion":0,"rejected":0,"serverVersion":0,"status":"synced"}}"#,
        ),
    );
    let request = server.join().expect("the server ends");
    assert!(request.starts_with("get /v1/databases/demo/changes?wait_ms=0 http/1.1\r\n"), "{request}");
    assert!(
        request.contains("authorization: bearer k\r\n") && request.contains("cloudsync-db-version: 0\r\n"),
        "{request}"
    );
    assert_eq!(rows(&a, "select value from cloudsync_settings where key = 'cursor'", []), "here");
    assert_eq!(
        rows(&a, "select value < -1000000 from cloudsync_settings where key = 'clock_offset_ms'", []),
        "1"
    );
}

#[test]
fn a_locked_file_answers_busy_and_loses_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("a.db");
    let (a, script) = client_of(Connection::open(&path).expect("it opens"));
    a.busy_timeout(std::time::Duration::ZERO).expect("it is a time");
    run(&a, "insert into todos values ('1', 'milk', 0)");
    let other = Connection::open(&path).expect("it opens");
    run(&other, "begin immediate");
    for call in
        [SEND, "cloudsync_payload_encode(0)", "cloudsync_disable('todos')", "cloudsync_network_logout(1)"]
    {
        let error = a.query_row(&format!("select {call}"), [], |_row| Ok(())).expect_err("it is locked");
        assert_eq!(error.sqlite_error_code(), Some(rusqlite::ErrorCode::DatabaseBusy), "{call}: {error}");
    }
    run(&other, "rollback");
    script.accept(1, 1, "");
    check(&a, SEND, Ok(r#"{"send":{"localVersion":1,"rejected":0,"serverVersion":1,"status":"synced"}}"#));
}

#[test]
fn what_the_server_keeps_for_later_is_held_and_asked_for_until_it_is_applied() {
    let (a, script) = client();
    run(&a, "insert into todos values ('1', 'milk', 0)");
    let stored = r#"{"status":"stored","server_time_ms":1,"rejected":[],"lost":[]}"#;
    script.answer(202, &[], stored);
    check(&a, SEND, Ok(r#"{"send":{"localVersion":1,"rejected":0,"serverVersion":0,"status":"syncing"}}"#));
    let first = script.seen().remove(0);
    run(&a, "insert into todos values ('2', 'bread', 0)");
    script.answer(202, &[], stored);
    check(&a, SEND, Ok(r#"{"send":{"localVersion":2,"rejected":0,"serverVersion":0,"status":"syncing"}}"#));
    let again = script.seen();
    assert_eq!(again.len(), 1, "what comes after it waits");
    assert_eq!(again[0].header("Cloudsync-Upload"), first.header("Cloudsync-Upload"));
    assert_eq!(again[0].body, first.body);
    // What the database refused of it is heard now.
    script.accept(
        1,
        7,
        r#"{"id":4,"table":"todos","key":["1"],"sqlstate":"23514","message":"no","first":1,"last":1}"#,
    );
    script.accept(2, 8, "");
    check(&a, SEND, Ok(r#"{"send":{"localVersion":2,"rejected":1,"serverVersion":2,"status":"synced"}}"#));
    let seen = script.seen();
    assert_eq!(seen[0].header("Cloudsync-Upload"), first.header("Cloudsync-Upload"));
    assert_eq!((seen[1].header("Cloudsync-Range"), seen.len()), ("2-2", 2));
}
