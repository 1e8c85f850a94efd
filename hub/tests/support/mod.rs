//! A hub in this process on a free port, and requests to it over plain sockets.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use hub::config::{Config, Environment};
use hub::serve::Server;
use hub::shutdown::Shutdown;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

/// The API key of the database `demo`.
pub(crate) const KEY: &str = "key-0123456789abcdef0123456789abcdef";

/// A site.
pub(crate) const SITE: &str = "00112233445566778899aabbccddeeff";

/// What requests get to finish.
const DRAIN_MAX: Duration = Duration::from_secs(2);

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(30);

/// A hub that runs until it is dropped.
pub(crate) struct Hub {
    runtime: Runtime,
    running: JoinHandle<hub::error::Result<()>>,
    shutdown: Shutdown,
    address: SocketAddr,
    _store: TempDir,
}

/// An answer over HTTP.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The status.
    pub(crate) status: u16,
    /// The body as text.
    pub(crate) body: String,
    head: String,
}

impl Answer {
    fn parse(bytes: &[u8]) -> Answer {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = text.split_once("\r\n\r\n").expect("an answer has a head");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("it has a status");
        Answer { status, body: body.to_owned(), head: head.to_owned() }
    }

    /// A header of the answer.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, text)| text).next()
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }
}

/// The configuration of a hub for one database whose Postgres nobody listens for.
fn configuration(rest: &str) -> Config {
    let database = format!(
        "{rest}\n[[database]]\nname = \"demo\"\n\
         url = \"postgres://nobody@127.0.0.1:1/demo\"\napi_keys = [{{ key = \"{KEY}\", role = \"app\" }}]\n"
    );
    Config::parse(&database, &Environment::new()).expect("the configuration is sound")
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads start")
}

/// Starts a hub that cannot start, and gives the error.
pub(crate) fn start_error(rest: &str) -> String {
    let config = configuration(rest);
    let (_shutdown, ending) = Shutdown::new();
    match runtime().block_on(Server::start(&config, ending)) {
        Ok(_) => panic!("it started with {rest}"),
        Err(error) => error.logged(),
    }
}

/// Waits for a condition.
pub(crate) fn until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "{what}: not within {PATIENCE:?}");
        std::thread::yield_now();
    }
}

/// Reads the head of an answer.
pub(crate) fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).expect("an answer comes") == 1 {
        head.push(byte[0]);
    }
    String::from_utf8(head).expect("a head is text")
}

impl Hub {
    /// Starts a hub on an empty store.
    pub(crate) fn start() -> Hub {
        Hub::start_with("")
    }

    /// Starts a hub on an empty store, with more lines in its configuration.
    pub(crate) fn start_with(more: &str) -> Hub {
        let store = tempfile::tempdir().expect("a folder can be made");
        let place = store.path().display();
        let rest = format!("listen = \"127.0.0.1:0\"\nstore = \"file://{place}\"\n{more}");
        let config = configuration(&rest);
        let runtime = runtime();
        let (shutdown, ending) = Shutdown::new();
        let server = runtime.block_on(Server::start(&config, ending)).expect("the hub starts");
        let address = server.address();
        let running = runtime.spawn(server.run(DRAIN_MAX));
        Hub { runtime, running, shutdown, address, _store: store }
    }

    /// The address that it listens on.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends bytes on a connection of their own.
    pub(crate) fn send_raw(&self, bytes: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).expect("the hub listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket has a timeout");
        stream.write_all(bytes).expect("the hub reads");
        stream
    }

    /// Sends one request and reads the whole answer.
    pub(crate) fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: hub\r\nConnection: close\r\n");
        for (name, text) in headers {
            head.push_str(&format!("{name}: {text}\r\n"));
        }
        head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
        let mut stream = self.send_raw(head.as_bytes());
        // The hub may answer and close before it has read a body that is too large.
        let _closed_early = stream.write_all(body);
        let mut answer = Vec::new();
        let mut part = [0; 4_096];
        loop {
            match stream.read(&mut part) {
                Ok(0) => break,
                Ok(length) => answer.extend_from_slice(&part[..length]),
                Err(_) if !answer.is_empty() => break,
                Err(error) => panic!("no answer to {method} {path}: {error}"),
            }
        }
        Answer::parse(&answer)
    }

    /// Sends a GET.
    pub(crate) fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.ask("GET", path, headers, b"")
    }

    /// Asks the hub to end and waits for it.
    pub(crate) fn end_within(self, patience: Duration) {
        self.shutdown.ask();
        let ended = self.runtime.block_on(async { tokio::time::timeout(patience, self.running).await });
        ended.expect("the hub ends in time").expect("it does not panic").expect("it ends well");
    }
}
