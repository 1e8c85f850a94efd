//! Talks to the hub: what was captured goes up, what others wrote comes down.
//!
//! Never inside a transaction of the caller: an upload is stored before it is sent, and each answer is taken
//! in by one transaction of its own.

mod answer;
mod broken_off;
mod download;
mod elsewhere;
#[cfg(feature = "http")]
mod http;
mod progress;
mod server;
mod transport;
mod upload;

pub use self::server::Server;
pub use self::transport::{Cancelled, Method, Request, Response, Transport, TransportError};
pub(crate) use self::upload::status;

#[cfg(not(feature = "http"))]
use self::transport::NoTransport;

use std::cell::Cell;

/// The network half of one connection.
pub(crate) struct Network {
    transport: Box<dyn Transport>,
    pub(crate) server: Option<Server>,
    pub(crate) api_key: Option<String>,
    /// The server is asked to give everything itself: its store could not be reached.
    is_direct: Cell<bool>,
}

impl Network {
    pub(crate) fn new(transport: Box<dyn Transport>) -> Self {
        Self { transport, server: None, api_key: None, is_direct: Cell::new(false) }
    }

    /// Forgets server and key; open connections end.
    pub(crate) fn close(&mut self) {
        self.server = None;
        self.api_key = None;
        self.is_direct.set(false);
        self.transport.close();
    }
}

/// The transport of this build.
#[must_use]
pub fn default_transport() -> Box<dyn Transport> {
    #[cfg(feature = "http")]
    return Box::new(http::HttpTransport::default());
    #[cfg(not(feature = "http"))]
    return Box::new(NoTransport);
}
