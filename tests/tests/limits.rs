//! Databases at their limits: clients wait and go on, and nothing is lost.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;

use serde_json::Value;
use tests::hub::{API_KEY, Hub};
use tests::stage::{Setting, Stage, on_both};
use tests::wait;

const SITE: &str = "00112233445566778899aabbccddeeff";

/// A stage whose database has limits.
fn stage_with(setting: Setting<'_>, limits: &str) -> Stage {
    let mut stage = Stage::new(setting);
    limit(&mut stage, limits);
    stage
}

/// Starts the hub again with other limits.
fn limit(stage: &mut Stage, limits: &str) {
    stage.hub.configure(&stage.database, "", &format!("[database.limits]\n{limits}"));
    stage.play(&["hub: terminate", "hub: start"]);
}

/// Opens a request by hand, up to the end of its head.
fn begin(hub: &Hub, request: &str, more: &str) -> TcpStream {
    let address = hub.base().replace("http://", "");
    let mut stream = TcpStream::connect(address).expect("the hub listens");
    stream.set_read_timeout(Some(wait::PATIENCE)).expect("a socket has a timeout");
    let (method, path) = request.split_once(' ').expect("a method and a path");
    let database = hub.address().replace(&hub.base(), "");
    let head = format!(
        "{method} /v1/databases{database}/{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
         Authorization: Bearer {API_KEY}\r\nCloudsync-Site: {SITE}\r\n{more}\r\n"
    );
    stream.write_all(head.as_bytes()).expect("the hub reads");
    stream
}

/// Reads an answer to its end: its status, when to come again, its body.
fn end(mut stream: TcpStream) -> (u16, Option<u64>, String) {
    let mut answer = Vec::new();
    // The hub may cut off what it did not read.
    let _reset = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    let after = head.lines().find_map(|line| line.strip_prefix("retry-after: "));
    (status, after.map(|after| after.parse().expect("seconds")), body.to_owned())
}

/// How often this limit was met.
fn met(hub: &Hub, limit: &str) -> u64 {
    let name = "cloudsync_limited_total{";
    let word = format!("limit=\"{limit}\"");
    let text = hub.get("/metrics").body;
    let line = text.lines().find(|line| line.starts_with(name) && line.contains(&word));
    let count = line.and_then(|line| line.rsplit(' ').next()).expect("the limit is counted");
    count.parse().expect("a number")
}

#[test]
fn above_the_rate_a_client_waits_as_told_and_loses_nothing() {
    on_both(|setting| {
        let mut stage = stage_with(setting, "requests_per_s_max = 1");
        stage.play(&["a: insert into todo values ('0', 'first', null, 0)", "a: sync"]);
        let (after, body) = wait::until("the rate is met", || {
            let (status, after, body) = end(begin(&stage.hub, "GET metrics", ""));
            (status == 429).then_some((after, body))
        });
        let problem: Value = serde_json::from_str(&body).expect("a problem is JSON");
        assert_eq!((&problem["code"], &problem["limit"]), (&"too_many_requests".into(), &"requests".into()));
        assert_eq!(after, Some(1));
        // A sync asks more than once, so at least one of them has to wait.
        let before = met(&stage.hub, "requests");
        stage.play(&["a: insert into todo values ('1', 'second', null, 0)", "a: sync"]);
        assert!(met(&stage.hub, "requests") > before);
        assert_eq!(stage.postgres.rows("select title from todo order by id"), ["first", "second"]);
    });
}

#[test]
fn while_too_many_bytes_are_on_their_way_a_client_waits() {
    on_both(|setting| {
        let mut stage = stage_with(setting, "in_flight_bytes_max = 1000");
        stage.play(&["a: insert into todo values ('0', 'first', null, 0)", "a: sync"]);
        // It announces what it never sends.
        let upload = format!(
            "Cloudsync-Upload: {SITE}\r\nCloudsync-Range: 1-1\r\nCloudsync-Db-Version: 1\r\nContent-Length: 5000\r\n"
        );
        let stuck = begin(&stage.hub, "POST uploads", &upload);
        wait::until("its bytes are counted", || {
            (stage.hub.metric("cloudsync_in_flight_bytes") >= 5000.0).then_some(())
        });
        stage.play(&["a: insert into todo values ('1', 'second', null, 0)"]);
        let (hub, client) = (&stage.hub, stage.stranger("b"));
        client.join(&hub.address(), API_KEY);
        client.run("insert into todo values ('2', 'third', null, 0)");
        thread::scope(|scope| {
            let syncing = scope.spawn(|| {
                client.sync();
                client
            });
            wait::until("the client is told to wait", || (met(hub, "bytes") > 0).then_some(()));
            drop(stuck);
            let client = syncing.join().expect("it syncs when there is room");
            assert_eq!(client.value("select cloudsync_network_has_unsent_changes()"), "0");
        });
        stage.play(&["a: sync"]);
        assert_eq!(stage.postgres.rows("select title from todo order by id"), ["first", "second", "third"]);
        wait::until("nothing is counted for ever", || {
            (stage.hub.metric("cloudsync_in_flight_bytes") == 0.0).then_some(())
        });
    });
}

