//! Applies a payload in Postgres: one statement, one transaction, one answer.
//!
//! `cloudsync.apply_upload` takes the caller's role itself and gives it back. A statement that failed may
//! have been committed all the same; the site then sends it again and hears `duplicate`.

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::Value;
use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

use crate::backend::{Upload, UploadPlace};
use crate::error::{Error, Result};
use crate::postgres::{Lease, Place};

const APPLY: &str = "select cloudsync.apply_upload($1, $2, $3, $4, $5, $6, $7, $8, $9)::text";

/// Longest wait for Postgres: beyond its own limit on the statement, so that this one means a dead connection.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(70);

impl UploadPlace for Place {
    fn apply(self: Box<Self>, upload: Upload) -> BoxFuture<'static, Result<Value>> {
        async move { apply(*self, &upload).await }.boxed()
    }
}

/// Applies a payload and gives the answer of Postgres.
async fn apply(place: Place, upload: &Upload) -> Result<Value> {
    let pool = place.pool().clone();
    let lease = place.connect().await?;
    let (lease, answer) = match run(&lease, upload).await {
        // An idle connection can die unnoticed, as when Postgres is restarted. The upload's id makes a second
        // try harmless.
        Err(Error::Postgres(error)) if error.is_closed() => {
            pool.forget_idle();
            drop(lease);
            let lease = pool.lease().await?;
            let answer = run(&lease, upload).await?;
            (lease, answer)
        }
        Ok(answer) => (lease, answer),
        Err(error) => return Err(error),
    };
    lease.give_back();
    Ok(answer)
}

async fn run(lease: &Lease, upload: &Upload) -> Result<Value> {
    match tokio::time::timeout(ANSWER_TIMEOUT, ask(lease.client(), upload)).await {
        Ok(answer) => answer,
        Err(_elapsed) => Err(Error::Unavailable { reason: "postgres did not answer an upload".to_owned() }),
    }
}

async fn ask(client: &Client, upload: &Upload) -> Result<Value> {
    let payload: &[u8] = &upload.payload;
    let site: &[u8] = upload.site.as_bytes();
    let id: &[u8] = &upload.upload;
    let token: Option<&[u8]> = upload.token.as_ref().map(<[u8; 16]>::as_slice);
    let parameters: [(&(dyn ToSql + Sync), Type); 9] = [
        (&payload, Type::BYTEA),
        (&site, Type::BYTEA),
        (&id, Type::BYTEA),
        (&upload.first, Type::INT8),
        (&upload.last, Type::INT8),
        (&token, Type::BYTEA),
        (&upload.role, Type::TEXT),
        (&upload.claims, Type::TEXT),
        (&upload.rejected_seen, Type::INT8),
    ];
    let rows = client.query_typed(APPLY, &parameters).await.map_err(Error::Postgres)?;
    let text: &str =
        rows.first().and_then(|row| row.try_get(0).ok()).ok_or(Error::UploadAnswer { part: "row" })?;
    serde_json::from_str(text).map_err(|_| Error::UploadAnswer { part: "object" })
}
