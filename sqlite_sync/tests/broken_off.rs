//! Parts of a snapshot that break off on their way: the rest is asked for, in the same call or by the next program,
//! also of an object store that the server refers to.

mod support;

use rusqlite::Connection;
use support::script::{Script, client, client_of};
use support::{TODOS, encode, open, rows, run};

const RECEIVE: &str = "select cloudsync_network_receive_changes()";
const ALL: &str = "select * from todos order by id";
const ROWS: &str = "1 | milk | 0; 2 | bread | 1";
const TAG: &str = "\"first\"";

/// Frames with two rows.
fn frames() -> Vec<u8> {
    let server = open();
    run(&server, TODOS);
    rows(&server, "select cloudsync_init('todos')", []);
    run(&server, "insert into todos values ('1', 'milk', 0), ('2', 'bread', 1)");
    encode(&server, 0).expect("rows travel")
}

/// Headers of a part of a snapshot: the last one, or one before it.
fn headers<'a>(tag: &'a str, part: &'a str, is_last: bool) -> Vec<(&'a str, &'a str)> {
    let (complete, cursor) = if is_last { ("true", "end") } else { ("false", "within") };
    vec![
        ("cloudsync-complete", complete),
        ("cloudsync-cursor", cursor),
        ("cloudsync-source", "snapshot"),
        ("cloudsync-part", part),
        ("etag", tag),
    ]
}

fn first(tag: &str) -> Vec<(&str, &str)> {
    headers(tag, "0", true)
}

/// The rest of the answer from a byte on.
fn rest(script: &Script, tag: &str, place: &str, body: &[u8]) {
    let mut headers = first(tag);
    headers.push(("content-range", place));
    script.answer(206, &headers, body);
}

fn kept(client: &Connection) -> String {
    rows(client, "select place, tag, length(body) from cloudsync_broken_off", [])
}

fn fails(client: &Connection) -> String {
    client.query_row(RECEIVE, [], |_row| Ok(())).expect_err("no answer").to_string()
}

/// The bytes that each request asked for, and of what.
fn asked(script: &Script) -> Vec<(String, String)> {
    let seen = script.seen();
    seen.iter().map(|seen| (seen.header("Range").into(), seen.header("If-Range").into())).collect()
}

fn of(range: &str, tag: &str) -> (String, String) {
    (range.into(), tag.into())
}

#[test]
fn the_rest_is_asked_for_as_often_as_it_breaks_off() {
    let (a, script) = client();
    let frames = frames();
    script.break_off(200, &first(TAG), &frames[..10]);
    let mut more = first(TAG);
    more.push(("content-range", "bytes 10-99/100"));
    script.break_off(206, &more, &frames[10..30]);
    rest(&script, TAG, "bytes 30-99/100", &frames[30..]);
    rows(&a, RECEIVE, []);
    assert_eq!(rows(&a, ALL, []), ROWS);
    assert_eq!(asked(&script), [of("", ""), of("bytes=10-", TAG), of("bytes=30-", TAG)]);
    assert_eq!(kept(&a), "");
}

#[test]
fn another_program_goes_on_where_one_ended() {
    let folder = tempfile::tempdir().expect("a directory");
    let path = folder.path().join("file");
    let frames = frames();
    let (a, script) = client_of(Connection::open(&path).expect("it opens"));
    script.break_off(200, &first(TAG), &frames[..10]);
    script.fail("no network");
    assert!(fails(&a).contains("no network"));
    assert_eq!(kept(&a), format!("/ | {TAG} | 10"));
    drop(a);
    let (a, script) = (Connection::open(&path).expect("it opens"), Script::default());
    cloudsync::register_with(&a, Box::new(script.clone())).expect("functions register");
    rows(&a, "select cloudsync_network_init('http://hub/demo')", []);
    script.answer(503, &[], "");
    fails(&a);
    assert_eq!(kept(&a), format!("/ | {TAG} | 10"), "a refusal for now takes nothing away");
    rest(&script, TAG, "bytes 10-99/100", &frames[10..]);
    rows(&a, RECEIVE, []);
    assert_eq!(rows(&a, ALL, []), ROWS);
    assert_eq!(asked(&script), [of("bytes=10-", TAG), of("bytes=10-", TAG)]);
    assert_eq!(kept(&a), "");
}

#[test]
fn what_is_new_meanwhile_comes_whole() {
    let (a, script) = client();
    let frames = frames();
    script.break_off(200, &first("\"older\""), b"something else");
    script.answer(200, &first(TAG), frames);
    rows(&a, RECEIVE, []);
    assert_eq!((rows(&a, ALL, []).as_str(), kept(&a).as_str()), (ROWS, ""));
}

#[test]
fn pieces_that_do_not_fit_are_not_joined() {
    for (tag, place) in [("\"other\"", "bytes 10-99/100"), (TAG, "bytes 11-99/100"), (TAG, "rows 10-")] {
        let (a, script) = client();
        let frames = frames();
        script.break_off(200, &first(TAG), &frames[..10]);
        rest(&script, tag, place, &frames[10..]);
        script.answer(200, &first(TAG), frames);
        rows(&a, RECEIVE, []);
        assert_eq!(rows(&a, ALL, []), ROWS, "{tag} {place}");
        assert_eq!(asked(&script)[2], of("", ""), "it is asked for anew");
    }
    let (a, script) = client();
    let frames = frames();
    script.break_off(200, &first(TAG), &frames[..10]);
    script.answer(416, &[("content-range", "bytes */5")], "");
    script.answer(200, &first(TAG), frames);
    rows(&a, RECEIVE, []);
    assert_eq!(rows(&a, ALL, []), ROWS);
}