#[test]
fn who_finds_no_room_to_wait_is_told_what_is_new_all_the_same() {
    on_both(|setting| {
        let mut stage = stage_with(setting, "waits_max = 1");
        stage.play(&["a: sync"]);
        let cursor = stage.client("a").value("select value from cloudsync_settings where key = 'cursor'");
        let download = format!("GET changes?cursor={cursor}&wait_ms=60000");
        let first = begin(&stage.hub, &download, "");
        wait::until("it waits", || (stage.hub.metric("cloudsync_long_polls_open") == 1.0).then_some(()));
        let (status, after, body) = end(begin(&stage.hub, &download, ""));
        assert_eq!((status, after), (429, Some(1)), "{body}");
        assert!(body.contains("\"waits\""), "{body}");
        stage.play(&["pg: insert into todo values ('0', 'new', null, 0)"]);
        assert_eq!(end(first).0, 200);
        let second = begin(&stage.hub, "GET changes?wait_ms=0", "");
        assert_eq!(end(second).0, 200);
        // Whoever waits is behind the news.
        stage.play(&["a: sync"]);
        let newest = stage.client("a").value("select value from cloudsync_settings where key = 'cursor'");
        let waiting = begin(&stage.hub, &format!("GET changes?cursor={newest}&wait_ms=60000"), "");
        wait::until("it waits", || (stage.hub.metric("cloudsync_long_polls_open") == 1.0).then_some(()));
        let (status, _after, _body) = end(begin(&stage.hub, &download, ""));
        assert_eq!(status, 200, "what is new since its cursor is told without a wait");
        drop(waiting);
        // The client of an app does the same: it asks again until there is room or news.
        stage.play(&["pg: insert into todo values ('1', 'newer', null, 0)"]);
        stage.client("a").sync_waiting(60_000);
        assert_eq!(stage.client("a").rows("select title from todo order by id"), ["new", "newer"]);
    });
}

#[test]
fn a_reader_that_dribbles_holds_nothing_for_long() {
    on_both(|setting| {
        let mut stage = Stage::new(setting);
        // Longer than a client on a busy machine is held up.
        stage.hub.configure(&stage.database, "answer_idle_timeout_ms = 3000", "");
        stage.play(&["hub: terminate", "hub: start"]);
        stage.run_at_centre(
            "insert into todo select n, (select string_agg(md5(random()::text), '') from generate_series(1, 32) m
                 where n > 0), null, 0 from generate_series(1, 4000) n",
            "with recursive n (n) as (values (1) union all select n + 1 from n where n < 4000)
             insert into todo select n, hex(randomblob(512)), null, 0 from n",
        );
        let held = || stage.hub.metric("cloudsync_in_flight_bytes");
        let mut reader = begin(&stage.hub, "GET changes?wait_ms=0", "");
        wait::until("its answer is on its way", || (held() > 1_000_000.0).then_some(()));
        wait::until("nobody waits for it", || {
            let one = reader.read(&mut [0]).expect("there is always a byte more");
            assert_eq!(one, 1);
            (held() == 0.0).then_some(())
        });
        let mut rest = Vec::new();
        let _reset = reader.read_to_end(&mut rest);
        assert!(rest.len() < 1_000_000, "{} bytes came after all", rest.len());
        stage.settle();
        stage.all_equal();
    });
}

#[test]
fn whoever_waits_leaves_connections_for_what_does_not() {
    on_both(|setting| {
        let mut stage = Stage::new(setting);
        stage.hub.configure(&stage.database, "connections_max = 10", "");
        stage.play(&["hub: terminate", "hub: start", "a: sync"]);
        let cursor = stage.client("a").value("select value from cloudsync_settings where key = 'cursor'");
        let download = format!("GET changes?cursor={cursor}&wait_ms=60000");
        // The connection of the last look may not be closed yet: then there is none for the next.
        let is_waiting = |waits: f64| stage.hub.try_metric("cloudsync_long_polls_open") == Ok(waits);
        let mut waiting = Vec::new();
        for count in [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0] {
            waiting.push(begin(&stage.hub, &download, ""));
            wait::until("it waits", || is_waiting(count).then_some(()));
        }
        // The client keeps a connection of its own, and is the ninth; the tenth is for whoever does not wait.
        stage.play(&["a: insert into todo values ('0', 'sent', null, 0)", "a: sync"]);
        assert_eq!(stage.postgres.rows("select title from todo"), ["sent"]);
        for first in waiting {
            assert_eq!(end(first).0, 200, "whoever waited hears the news");
        }
    });
}

#[test]
fn a_full_store_takes_no_upload_and_gives_what_is_new() {
    on_both(|setting| {
        let mut stage = stage_with(setting, "stored_bytes_max = 1");
        stage.play(&["a: insert into todo values ('0', 'first', null, 0)"]);
        // Nothing is stored yet, or a snapshot is already: then nothing is taken from the start.
        wait::until("the store is full", || {
            let synced = stage.client("a").try_sync();
            synced.is_err_and(|error| error.contains("507 storage_full")).then_some(()).or_else(|| {
                stage.client("a").run("update todo set done = done + 1");
                None
            })
        });
        // A node that begins knows what the store holds as soon as it leads.
        stage.play(&[
            "hub: terminate",
            "hub: start",
            "pg: insert into todo values ('9', 'by a service', null, 0)",
        ]);
        stage.play(&["a: insert into todo values ('1', 'kept', null, 0)"]);
        wait::until("it is full again", || {
            let synced = stage.client("a").try_sync();
            let has_news = stage.client("a").value("select count(*) from todo where id = '9'") == "1";
            (synced.is_err_and(|error| error.contains("507")) && has_news).then_some(())
        });
        assert_eq!(stage.client("a").value("select cloudsync_network_has_unsent_changes()"), "1");
        assert!(met(&stage.hub, "storage") > 0);
        limit(&mut stage, "stored_bytes_max = 1000000000");
        stage.play(&["a: sync"]);
        let done = stage.client("a").value("select done from todo where id = '0'");
        stage.settles_at(&[&format!("0|first|NULL|{done}"), "1|kept|NULL|0", "9|by a service|NULL|0"]);
    });
}
