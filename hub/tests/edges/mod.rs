//! The edges of a hub that runs in this process: connections that are left open, too many of them, TLS, HTTP/2.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::support::{self, Hub, KEY, SITE};

const SHORT: &str = "head_timeout_ms = 200\nidle_timeout_ms = 200";

/// Reads until the hub ends the connection.
fn read_to_end(mut stream: impl Read) -> String {
    let mut read = Vec::new();
    // A connection that is cut may end with an error, which is an end too; a timeout of the socket is none.
    if let Err(error) = stream.read_to_end(&mut read) {
        let kept_open = matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut);
        assert!(!kept_open, "the connection stays open: {error}");
    }
    String::from_utf8_lossy(&read).into_owned()
}

#[test]
fn a_connection_without_a_request_is_ended() {
    let hub = Hub::start_with(SHORT);
    let settings = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat();
    for (what, bytes) in [
        ("silence", b"".as_slice()),
        ("the beginning of either protocol", b"P"),
        ("half a head", b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: "),
        ("half of HTTP/2's preface", b"PRI * HTTP/2.0\r\n"),
        ("HTTP/2 without a request", &settings),
        ("a request that was answered", b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"),
    ] {
        let answer = read_to_end(hub.send_raw(bytes));
        assert_eq!(answer.contains("200 OK"), what == "a request that was answered", "{what}: {answer}");
    }
}

#[test]
fn a_request_that_waits_is_not_idle() {
    let hub = Hub::start_with(SHORT);
    let answer = read_to_end(
        hub.send_raw(
            format!(
                "GET /v1/databases/demo/changes?wait_ms=1500 HTTP/1.1\r\nHost: x\r\n\
                 Authorization: Bearer {KEY}\r\nCloudsync-Site: {SITE}\r\n\r\n"
            )
            .as_bytes(),
        ),
    );
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
}

fn open_connections(hub: &Hub) -> i64 {
    let metrics = hub.get("/metrics", &[]).body;
    let line = metrics.lines().find(|line| line.starts_with("cloudsync_connections_open "));
    let count = line.and_then(|line| line.rsplit(' ').next()).expect("connections are counted");
    // The one that asks is open too.
    count.parse::<i64>().expect("a number") - 1
}

#[test]
fn a_reader_that_dribbles_over_http_2_is_ended() {
    let hub = Hub::start_with("answer_idle_timeout_ms = 200");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let answer = runtime.block_on(async {
        let client = Client::builder(TokioExecutor::new())
            .http2_only(true)
            .http2_initial_stream_window_size(1_024)
            .build_http::<Empty<&[u8]>>();
        client.get(format!("http://{}/openapi.json", hub.address()).parse().unwrap()).await.unwrap()
    });
    assert_eq!(open_connections(&hub), 1);
    // Nobody says that there is room for more.
    support::until("the connection is cut", || open_connections(&hub) == 0);
    assert!(runtime.block_on(answer.into_body().collect()).is_err(), "the answer is not whole");
}

#[test]
fn connections_beyond_the_limit_are_told_so_at_once() {
    let hub = Hub::start_with("connections_max = 2");
    let first = hub.send_raw(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
    let mut second = hub.send_raw(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(support::read_head(&mut second).starts_with("HTTP/1.1 200"));
    let third = read_to_end(hub.send_raw(b""));
    assert!(third.starts_with("HTTP/1.1 503"), "{third}");
    let (head, body) = third.split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.contains("application/problem+json"), "{head}");
    assert!(head.contains(&format!("Content-Length: {}", body.len())), "{third}");
    let problem: serde_json::Value = serde_json::from_str(body).expect("it is JSON");
    assert_eq!((&problem["code"], &problem["status"]), (&"unavailable".into(), &503.into()));
    drop(first);
    let get = b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    support::until("there is room again", || {
        let mut stream = TcpStream::connect(hub.address()).expect("the hub listens");
        // One that is not let in may be closed before it has written.
        let _closed = stream.write_all(get);
        let answer = read_to_end(stream);
        let counted = answer.contains("cloudsync_connections_open 2");
        assert!(!answer.starts_with("HTTP/1.1 200") || counted, "{answer}");
        answer.starts_with("HTTP/1.1 200") && !answer.contains("cloudsync_connections_refused_total 0")
    });
}

#[test]
fn a_head_beyond_its_limit_is_refused() {
    let hub = Hub::start();
    let long = "x".repeat(100_000);
    let answer = hub.get("/healthz", &[("X-Long", &long)]);
    assert_eq!(answer.status, 431, "{answer:?}");
}

#[test]
fn many_requests_share_one_connection_of_http_2() {
    let hub = Hub::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = Client::builder(TokioExecutor::new()).http2_only(true).build_http::<Empty<&[u8]>>();
        let url = |path: &str| format!("http://{}{path}", hub.address()).parse().unwrap();
        client.get(url("/healthz")).await.unwrap();
        let answers = (0..200).map(|_| client.get(url("/v1/databases/demo/changes")));
        for answer in futures_util::future::join_all(answers).await {
            let answer = answer.unwrap();
            assert_eq!((answer.status().as_u16(), answer.version()), (401, warp::http::Version::HTTP_2));
            assert!(answer.headers().contains_key("cloudsync-request"));
        }
        let metrics = client.get(url("/metrics")).await.unwrap().into_body().collect().await.unwrap();
        let metrics = String::from_utf8(metrics.to_bytes().to_vec()).unwrap();
        assert!(metrics.contains("cloudsync_connections_open 1"), "{metrics}");
        let long = "x".repeat(100_000);
        let request = warp::http::Request::get(format!("http://{}/healthz", hub.address()));
        let request = request.header("x-long", long).body(Empty::new()).unwrap();
        let refused = client.request(request).await.map(|answer| answer.status().as_u16());
        assert!(!matches!(refused, Ok(200)), "{refused:?}");
    });
}

#[test]
fn the_insides_of_the_hub_are_shown_to_who_holds_the_key_for_them() {
    let key = "monitor-0123456789abcdef0123456789";
    let hub = Hub::start_with(&format!("monitoring_key = \"{key}\""));
    let bearer = |key: &str| format!("Bearer {key}");
    for path in ["/metrics", "/readyz"] {
        assert_eq!(hub.get(path, &[]).status, 401, "{path}");
        // The key of a database opens that database only.
        assert_eq!(hub.get(path, &[("Authorization", &bearer(KEY))]).status, 401, "{path}");
        let answer = hub.get(path, &[("Authorization", &bearer(key))]);
        assert!([200, 503].contains(&answer.status), "{path}: {answer:?}");
        assert!(answer.body.contains("demo"), "{answer:?}");
    }
    assert_eq!(hub.get("/healthz", &[]).status, 200);
    let answer = hub.get("/v1/databases/demo/changes", &[("Authorization", &bearer(key))]);
    assert_eq!(answer.status, 401, "the key for monitoring opens no database");
}

/// Makes a certificate for this machine that signs itself, by the openssl that Debian's Postgres packages bring.
fn make_certificate(folder: &Path) {
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
        .args(["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-keyout")
        .arg(folder.join("new.key"))
        .arg("-out")
        .arg(folder.join("new.pem"))
        .output()
        .expect("openssl can be started");
    assert!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr));
    for (new, name) in [("new.key", "hub.key"), ("new.pem", "hub.pem")] {
        std::fs::rename(folder.join(new), folder.join(name)).expect("the files were made");
    }
}

