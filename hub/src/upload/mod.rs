//! An upload: one payload of one site, checked here and applied in Postgres before it is answered.
//!
//! Nothing of a body is trusted before its frame, its checksum and the verifier are satisfied. An upload that was not
//! answered is sent again with the same id, and Postgres tells that it has it. While Postgres is away, an upload
//! is kept in the inbox, and answered by 202. What is larger than one body comes in chunks, which are kept beside the
//! inbox until the last one is there, and are applied together.

mod body;
mod headers;

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use prometheus::IntCounter;
use serde_json::Value;
use shared_format::FormatError;
use shared_format::payload::{Limits, Payload, decode_frame};
use warp::http::{HeaderMap, StatusCode};
use warp::reply::Response;

use crate::auth::Caller;
use crate::backend::Upload;
use crate::cursor::Cursor;
use crate::error::Error;
use crate::http::app::{App, Database};
use crate::http::json_response;
use crate::http::problem::{Problem, ProblemKind};
use crate::inbox::{Chunk, Chunks, INCOMPLETE};
use body::Patience;
use headers::UploadHeaders;

pub(crate) use headers::{read_db_version, read_site, read_token};

/// Reads on over a body that is not wanted: whoever is still sending it would not hear the answer.
pub(crate) async fn pass_over<S, B, E>(app: &App, body: S)
where
    S: futures_util::Stream<Item = Result<B, E>> + Send,
    B: bytes::Buf,
{
    body::pass_over(body, Patience::of(app.edges())).await;
}

/// What is posted to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// All of an upload.
    Whole,
    /// One chunk of it.
    Chunk,
}

impl Form {
    /// The chunk that the headers name, if they are to name one.
    fn check(self, chunk: Option<Chunk>) -> Result<Option<Chunk>, Problem> {
        let wrong = |found: &str, wanted: &str| Err(Problem::header("Cloudsync-Chunk", found, wanted));
        match (self, chunk) {
            (Form::Whole, Some(_)) => wrong("one", "none: chunks have a path of their own"),
            (Form::Chunk, None) => wrong("none", "<number>/<count>"),
            (Form::Whole, None) | (Form::Chunk, Some(_)) => Ok(chunk),
        }
    }
}

/// Takes one upload, or one chunk of it, from its headers to its answer.
pub(crate) async fn take<S, B, E>(
    app: &App,
    database: &Arc<Database>,
    caller: &Caller,
    headers: &HeaderMap,
    form: Form,
    body: S,
) -> Result<Response, Problem>
where
    S: futures_util::Stream<Item = Result<B, E>> + Send,
    B: bytes::Buf,
    E: std::fmt::Display,
{
    let headers = UploadHeaders::read(headers)?;
    let chunk = form.check(headers.chunk)?;
    // The last chunk makes room: the others go when it is applied.
    if !chunk.is_some_and(Chunk::is_last) {
        database.limits.check_storage()?;
    }
    let announced = headers.content_length.unwrap_or(body::BODY_BYTES_MAX);
    let _load = database.limits.carry(announced.min(body::BODY_BYTES_MAX))?;
    let _room = app.room_for_upload(&database.name).await?;
    let body = body::collect(body, headers.content_length, Patience::of(app.edges())).await?;
    let received = u64::try_from(body.len()).unwrap_or(u64::MAX);
    database.metrics.received_bytes.inc_by(received);
    // A wrong body is told so whatever Postgres does.
    let payload = expand(body.clone(), database.metrics.received_rows.clone()).await?;
    let UploadHeaders { site, upload, first, last, token, follows, rejected_seen, cursor, .. } = headers;
    let (role, claims) = (caller.role.clone(), caller.claims.clone());
    let mut upload = Upload {
        payload,
        site,
        upload,
        first,
        last,
        token,
        follows,
        rejected_seen,
        role,
        claims,
        before: None,
    };
    let Some(chunk) = chunk else { return finish(database, &upload, cursor, body).await };
    if !chunk.is_last() {
        return stage(database, &upload, chunk, body).await;
    }
    upload.before = Some(database.inbox.chunks(database, &upload, chunk.count).await?);
    // It may take longer than the patience of whoever stands between: a site that asks again finds it under way.
    let database = Arc::clone(database);
    let finished = tokio::spawn(async move { finish(&database, &upload, cursor, body).await });
    finished.await.unwrap_or_else(|_ended| Err(Problem::from(Error::TaskEnded { task: "upload" })))
}

/// Keeps a chunk until the last one comes.
async fn stage(database: &Database, upload: &Upload, chunk: Chunk, body: Bytes) -> Result<Response, Problem> {
    let received = u64::try_from(body.len()).unwrap_or(u64::MAX);
    let answer = database.inbox.stage(database, upload, chunk, body).await?;
    database.limits.note_upload(received);
    database.metrics.count_upload("staged");
    Ok(accepted(&answer))
}

fn accepted(answer: &Value) -> Response {
    let mut response = json_response(answer);
    *response.status_mut() = StatusCode::ACCEPTED;
    response
}

/// Applies an upload that is whole, or keeps it for when that can be done.
async fn finish(
    database: &Database,
    upload: &Upload,
    cursor: Option<Cursor>,
    body: Bytes,
) -> Result<Response, Problem> {
    let received = u64::try_from(body.len()).unwrap_or(u64::MAX);
    match apply(database, upload, cursor).await {
        Ok(answer) => {
            database.limits.note_upload(received);
            // Postgres may be away for the next one.
            if let Err(error) = database.inbox.learn_key(database).await {
                tracing::debug!(problem = error.logged(), "key of the inbox is not learned yet");
            }
            let response = respond(database, &answer)?;
            if let Some(chunks) = &upload.before {
                forget(database, chunks).await;
            }
            Ok(response)
        }
        Err(error) if is_away(database, &error) => {
            let answer = database.inbox.accept(database, upload, cursor, body).await?;
            if answer.get("status").and_then(Value::as_str) == Some(INCOMPLETE) {
                return respond(database, &answer);
            }
            database.limits.note_upload(received);
            database.metrics.count_upload("stored");
            Ok(accepted(&answer))
        }
        Err(error) => Err(error.into()),
    }
}

