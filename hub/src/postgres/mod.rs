//! Ordinary connections to Postgres: the connection string, TLS, and a small pool.
//!
//! Replication speaks its own protocol and only shares the connection string and TLS with this module.

mod tls;
mod url;

pub use tls::{TlsConnector, TlsStream};
pub use url::{PostgresUrl, Verification};
