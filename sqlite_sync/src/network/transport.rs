//! How requests leave the process: one small trait, so that a browser build can bring its own.

use std::fmt;
use std::thread;
use std::time::Duration;

/// How often whoever waits is asked whether it still does.
pub(super) const ASKED_EVERY: Duration = Duration::from_millis(50);

/// HTTP method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Reads.
    Get,
    /// Writes.
    Post,
}

impl Method {
    /// The word on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
        }
    }
}

/// Says whether whoever waits for an answer wants it no more. To be asked about every 50 ms, on the thread of
/// the caller.
pub struct Cancelled<'a>(pub(crate) &'a dyn Fn() -> bool);

impl Cancelled<'_> {
    /// Asks.
    #[must_use]
    pub fn get(&self) -> bool {
        (self.0)()
    }
}

impl fmt::Debug for Cancelled<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cancelled")
    }
}

/// One request.
#[derive(Debug)]
pub struct Request<'a> {
    /// The method.
    pub method: Method,
    /// The whole address.
    pub url: &'a str,
    /// Names and values; values are visible ASCII.
    pub headers: &'a [(&'static str, String)],
    /// The body of a POST.
    pub body: &'a [u8],
    /// How long the server may take to begin its answer.
    pub answer_within: Duration,
    /// Largest body of an answer, in bytes.
    pub answer_bytes_max: u64,
    /// Whether to give the request up.
    pub cancelled: Cancelled<'a>,
}

/// One answer.
#[derive(Clone, Debug, Default)]
pub struct Response {
    /// HTTP status.
    pub status: u16,
    /// Names in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// Why the body ends before its end, if it does.
    pub broken: Option<TransportError>,
}

impl Response {
    /// The value of a header, by its name in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// Why there was no answer; never holds a header or a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct TransportError {
    /// What went wrong, for people.
    pub reason: String,
}

/// Sends requests and waits for their answers.
pub trait Transport: Send {
    /// Sends one request. Any HTTP status is an answer, not an error; redirects are not followed.
    ///
    /// # Errors
    /// When no answer came. Of one that broke off, what came is an answer.
    fn send(&self, request: &Request<'_>) -> Result<Response, TransportError>;

    /// Waits because the server asked for it, or until nobody wants the answer any more. A build that cannot wait on its
    /// thread brings its own.
    fn pause(&self, wait: Duration, cancelled: &Cancelled<'_>) {
        let mut left = wait;
        while !left.is_zero() && !cancelled.get() {
            let slice = left.min(ASKED_EVERY);
            thread::sleep(slice);
            left = left.saturating_sub(slice);
        }
    }

    /// Ends connections that are kept open.
    fn close(&mut self) {}
}

/// Stands in where a build has no transport.
#[cfg(not(feature = "http"))]
pub(super) struct NoTransport;

#[cfg(not(feature = "http"))]
impl Transport for NoTransport {
    fn send(&self, _request: &Request<'_>) -> Result<Response, TransportError> {
        Err(TransportError { reason: String::from("this build has no transport") })
    }
}
