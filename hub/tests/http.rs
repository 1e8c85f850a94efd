//! The HTTP surface of a hub that runs in this process, on a free port, with a directory store.
//!
//! Postgres is not there: what needs it is answered 503, and everything else is answered all the same.

mod edges;
#[path = "cases/rest_api.rs"]
mod rest_api;
mod support;

use std::time::Duration;

use support::{Answer, Hub, KEY, SITE};

const WRONG_KEY: &str = "wrong-0123456789abcdef0123456789";

/// Checks the status and the slug of a problem.
fn check_problem(answer: &Answer, status: u16, slug: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{answer:?}");
    let problem = answer.json();
    assert_eq!(problem["code"], slug, "{answer:?}");
    assert_eq!(problem["status"], status, "{answer:?}");
    assert_eq!(problem["type"], format!("about:blank#{slug}"), "{answer:?}");
    assert!(problem["title"].is_string() && problem["detail"].is_string(), "{answer:?}");
}

#[test]
fn every_answer_tells_the_time_and_its_number() {
    let hub = Hub::start();
    let mut numbers = std::collections::BTreeSet::new();
    for path in ["/healthz", "/readyz", "/metrics", "/nowhere", "/v1/databases/demo/changes"] {
        let answer = hub.get(path, &[]);
        let time = answer.header("cloudsync-time").and_then(|time| time.parse::<u64>().ok());
        assert!(time.is_some_and(|time| time > 1_700_000_000_000), "{path}: {answer:?}");
        assert!(numbers.insert(answer.header("cloudsync-request").unwrap_or_default().to_owned()), "{path}");
    }
}

#[test]
fn an_unknown_path_or_method_is_a_problem() {
    let hub = Hub::start();
    for path in ["/", "/v1", "/v1/databases/", "/v1/databases/demo/changes/x", "/v2/databases/demo/changes"] {
        check_problem(&hub.get(path, &[]), 404, "not_found");
    }
    for (method, path, allowed) in [
        ("GET", "/v1/databases/demo/uploads", "POST"),
        ("POST", "/v1/databases/demo/changes", "GET"),
        ("DELETE", "/healthz", "GET, HEAD"),
        ("PUT", "/metrics", "GET"),
    ] {
        let answer = hub.ask(method, path, &[], b"");
        check_problem(&answer, 405, "method_not_allowed");
        assert_eq!(answer.header("allow"), Some(allowed));
    }
}

#[test]
fn a_wrong_key_is_unauthorized_and_an_unknown_database_is_named_to_who_has_a_key() {
    let hub = Hub::start();
    let bearer = |key: &str| format!("Bearer {key}");
    for path in ["/v1/databases/demo/changes", "/v1/databases/nowhere/changes"] {
        check_problem(&hub.get(path, &[]), 401, "unauthorized");
        let answer = hub.get(path, &[("Authorization", &bearer(WRONG_KEY))]);
        check_problem(&answer, 401, "unauthorized");
        assert!(!answer.body.contains(WRONG_KEY), "{answer:?}");
    }
    let answer = hub.get("/v1/databases/nowhere/changes", &[("Authorization", &bearer(KEY))]);
    check_problem(&answer, 404, "unknown_database");
    assert!(answer.body.contains("nowhere"), "{answer:?}");
}

/// The headers of an upload that is in order.
fn upload_headers() -> Vec<(&'static str, String)> {
    vec![
        ("Authorization", format!("Bearer {KEY}")),
        ("Cloudsync-Site", SITE.to_owned()),
        ("Cloudsync-Upload", "ffeeddccbbaa99887766554433221100".to_owned()),
        ("Cloudsync-Range", "1-2".to_owned()),
        ("Cloudsync-Db-Version", "2".to_owned()),
    ]
}

fn upload(hub: &Hub, body: &[u8]) -> Answer {
    let headers = upload_headers();
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, text)| (*name, text.as_str())).collect();
    hub.ask("POST", "/v1/databases/demo/uploads", &headers, body)
}

#[test]
fn an_upload_without_one_of_its_headers_is_refused_by_its_name() {
    let hub = Hub::start();
    let headers = upload_headers();
    for left_out in ["Cloudsync-Site", "Cloudsync-Upload", "Cloudsync-Range", "Cloudsync-Db-Version"] {
        let headers: Vec<(&str, &str)> = headers
            .iter()
            .filter(|(name, _)| *name != left_out)
            .map(|(name, text)| (*name, text.as_str()))
            .collect();
        let answer = hub.ask("POST", "/v1/databases/demo/uploads", &headers, b"");
        check_problem(&answer, 400, "bad_request");
        assert!(answer.body.contains(left_out), "{answer:?}");
    }
}