/// Asks for the health over TLS, trusting one certificate; gives what the handshake agreed on and the answer.
fn ask_over_tls(hub: &Hub, trusted: &CertificateDer<'static>, protocols: &[&[u8]]) -> Result<String, String> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).expect("it is a certificate");
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has what they need")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    let name = ServerName::try_from("localhost").expect("it is a name");
    let session = ClientConnection::new(Arc::new(config), name).expect("the configuration is sound");
    let mut stream = StreamOwned::new(session, hub.send_raw(b""));
    let request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request).map_err(|error| error.to_string())?;
    let agreed =
        String::from_utf8(stream.conn.alpn_protocol().unwrap_or_default().to_vec()).expect("it is ASCII");
    if agreed == "h2" {
        return Ok(agreed);
    }
    let mut answer = Vec::new();
    // The session may end without a goodbye once the answer is there.
    let _ended = stream.read_to_end(&mut answer);
    Ok(format!("{agreed} {}", String::from_utf8_lossy(&answer)))
}

#[test]
fn a_hub_speaks_tls_and_takes_a_new_certificate_while_it_runs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let read = || CertificateDer::from_pem_file(path.join("hub.pem")).unwrap();
    make_certificate(path);
    let first = read();
    let place = path.display();
    let tls = format!("[tls]\ncertificate = \"{place}/hub.pem\"\nkey = \"{place}/hub.key\"");
    let hub = Hub::start_with(&tls);
    assert_eq!(ask_over_tls(&hub, &first, &[b"h2", b"http/1.1"]).unwrap(), "h2");
    let answer = ask_over_tls(&hub, &first, &[b"http/1.1"]).unwrap();
    assert!(answer.starts_with("http/1.1 HTTP/1.1 200 OK"), "{answer}");
    let in_the_open = read_to_end(hub.send_raw(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"));
    assert!(!in_the_open.contains("200"), "{in_the_open}");

    make_certificate(path);
    let second = read();
    support::until("the new certificate is shown", || ask_over_tls(&hub, &second, &[]).is_ok());
    ask_over_tls(&hub, &first, &[]).expect_err("the first one is shown no more");

    std::fs::write(path.join("hub.pem"), "nonsense").unwrap();
    let store = tempfile::tempdir().unwrap();
    let whole = format!("listen = \"127.0.0.1:0\"\nstore = \"file://{}\"\n{tls}", store.path().display());
    let error = support::start_error(&whole);
    assert!(error.contains("hub.pem"), "{error}");
}
