//! A hub of a few lines, in memory: takes uploads as the protocol says, serves them to others, never forgets
//! unless told to. It is reached as a transport, or over HTTP from other processes.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use cloudsync::network::{Method, Request, Response, Transport, TransportError};

/// Uploads that one answer to a download carries at most.
const FRAMES_MAX: usize = 8;

#[derive(Default)]
struct Site {
    acked: i64,
    token: String,
    upload: String,
}

#[derive(Default)]
struct State {
    sites: HashMap<String, Site>,
    log: Vec<Vec<u8>>,
    is_forgetful: bool,
    taken: usize,
    tokens: u64,
}

/// The hub; clones are the same one.
#[derive(Clone, Default)]
pub(crate) struct Hub(Arc<Mutex<State>>);

impl Transport for Hub {
    fn send(&self, request: &Request<'_>) -> Result<Response, TransportError> {
        let header = |name: &str| {
            let found = request.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
            found.map_or(String::new(), |(_, value)| value.clone())
        };
        let response = match request.method {
            Method::Post => self.take(&header, request.body),
            // Asked for its time only.
            Method::Get if request.url.ends_with("/uploads") => {
                Response { status: 405, ..Response::default() }
            }
            Method::Get => self.give(request.url),
        };
        Ok(response)
    }
}

impl Hub {
    /// A hub that acknowledges uploads and drops them.
    pub(crate) fn forgetful() -> Self {
        let hub = Self::default();
        hub.0.lock().expect("no panic held it").is_forgetful = true;
        hub
    }

    /// Number of uploads taken.
    pub(crate) fn taken(&self) -> usize {
        self.0.lock().expect("no panic held it").taken
    }

    /// Serves over HTTP until the process ends; returns the address of a database.
    pub(crate) fn serve(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let hub = self.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let hub = hub.clone();
                // A client that was killed half way is no matter of the hub's.
                std::thread::spawn(move || while hub.answer(&stream).is_some() {});
            }
        });
        format!("http://{address}/demo")
    }

    fn answer(&self, stream: &TcpStream) -> Option<()> {
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        let mut words = line.split(' ');
        let (method, url) = (words.next()?.to_owned(), words.next()?.to_owned());
        let mut headers: Vec<(String, String)> = Vec::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
        let header = |name: &str| {
            let found = headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
            found.map_or(String::new(), |(_, value)| value.clone())
        };
        let mut body = vec![0; header("content-length").parse().unwrap_or(0)];
        reader.read_exact(&mut body).ok()?;
        let response = if method == "POST" { self.take(&header, &body) } else { self.give(&url) };
        let mut head = format!("HTTP/1.1 {} Answer\r\n", response.status);
        for (name, value) in &response.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if response.status != 204 {
            head.push_str(&format!("content-length: {}\r\n", response.body.len()));
        }
        let mut stream = stream;
        stream.write_all(format!("{head}\r\n").as_bytes()).ok()?;
        stream.write_all(&response.body).ok()
    }

    fn take(&self, header: &dyn Fn(&str) -> String, body: &[u8]) -> Response {
        let mut state = self.0.lock().expect("no panic held it");
        let state = &mut *state;
        let site = state.sites.entry(header("Cloudsync-Site")).or_default();
        let upload = header("Cloudsync-Upload");
        let mut status = "duplicate";
        if site.upload != upload {
            if site.token != header("Cloudsync-Token") {
                return problem(409, "site_conflict");
            }
            let range = header("Cloudsync-Range");
            let (first, last) = range.split_once('-').expect("a range");
            let number = |text: &str| text.parse::<i64>().expect("a number");
            if number(first) > site.acked + 1 {
                return problem(409, "gap");
            }
            state.tokens += 1;
            status = "applied";
            *site = Site { acked: number(last), token: format!("{:032x}", state.tokens), upload };
            state.taken += 1;
            if !state.is_forgetful {
                state.log.push(body.to_vec());
            }
        }
        let (acked, token) = (site.acked, &site.token);
        let body = format!(
            r#"{{"status":"{status}","acked":{acked},"token":"{token}","accepted_hlc":1,"server_time_ms":{},"rejected":[]}}"#,
            now_ms()
        );
        Response { status: 200, headers: headers(&[]), body: body.into_bytes(), broken: None }
    }

    fn give(&self, url: &str) -> Response {
        let state = self.0.lock().expect("no panic held it");
        let cursor = url.split(['?', '&']).find_map(|part| part.strip_prefix("cursor="));
        let cursor = cursor.map_or(0, |cursor| cursor.parse().expect("a cursor of ours"));
        let end = state.log.len().min(cursor + FRAMES_MAX);
        let place = ("cloudsync-cursor", end.to_string());
        if cursor == end {
            return Response { status: 204, headers: headers(&[place]), ..Response::default() };
        }
        let complete = ("cloudsync-complete", (end == state.log.len()).to_string());
        let source = ("cloudsync-source", String::from("log"));
        let body = state.log[cursor..end].concat();
        Response { status: 200, headers: headers(&[place, complete, source]), body, broken: None }
    }
}

fn problem(status: u16, code: &str) -> Response {
    Response {
        status,
        headers: headers(&[]),
        body: format!(r#"{{"code":"{code}"}}"#).into_bytes(),
        broken: None,
    }
}

fn headers(own: &[(&str, String)]) -> Vec<(String, String)> {
    let time = [("cloudsync-time", now_ms().to_string())];
    time.iter().chain(own).map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
}

fn now_ms() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_millis()
}
