//! A transport that gives prepared answers, and clients that talk to it.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cloudsync::network::{Cancelled, Request, Response, Transport, TransportError};
use rusqlite::{Connection, InterruptHandle};

use super::{TODOS, rows, run};

/// A request as the script saw it: first line, headers, body.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) line: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }
}

/// Gives prepared answers and keeps the requests.
#[derive(Clone, Default)]
pub(crate) struct Script {
    /// What another process does to this file while the next request is on its way.
    pub(crate) meanwhile: Arc<Mutex<Option<(PathBuf, String)>>>,
    pub(crate) answers: Arc<Mutex<VecDeque<Result<Response, TransportError>>>>,
    pub(crate) seen: Arc<Mutex<Vec<Seen>>>,
    /// How long the client waited because an answer asked for it.
    pub(crate) paused: Arc<Mutex<Vec<Duration>>>,
    /// What ends a wait of the client.
    pub(crate) interrupt: Arc<Mutex<Option<InterruptHandle>>>,
}

impl Transport for Script {
    fn send(&self, request: &Request<'_>) -> Result<Response, TransportError> {
        let headers =
            request.headers.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let line = format!("{} {}", request.method.name(), request.url);
        self.seen.lock().expect("no panic held it").push(Seen { line, headers, body: request.body.to_vec() });
        if let Some((path, sql)) = self.meanwhile.lock().expect("no panic held it").take() {
            run(&Connection::open(path).expect("it opens"), &sql);
        }
        self.answers.lock().expect("no panic held it").pop_front().expect("the script has an answer")
    }

    fn pause(&self, wait: Duration, _cancelled: &Cancelled<'_>) {
        self.paused.lock().expect("no panic held it").push(wait);
        if let Some(handle) = self.interrupt.lock().expect("no panic held it").take() {
            handle.interrupt();
        }
    }
}

impl Script {
    pub(crate) fn answer(&self, status: u16, headers: &[(&str, &str)], body: impl Into<Vec<u8>>) {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.answers.lock().expect("no panic held it").push_back(Ok(Response {
            status,
            headers,
            body: body.into(),
            broken: None,
        }));
    }

    /// Lets an answer break off after this part of its body.
    pub(crate) fn break_off(&self, status: u16, headers: &[(&str, &str)], body: impl Into<Vec<u8>>) {
        self.answer(status, headers, body);
        let mut answers = self.answers.lock().expect("no panic held it");
        let Some(Ok(answer)) = answers.back_mut() else { panic!("an answer was prepared") };
        answer.broken = Some(TransportError { reason: String::from("the connection broke") });
    }

    pub(crate) fn fail(&self, reason: &str) {
        self.answers
            .lock()
            .expect("no panic held it")
            .push_back(Err(TransportError { reason: reason.to_owned() }));
    }

    /// Says yes to the next upload.
    pub(crate) fn accept(&self, acked: i64, token: u32, rejected: &str) {
        let body = format!(
            "{{\"status\":\"applied\",\"acked\":{acked},\"token\":\"{token:032x}\",\"accepted_hlc\":1,\"server_time_ms\":1,\"rejected\":[{rejected}]}}"
        );
        self.answer(200, &[], body);
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.seen.lock().expect("no panic held it"))
    }
}

/// A tracked table at a scripted server.
pub(crate) fn client() -> (Connection, Script) {
    client_of(Connection::open_in_memory().expect("memory is there"))
}

pub(crate) fn client_of(connection: Connection) -> (Connection, Script) {
    let script = Script::default();
    cloudsync::register_with(&connection, Box::new(script.clone())).expect("functions register");
    run(&connection, TODOS);
    rows(&connection, "select cloudsync_init('todos')", []);
    // As of a client that talked to its server before.
    run(&connection, "insert or ignore into cloudsync_settings values ('clock_offset_ms', 0)");
    run(
        &connection,
        "select cloudsync_network_init('http://hub/demo'); select cloudsync_network_set_apikey('secret-key')",
    );
    (connection, script)
}