#[test]
fn only_a_named_part_of_a_snapshot_is_kept() {
    for (source, tag) in [("log", TAG), ("snapshot", "W/\"weak\""), ("snapshot", "none")] {
        let (a, script) = client();
        let mut headers = first(tag);
        headers[2] = ("cloudsync-source", source);
        script.break_off(200, &headers, &frames()[..10]);
        assert!(fails(&a).contains("the connection broke"));
        assert_eq!((kept(&a).as_str(), asked(&script).len()), ("", 1), "{source} {tag}");
    }
    let (a, script) = client();
    script.break_off(200, &first(TAG), b"");
    fails(&a);
    assert_eq!(kept(&a), "");
}

#[test]
fn a_line_that_breaks_again_and_again_ends_the_call_and_loses_nothing() {
    let (a, script) = client();
    let frames = frames();
    script.break_off(200, &first(TAG), &frames[..1]);
    let mut last = 1;
    while script.answers.lock().expect("no panic held it").len() < 9 {
        let place = format!("bytes {last}-99/100");
        let mut more = first(TAG);
        more.push(("content-range", &place));
        script.break_off(206, &more, &frames[last..=last]);
        last += 1;
    }
    assert!(fails(&a).contains("the connection broke"));
    assert_eq!(kept(&a), format!("/ | {TAG} | 9"));
    rest(&script, TAG, "bytes 9-99/100", &frames[9..]);
    rows(&a, RECEIVE, []);
    assert_eq!(rows(&a, ALL, []), ROWS);
}

#[test]
fn what_came_before_a_part_that_breaks_off_is_applied() {
    let (a, script) = client();
    let frames = frames();
    script.answer(200, &headers("\"zero\"", "0", false), frames.clone());
    script.break_off(200, &headers(TAG, "1", true), &frames[..10]);
    script.fail("no network");
    fails(&a);
    assert_eq!(rows(&a, ALL, []), ROWS, "the first part is there");
    assert_eq!(kept(&a), format!("/within | {TAG} | 10"));
    assert_eq!(script.seen().len(), 3);
    let mut more = headers(TAG, "1", true);
    more.push(("content-range", "bytes 10-99/100"));
    script.answer(206, &more, &frames[10..]);
    rows(&a, RECEIVE, []);
    let seen = script.seen();
    assert!(seen[0].line.contains("cursor=within"), "{seen:?}");
    assert_eq!((seen.len(), seen[0].header("Range")), (1, "bytes=10-"));
    assert_eq!(kept(&a), "");
}

#[test]
fn another_user_gets_nothing_of_it() {
    let (a, script) = client();
    script.break_off(200, &first(TAG), &frames()[..10]);
    script.fail("no network");
    fails(&a);
    rows(&a, "select cloudsync_network_logout()", []);
    assert_eq!(kept(&a), "");
}

const URL: &str = "http://store/part?signature=hidden";

/// Says where the only part is.
fn refer(script: &Script, url: &str) {
    let mut headers = first(TAG);
    headers.push(("location", url));
    script.answer(307, &headers, "");
}

#[test]
fn a_part_is_fetched_from_the_store_without_what_is_for_the_server() {
    let (a, script) = client();
    let frames = frames();
    refer(&script, URL);
    script.break_off(200, &[("etag", "\"of the store\"")], &frames[..10]);
    refer(&script, URL);
    script.answer(206, &[("content-range", "bytes 10-99/100")], &frames[10..]);
    rows(&a, RECEIVE, []);
    assert_eq!(rows(&a, ALL, []), ROWS);
    let seen = script.seen();
    assert_eq!(seen.len(), 4);
    for (asked, range) in [(&seen[1], ""), (&seen[3], "bytes=10-")] {
        assert_eq!(asked.line, format!("GET {URL}"));
        assert!(asked.headers.iter().all(|(name, _)| name == "Range"), "{:?}", asked.headers);
        assert_eq!(asked.header("Range"), range);
    }
    assert_eq!(seen[2].header("Cloudsync-Redirects"), "follow");
}

#[test]
fn what_the_store_does_not_give_the_server_gives() {
    for url in [URL, "ftp://store/part", ""] {
        for status in [403, 404, 206, 500] {
            let (a, script) = client();
            refer(&script, url);
            if url == URL {
                script.answer(status, &[], "no");
            }
            script.answer(200, &first(TAG), frames());
            rows(&a, RECEIVE, []);
            assert_eq!(rows(&a, ALL, []), ROWS, "{url} {status}");
            let seen = script.seen();
            let last = seen.last().expect("it was asked");
            assert!(
                last.line.starts_with("GET http://hub/") && last.header("Cloudsync-Redirects").is_empty()
            );
        }
    }
    let (a, script) = client();
    refer(&script, URL);
    script.fail("no way to the store");
    script.answer(204, &[("cloudsync-cursor", "c")], "");
    rows(&a, RECEIVE, []);
    script.seen();
    refer(&script, URL);
    let error = fails(&a);
    assert!(error.contains("307") && !error.contains("hidden"), "it did not ask for that: {error}");
    assert_eq!(script.seen().len(), 1, "the store is not tried again");
}

#[test]
fn no_error_tells_where_the_store_is() {
    let (a, script) = client();
    for _ in 0..9 {
        refer(&script, URL);
        script.break_off(200, &[], &frames()[..10]);
    }
    let error = fails(&a);
    assert!(error.contains("store broke off") && !error.contains("hidden"), "{error}");
}