#[test]
fn a_body_that_is_no_payload_is_refused_though_postgres_is_away() {
    let hub = Hub::start();
    let frame = shared_format::payload::encode_frame(&shared_format::payload::PayloadBuilder::new().finish());
    let mut damaged = frame.clone();
    *damaged.last_mut().unwrap() ^= 1;
    let two = [frame.as_slice(), frame.as_slice()].concat();
    let rubbish = shared_format::payload::encode_frame(b"no FlatBuffer at all");
    for body in [&b""[..], b"select 1", &frame[..frame.len() - 1], &damaged, &two, &rubbish] {
        check_problem(&upload(&hub, body), 422, "invalid_payload");
    }
    let answer = upload(&hub, &frame);
    check_problem(&answer, 503, "unavailable");
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
}

#[test]
fn a_body_beyond_its_limits_is_refused() {
    let hub = Hub::start();
    check_problem(&upload(&hub, &vec![0; 9 * 1024 * 1024]), 413, "too_large");
    // A frame that says that it expands to more than it may.
    let mut frame = shared_format::payload::encode_frame(&[0; 2_000]);
    frame[9..13].copy_from_slice(&u32::MAX.to_le_bytes());
    check_problem(&upload(&hub, &frame), 413, "too_large");
}

#[test]
fn a_download_with_a_wrong_parameter_is_refused() {
    let hub = Hub::start();
    let key = format!("Bearer {KEY}");
    let headers = [("Authorization", key.as_str()), ("Cloudsync-Site", SITE)];
    for query in ["wait_ms=60001", "wait_ms=x", "cursor=%ff", "cursor=nonsense"] {
        let answer = hub.get(&format!("/v1/databases/demo/changes?{query}"), &headers);
        check_problem(&answer, 400, "bad_request");
    }
    check_problem(&hub.get("/v1/databases/demo/changes", &headers[..1]), 400, "bad_request");
}

#[test]
fn a_hub_without_postgres_is_alive_but_not_ready() {
    let hub = Hub::start();
    assert_eq!(hub.get("/healthz", &[]).status, 200);
    let answer = hub.get("/readyz", &[]);
    assert_eq!(answer.status, 503, "{answer:?}");
    let state = answer.json();
    assert_eq!(state["databases"][0]["name"], "demo");
    assert_eq!(state["databases"][0]["reachable"], false);
}

#[test]
fn what_happens_is_counted() {
    let hub = Hub::start();
    upload(&hub, b"rubbish");
    let metrics = hub.get("/metrics", &[]);
    assert_eq!(metrics.status, 200);
    for line in [
        "cloudsync_uploads_total{database=\"demo\",status=\"invalid_payload\"} 1",
        "cloudsync_received_bytes_total{database=\"demo\"} 7",
        "process_open_fds",
    ] {
        assert!(metrics.body.contains(line), "{line} in\n{}", metrics.body);
    }
    assert!(!metrics.body.contains(KEY));
}

#[test]
fn a_half_sent_head_or_body_does_not_keep_the_hub_from_ending() {
    let hub = Hub::start();
    let _head = hub.send_raw(b"GET /healthz HTTP/1.1\r\nHost: x\r\n");
    let mut head =
        "POST /v1/databases/demo/uploads HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n".to_owned();
    for (name, text) in upload_headers() {
        head.push_str(&format!("{name}: {text}\r\n"));
    }
    let _body = hub.send_raw(format!("{head}\r\nhalf of it").as_bytes());
    let mut idle = hub.send_raw(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(support::read_head(&mut idle).starts_with("HTTP/1.1 200"));
    hub.end_within(Duration::from_secs(15));
}

#[test]
fn a_wait_ends_at_once_when_the_hub_does() {
    let hub = Hub::start();
    let waiting = hub.send_raw(
        format!(
            "GET /v1/databases/demo/changes?wait_ms=60000 HTTP/1.1\r\nHost: x\r\n\
             Authorization: Bearer {KEY}\r\nCloudsync-Site: {SITE}\r\n\r\n"
        )
        .as_bytes(),
    );
    let gauge = "cloudsync_long_polls_open{database=\"demo\"} 1";
    support::until("the hub counts the wait", || hub.get("/metrics", &[]).body.contains(gauge));
    hub.end_within(Duration::from_secs(15));
    let mut waiting = waiting;
    let head = support::read_head(&mut waiting);
    // There was no cursor to give back, so the client is asked to come again.
    assert!(head.starts_with("HTTP/1.1 503"), "{head}");
}

#[test]
fn an_object_that_cannot_be_kept_stops_the_start() {
    let error = support::start_error("listen = \"127.0.0.1:0\"\nstore = \"file:///dev/null/store\"");
    assert!(error.contains("/dev/null"), "{error}");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().display();
    let error = support::start_error(&format!("listen = \"{taken}\"\nstore = \"file://{store}\""));
    assert!(error.contains(&taken.to_string()), "{error}");
}
