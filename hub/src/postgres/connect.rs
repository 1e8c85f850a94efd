//! Opens one ordinary connection, with limits on everything that could wait for ever.

use std::time::Duration;

use tokio_postgres::{AsyncMessage, Client, Socket};

use super::{PostgresUrl, TlsConnector, TlsStream};
use crate::error::{Error, Result};

/// Longest wait for a connection, unless the connection string names another.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest time that sent bytes may stay unanswered by the other machine.
const UNANSWERED_MAX: Duration = Duration::from_secs(15);

/// The driver of an open connection, to be polled by a task of its own.
pub type Connection = tokio_postgres::Connection<Socket, TlsStream<Socket>>;

/// Opens a connection; nothing moves on it until its driver is polled.
pub async fn connect(url: &PostgresUrl, tls: &TlsConnector) -> Result<(Client, Connection)> {
    let mut config = url.config().clone();
    let patience = config.get_connect_timeout().copied().unwrap_or(CONNECT_TIMEOUT);
    config.connect_timeout(patience);
    config.tcp_user_timeout(UNANSWERED_MAX);
    if config.get_application_name().is_none() {
        config.application_name("cloudsync hub");
    }
    // The driver's own limit covers one address only, and not the log-in.
    match tokio::time::timeout(patience.saturating_mul(2), config.connect(tls.clone())).await {
        Ok(opened) => opened.map_err(Error::Postgres),
        Err(_elapsed) => Err(Error::Unavailable { reason: "postgres did not answer in time".to_owned() }),
    }
}

/// Drives a connection until it ends; what the server says on the side is logged.
pub(super) async fn drive(mut connection: Connection) {
    loop {
        match std::future::poll_fn(|cx| connection.poll_message(cx)).await {
            Some(Ok(AsyncMessage::Notice(notice))) => {
                tracing::debug!(sqlstate = notice.code().code(), "notice of postgres");
            }
            Some(Ok(_)) => {}
            // Whoever uses the connection is told the same error; it is logged there.
            Some(Err(_)) | None => return,
        }
    }
}
