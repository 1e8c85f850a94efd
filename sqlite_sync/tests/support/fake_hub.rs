//! A hub of a few lines: takes every upload, and hands out what a test prepared.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use cloudsync::network::{Method, Request, Response, Transport, TransportError};
use rusqlite::Connection;

/// Source and frames; the source "truth" is a snapshot that begins anew.
type Download = (&'static str, Vec<u8>);

/// What the hub holds; clones share it.
#[derive(Clone, Default)]
pub(crate) struct Hub {
    /// Bodies of the uploads that came.
    pub(crate) uploads: Arc<Mutex<Vec<Vec<u8>>>>,
    /// JSON objects that the next answer to an upload lists as rejected.
    pub(crate) rejected: Arc<Mutex<Vec<String>>>,
    /// Payloads that wait for a download, each with its source.
    pub(crate) downloads: Arc<Mutex<VecDeque<Download>>>,
    /// Addresses that were asked.
    pub(crate) asked: Arc<Mutex<Vec<String>>>,
    /// Whether nobody answers.
    pub(crate) is_down: Arc<Mutex<bool>>,
}

fn of<T: Clone>(shared: &Arc<Mutex<T>>) -> T {
    shared.lock().expect("no panic held it").clone()
}

impl Hub {
    /// Registers the functions on a connection that talks to this hub.
    pub(crate) fn register(&self, connection: &Connection) {
        cloudsync::register_with(connection, Box::new(self.clone())).expect("functions register");
    }

    /// Lets the next upload be answered with a rejection of a row of `todos`.
    pub(crate) fn reject(&self, id: i64, key: &str) {
        self.rejected.lock().expect("no panic held it").push(format!(
            "{{\"id\":{id},\"table\":\"todos\",\"key\":[\"{key}\"],\"sqlstate\":\"23514\",\"message\":\"no milk\",\"first\":FIRST,\"last\":LAST}}"
        ));
    }

    /// Lets a payload be handed out.
    pub(crate) fn serve(&self, source: &'static str, payload: Vec<u8>) {
        self.downloads.lock().expect("no panic held it").push_back((source, payload));
    }

    /// Addresses that were asked since the last time.
    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().expect("no panic held it"))
    }
}

impl Transport for Hub {
    fn send(&self, request: &Request<'_>) -> Result<Response, TransportError> {
        self.asked.lock().expect("no panic held it").push(request.url.to_owned());
        if of(&self.is_down) {
            return Err(TransportError { reason: String::from("connection refused") });
        }
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        match request.method {
            Method::Post => {
                let mut uploads = self.uploads.lock().expect("no panic held it");
                uploads.push(request.body.to_vec());
                let rejected = std::mem::take(&mut *self.rejected.lock().expect("no panic held it"));
                let range = request.headers.iter().find(|(name, _)| *name == "Cloudsync-Range");
                let range = range.map_or("", |(_, range)| range.as_str());
                let (first, last) = range.split_once('-').expect("an upload has a range");
                let rejected = rejected.join(",").replace("FIRST", first).replace("LAST", last);
                let body = format!(
                    "{{\"status\":\"applied\",\"acked\":1,\"token\":\"{:032x}\",\"accepted_hlc\":1,\"server_time_ms\":1,\"rejected\":[{}]}}",
                    uploads.len(),
                    rejected
                );
                Ok(Response { status: 200, body: body.into_bytes(), ..Response::default() })
            }
            // Asked for its time only.
            Method::Get if request.url.ends_with("/uploads") => {
                Ok(Response { status: 405, ..Response::default() })
            }
            Method::Get => {
                let next = self.downloads.lock().expect("no panic held it").pop_front();
                let cursor = header("cloudsync-cursor", "here");
                let Some((source, body)) = next else {
                    return Ok(Response { status: 204, headers: vec![cursor], ..Response::default() });
                };
                let mut headers = vec![cursor, header("cloudsync-complete", "true")];
                match source {
                    "truth" => {
                        headers
                            .extend([header("cloudsync-source", "snapshot"), header("cloudsync-part", "0")]);
                    }
                    source => headers.push(header("cloudsync-source", source)),
                }
                Ok(Response { status: 200, headers, body, broken: None })
            }
        }
    }
}
