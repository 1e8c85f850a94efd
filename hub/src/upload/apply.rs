//! Applies a payload in Postgres: one statement, one transaction, one answer.
//!
//! `cloudsync.apply_upload` takes the caller's role itself and gives it back. A statement that failed may
//! have been committed all the same; the site then sends it again and hears `duplicate`.

use std::time::{Duration, Instant};

use serde_json::Value;
use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

use super::headers::UploadHeaders;
use crate::auth::Caller;
use crate::error::{Error, Result};
use crate::http::app::Database;
use crate::postgres::Lease;

const APPLY: &str = "select cloudsync.apply_upload($1, $2, $3, $4, $5, $6, $7, $8, $9)::text";

/// Longest wait for Postgres: beyond its own limit on the statement, so that this one means a dead connection.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(70);

/// Applies a payload and gives the answer of Postgres.
pub(super) async fn apply(
    database: &Database,
    lease: Lease,
    caller: &Caller,
    headers: &UploadHeaders,
    payload: &[u8],
) -> Result<Value> {
    let start = Instant::now();
    let first_try = run(&lease, caller, headers, payload).await;
    let (lease, answer) = match first_try {
        // An idle connection can die unnoticed, as when Postgres is restarted. The upload's id makes a second
        // try harmless.
        Err(Error::Postgres(error)) if error.is_closed() => {
            database.pool.forget_idle();
            drop(lease);
            let lease = database.pool.lease().await?;
            let answer = run(&lease, caller, headers, payload).await?;
            (lease, answer)
        }
        Ok(answer) => (lease, answer),
        Err(error) => return Err(error),
    };
    database.metrics.apply_seconds.observe(start.elapsed().as_secs_f64());
    lease.give_back();
    Ok(answer)
}

async fn run(lease: &Lease, caller: &Caller, headers: &UploadHeaders, payload: &[u8]) -> Result<Value> {
    let asked = ask(lease.client(), caller, headers, payload);
    match tokio::time::timeout(ANSWER_TIMEOUT, asked).await {
        Ok(answer) => answer,
        Err(_elapsed) => Err(Error::Unavailable { reason: "postgres did not answer an upload".to_owned() }),
    }
}

async fn ask(client: &Client, caller: &Caller, headers: &UploadHeaders, payload: &[u8]) -> Result<Value> {
    let site: &[u8] = headers.site.as_bytes();
    let upload: &[u8] = &headers.upload;
    let token: Option<&[u8]> = headers.token.as_ref().map(<[u8; 16]>::as_slice);
    let parameters: [(&(dyn ToSql + Sync), Type); 9] = [
        (&payload, Type::BYTEA),
        (&site, Type::BYTEA),
        (&upload, Type::BYTEA),
        (&headers.first, Type::INT8),
        (&headers.last, Type::INT8),
        (&token, Type::BYTEA),
        (&caller.role, Type::TEXT),
        (&caller.claims, Type::TEXT),
        (&headers.rejected_seen, Type::INT8),
    ];
    let rows = client.query_typed(APPLY, &parameters).await.map_err(Error::Postgres)?;
    let text: &str =
        rows.first().and_then(|row| row.try_get(0).ok()).ok_or(Error::UploadAnswer { part: "row" })?;
    serde_json::from_str(text).map_err(|_| Error::UploadAnswer { part: "object" })
}
