//! An upload: one payload of one site, checked here and applied in Postgres before it is answered.
//!
//! Nothing of a body is trusted before its frame, its checksum and the verifier are satisfied. The hub adds
//! nothing and keeps nothing: an upload that was not answered is sent again with the same id, and Postgres
//! tells that it has it.

mod apply;
mod body;
mod headers;

use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;
use shared_format::FormatError;
use shared_format::payload::{Limits, Payload, decode_frame};
use warp::http::HeaderMap;
use warp::reply::Response;

use crate::auth::Caller;
use crate::error::Error;
use crate::http::app::{App, Database};
use crate::http::json_response;
use crate::http::problem::{Problem, ProblemKind};
use headers::UploadHeaders;

pub(crate) use headers::{read_db_version, read_site, read_token};

/// Takes one upload from its headers to its answer.
pub(crate) async fn take<S, B, E>(
    app: &App,
    database: &Arc<Database>,
    caller: &Caller,
    headers: &HeaderMap,
    body: S,
) -> Result<Response, Problem>
where
    S: futures_util::Stream<Item = Result<B, E>> + Send,
    B: bytes::Buf,
    E: std::fmt::Display,
{
    let headers = UploadHeaders::read(headers)?;
    let _room = app.room_for_upload().await?;
    let body = body::collect(body, headers.content_length).await?;
    database.metrics.received_bytes.inc_by(u64::try_from(body.len()).unwrap_or(u64::MAX));
    // No more bodies are expanded than can be applied; and a wrong one is told so whatever Postgres does.
    let place = database.pool.reserve().await?;
    let payload = expand(body).await?;
    let lease = place.connect().await?;
    let answer = apply::apply(database, lease, caller, &headers, &payload).await?;
    respond(database, &headers, answer)
}

/// Checks a body and gives the payload in it.
async fn expand(body: Bytes) -> Result<Vec<u8>, Problem> {
    let expanded = tokio::task::spawn_blocking(move || {
        let (payload, used) = decode_frame(&body, &Limits::UPLOAD)?;
        if used != body.len() {
            return Err(FormatError::Truncated { part: "frame", found: used, wanted: body.len() });
        }
        Payload::parse(&payload)?;
        Ok(payload)
    });
    match expanded.await {
        Ok(Ok(payload)) => Ok(payload),
        Ok(Err(error)) => Err(refuse(&error)),
        Err(_ended) => Err(Problem::from(Error::TaskEnded { task: "expand" })),
    }
}

fn refuse(error: &FormatError) -> Problem {
    let kind = match error {
        FormatError::TooLarge { .. } => ProblemKind::TooLarge,
        _ => ProblemKind::InvalidPayload,
    };
    Problem::new(kind, error.to_string())
}

/// Turns the answer of Postgres into the answer of the hub.
fn respond(database: &Database, headers: &UploadHeaders, mut answer: Value) -> Result<Response, Problem> {
    let status = answer.get("status").and_then(Value::as_str).unwrap_or_default().to_owned();
    let kind = match status.as_str() {
        "applied" | "duplicate" => {
            if status == "applied" {
                count_rejected(database, headers, &answer);
            }
            forget_seen(headers, &mut answer);
            database.metrics.count_upload(&status);
            return Ok(json_response(&answer));
        }
        "out_of_order" => ProblemKind::OutOfOrder,
        "site_conflict" => ProblemKind::SiteConflict,
        "clock_ahead" => ProblemKind::ClockAhead,
        "invalid" => ProblemKind::InvalidPayload,
        _ => return Err(Problem::from(Error::UploadStatus { found: status })),
    };
    let detail = answer.get("detail").and_then(Value::as_str).unwrap_or("postgres refused the upload");
    let told = ["acked", "accepted_hlc", "server_time_ms"];
    let problem = told.into_iter().fold(Problem::new(kind, detail), |problem, name| match answer.get(name) {
        Some(value) if !value.is_null() => problem.with(name, value.clone()),
        Some(_) | None => problem,
    });
    Err(problem)
}

/// Counts the rows of this upload that Postgres refused; the answer repeats those of earlier ones too.
fn count_rejected(database: &Database, headers: &UploadHeaders, answer: &Value) {
    let of_this_upload = |rejection: &&Value| {
        let last = rejection.get("last").and_then(Value::as_i64);
        last.is_some_and(|last| headers.first <= last && last <= headers.last)
    };
    let rejected = answer.get("rejected").and_then(Value::as_array);
    let count = rejected.map_or(0, |rejected| rejected.iter().filter(of_this_upload).count());
    database.metrics.rejected_rows.inc_by(u64::try_from(count).unwrap_or(u64::MAX));
}

/// Leaves out the rejections that the site has already stored.
fn forget_seen(headers: &UploadHeaders, answer: &mut Value) {
    let (Some(seen), Some(rejected)) =
        (headers.rejected_seen, answer.get_mut("rejected").and_then(Value::as_array_mut))
    else {
        return;
    };
    rejected
        .retain(|rejection| rejection.get("id").and_then(Value::as_i64).is_none_or(|number| number > seen));
}
