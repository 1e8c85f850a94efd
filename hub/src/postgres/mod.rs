//! Ordinary connections to Postgres: the connection string, TLS, and a small pool.
//!
//! Replication speaks its own protocol and only shares the connection string and TLS with this module.

mod connect;
mod pool;
mod tls;
mod url;

pub use connect::{Connection, connect};
pub use pool::{Lease, Place, Pool};
pub use tls::{TlsConnector, TlsStream};
pub use url::{PostgresUrl, Verification};
