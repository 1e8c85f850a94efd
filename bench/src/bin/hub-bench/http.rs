//! A plain HTTP connection to a hub, thousands of which fit into one process.

use std::fmt::Debug;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, HOST};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tests::hub::API_KEY;
use tokio::net::TcpStream;

/// One connection that stays open.
pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// The path of the database, as in `/v1/databases/bench`.
    database: String,
    site: String,
}

/// An answer, read to its end.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
    pub(crate) cursor: Option<String>,
    pub(crate) is_complete: bool,
}

fn fine<T, E: Debug>(result: Result<T, E>, what: &str) -> T {
    result.unwrap_or_else(|error| panic!("{what}: {error:?}"))
}

impl Connection {
    /// Connects a site to the database behind an address like `http://127.0.0.1:1/bench`.
    pub(crate) async fn open(address: &str, site: u128) -> Self {
        let rest = address.strip_prefix("http://").expect("an address of http");
        let (host, database) = rest.split_once('/').expect("an address with a database");
        let stream = fine(TcpStream::connect(host).await, "connect");
        fine(stream.set_nodelay(true), "set an option of a socket");
        let (sender, connection) = fine(handshake(TokioIo::new(stream)).await, "begin HTTP");
        tokio::spawn(connection);
        Self { sender, database: format!("/v1/databases/{database}"), site: format!("{site:032x}") }
    }

    async fn ask(&mut self, method: &str, path: &str, headers: &[(&str, String)], body: Bytes) -> Answer {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.database))
            .header(HOST, "bench")
            .header(AUTHORIZATION, format!("Bearer {API_KEY}"))
            .header("cloudsync-site", &self.site);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        fine(self.sender.ready().await, "keep a connection");
        let answer = self.sender.send_request(request.body(Full::new(body)).expect("sound headers")).await;
        let (head, body) = fine(answer, "get an answer").into_parts();
        let header =
            |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        Answer {
            status: head.status,
            cursor: header("cloudsync-cursor"),
            is_complete: header("cloudsync-complete").as_deref() == Some("true"),
            body: fine(body.collect().await, "read a body").to_bytes(),
        }
    }

    /// Asks for what is new since a cursor.
    pub(crate) async fn changes(&mut self, cursor: Option<&str>, wait_ms: u32) -> Answer {
        let path = format!("/changes?cursor={}&wait_ms={wait_ms}", cursor.unwrap_or_default());
        let answer = self.ask("GET", &path, &[], Bytes::new()).await;
        assert!(answer.status.is_success(), "a download was answered {}: {:?}", answer.status, answer.body);
        answer
    }

    /// Downloads until nothing is left; gives the cursor at the end and the bytes that came.
    pub(crate) async fn catch_up(&mut self) -> (String, usize) {
        let (mut cursor, mut bytes) = (None, 0);
        loop {
            let answer = self.changes(cursor.as_deref(), 0).await;
            bytes += answer.body.len();
            cursor = answer.cursor;
            if answer.is_complete {
                return (cursor.expect("an answer has a cursor"), bytes);
            }
        }
    }

    /// Sends one upload.
    pub(crate) async fn upload(&mut self, headers: &[(&str, String)], payload: Bytes) -> Answer {
        self.ask("POST", "/uploads", headers, payload).await
    }
}
