//! Applies a payload in Postgres: one statement, one transaction, one answer; some statements if there are chunks before
//! it, or if it names the upload before it.
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
use crate::inbox::{Chunks, INCOMPLETE};
use crate::postgres::{Lease, Place};

const FOLLOW: &str = "select cloudsync.follow_upload($1)";

const ADD_CHUNK: &str = "select cloudsync.add_chunk($1)";

/// How much longer each chunk may take, in seconds. One of 16 MiB takes about one on a machine of today.
const CHUNK_SECONDS: u64 = 20;

/// The limit on a statement of an upload without chunks, in seconds: what every connection is told.
const STATEMENT_SECONDS: u64 = 60;

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
    let client = lease.client();
    let chunks = upload.before.as_ref();
    let longer = chunks.map_or(0, |chunks| u64::from(chunks.count()).saturating_mul(CHUNK_SECONDS));
    let asked = async {
        if chunks.is_none() && upload.follows.is_none() {
            return ask(client, upload, &upload.payload).await;
        }
        ask_in_parts(client, upload, STATEMENT_SECONDS.saturating_add(longer)).await
    };
    match tokio::time::timeout(ANSWER_TIMEOUT + Duration::from_secs(longer), asked).await {
        Ok(answer) => answer,
        Err(_elapsed) => Err(Error::Unavailable { reason: "postgres did not answer an upload".to_owned() }),
    }
}

/// Applies an upload by several statements of one transaction; one chunk at a time is in memory here.
async fn ask_in_parts(client: &Client, upload: &Upload, seconds: u64) -> Result<Value> {
    let begin = format!("begin; set local statement_timeout = '{seconds}s'");
    client.batch_execute(&begin).await.map_err(Error::Postgres)?;
    if let Some(follows) = &upload.follows {
        hand_over(client, FOLLOW, Some(follows)).await?;
    }
    let answer = match &upload.before {
        Some(chunks) => judge(client, upload, chunks).await?,
        None => ask(client, upload, &upload.payload).await?,
    };
    client.batch_execute("commit").await.map_err(Error::Postgres)?;
    Ok(answer)
}

async fn judge(client: &Client, upload: &Upload, chunks: &Chunks) -> Result<Value> {
    // Whether it would be taken, before its chunks are read. It locks the site until the end.
    let answer = ask_incomplete(client, upload).await?;
    if answer.get("status").and_then(Value::as_str) != Some(INCOMPLETE) {
        return Ok(answer);
    }
    for number in chunks.numbers() {
        let Some(frame) = chunks.frame(number).await? else {
            let mut answer = ask_incomplete(client, upload).await?;
            answer["missing"] = Value::from(number);
            return Ok(answer);
        };
        hand_over(client, ADD_CHUNK, Some(&frame)).await?;
    }
    ask(client, upload, &upload.payload).await
}

/// Asks as if a chunk were missing; what was added is forgotten.
async fn ask_incomplete(client: &Client, upload: &Upload) -> Result<Value> {
    hand_over(client, ADD_CHUNK, None).await?;
    ask(client, upload, &[]).await
}

/// Tells Postgres something of the upload that follows in the transaction.
async fn hand_over(client: &Client, sql: &str, bytes: Option<&[u8]>) -> Result<()> {
    let parameter: [(&(dyn ToSql + Sync), Type); 1] = [(&bytes, Type::BYTEA)];
    client.query_typed(sql, &parameter).await.map_err(Error::Postgres).map(drop)
}

async fn ask(client: &Client, upload: &Upload, payload: &[u8]) -> Result<Value> {
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