/// Removes chunks that are applied. What stays expires.
async fn forget(database: &Database, chunks: &Chunks) {
    if let Err(error) = chunks.forget().await {
        let name = database.name.as_str();
        tracing::warn!(database = name, problem = error.logged(), "applied chunks were not removed");
    }
}

/// Applies an upload; what waits of its site comes first, if it must.
async fn apply(database: &Database, upload: &Upload, cursor: Option<Cursor>) -> crate::error::Result<Value> {
    database.feed.check_writable()?;
    if let Some(cursor) = cursor {
        database.feed.check_not_restored(&cursor).await?;
        database.horizon.check_upload(database, upload.site, &cursor, upload.last).await?;
    }
    let place = database.backend.reserve().await?;
    let start = Instant::now();
    let answer = place.apply(upload.clone()).await?;
    database.metrics.apply_seconds.observe(start.elapsed().as_secs_f64());
    let status = answer.get("status").and_then(Value::as_str);
    let misses_some = matches!(status, Some("out_of_order" | "site_conflict"));
    // What it follows may have been applied by another node meanwhile.
    if misses_some && (database.inbox.apply_site(database, upload.site).await? || upload.follows.is_some()) {
        return database.backend.reserve().await?.apply(upload.clone()).await;
    }
    Ok(answer)
}

/// Whether an upload was not taken because its database cannot be reached, or is not known to be the right one.
fn is_away(database: &Database, error: &Error) -> bool {
    database.feed.check_writable().is_err() || error.is_lost_connection()
}

/// Checks a body and gives the payload in it.
async fn expand(body: Bytes, rows: IntCounter) -> Result<Bytes, Problem> {
    let expanded = tokio::task::spawn_blocking(move || {
        let (payload, used) = decode_frame(&body, &Limits::UPLOAD)?;
        if used != body.len() {
            return Err(FormatError::Truncated { part: "frame", found: used, wanted: body.len() });
        }
        rows.inc_by(Payload::parse(&payload)?.row_count());
        Ok(Bytes::from(payload))
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
fn respond(database: &Database, answer: &Value) -> Result<Response, Problem> {
    let taken = judge(answer)?;
    database.metrics.count_upload(taken.status());
    if taken == Taken::Applied
        && let Some(states) = answer.get("refused_states").and_then(Value::as_object)
    {
        database.metrics.count_rejected(states);
    }
    Ok(json_response(answer))
}

/// What Postgres says of an upload that it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    /// It was applied now.
    Applied,
    /// It had been applied before.
    Duplicate,
}

impl Taken {
    fn status(self) -> &'static str {
        match self {
            Taken::Applied => "applied",
            Taken::Duplicate => "duplicate",
        }
    }
}

/// Tells whether Postgres has an upload, or why not.
fn judge(answer: &Value) -> Result<Taken, Problem> {
    let status = answer.get("status").and_then(Value::as_str).unwrap_or_default();
    let kind = match status {
        "applied" => return Ok(Taken::Applied),
        "duplicate" => return Ok(Taken::Duplicate),
        "out_of_order" => ProblemKind::OutOfOrder,
        "site_conflict" => ProblemKind::SiteConflict,
        "clock_ahead" => ProblemKind::ClockAhead,
        INCOMPLETE => ProblemKind::Incomplete,
        "invalid" => ProblemKind::InvalidPayload,
        _ => return Err(Problem::from(Error::UploadStatus { found: status.to_owned() })),
    };
    let detail = answer.get("detail").and_then(Value::as_str).unwrap_or("the database refused the upload");
    let told = ["acked", "accepted_hlc", "server_time_ms", "missing"];
    let problem = told.into_iter().fold(Problem::new(kind, detail), |problem, name| match answer.get(name) {
        Some(value) if !value.is_null() => problem.with(name, value.clone()),
        Some(_) | None => problem,
    });
    Err(problem)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_status_of_postgres_decides_the_answer() {
        for (status, wanted) in [
            ("applied", Ok(Taken::Applied)),
            ("duplicate", Ok(Taken::Duplicate)),
            ("out_of_order", Err(ProblemKind::OutOfOrder)),
            ("site_conflict", Err(ProblemKind::SiteConflict)),
            ("clock_ahead", Err(ProblemKind::ClockAhead)),
            ("incomplete", Err(ProblemKind::Incomplete)),
            ("invalid", Err(ProblemKind::InvalidPayload)),
            ("something else", Err(ProblemKind::Internal)),
        ] {
            let found = judge(&json!({ "status": status })).map_err(|problem| problem.kind());
            assert_eq!(found, wanted, "{status}");
        }
        assert_eq!(judge(&json!({})).map_err(|problem| problem.kind()), Err(ProblemKind::Internal));
    }

    #[test]
    fn a_problem_tells_what_the_site_needs_and_no_token() {
        let token = "00112233445566778899aabbccddeeff";
        let answer = json!({ "status": "clock_ahead", "token": token, "acked": 3, "accepted_hlc": 7_u64 << 56,
            "server_time_ms": 11, "detail": "by 2 years" });
        let told = format!("{:?}", judge(&answer).unwrap_err());
        for word in ["accepted_hlc", "504403158265495552", "server_time_ms", "by 2 years"] {
            assert!(told.contains(word), "{word} in {told}");
        }
        assert!(!told.contains(token), "{told}");
    }
}
