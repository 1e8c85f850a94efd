//! A download: what is new since a cursor, or a wait for it.
//!
//! What is new is the feed's to know; this speaks HTTP about it. A wait ends early when the hub ends, so that
//! clients move to another node at once.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use percent_encoding::percent_decode_str;
use warp::Reply;
use warp::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use warp::reply::Response;

use super::app::Database;
use super::problem::{Problem, ProblemKind};
use super::range;
use crate::auth::Caller;
use crate::cursor::Cursor;
use crate::error::Error;
use crate::feed::{ChangesAnswer, Moved, Wanted};
use crate::horizon::Horizon;
use crate::shutdown;
use crate::store::ObjectUrl;
use crate::upload::{read_db_version, read_site, read_token};

/// Longest wait: proxies cut idle requests at 60 to 100 s, see DESIGN section 15.
const WAIT_MS_MAX: u64 = 60_000;

const CURSOR: HeaderName = HeaderName::from_static("cloudsync-cursor");
const COMPLETE: HeaderName = HeaderName::from_static("cloudsync-complete");
const SOURCE: HeaderName = HeaderName::from_static("cloudsync-source");
const PART: HeaderName = HeaderName::from_static("cloudsync-part");
/// Whether the client fetches parts of snapshots from the store: `follow`.
const REDIRECTS: HeaderName = HeaderName::from_static("cloudsync-redirects");
/// The number of the site up to which Postgres has what it sent.
const ACKED: HeaderName = HeaderName::from_static("cloudsync-acked");
/// The database was restored on purpose: what the snapshot lacks or has older stands.
const RESTORED: HeaderName = HeaderName::from_static("cloudsync-restored");
/// The tables that the answer is of, as they were asked for.
const TABLES: HeaderName = HeaderName::from_static("cloudsync-tables");

/// Most tables that one request names: one who wants more takes a whole snapshot.
const TABLES_MAX: usize = 32;

/// What the query of a download says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Query {
    cursor: Option<String>,
    tables: Vec<u32>,
    wait: Duration,
}

impl Query {
    fn read(text: &str) -> Result<Query, Problem> {
        let mut query = Query::default();
        for parameter in text.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let value = percent_decode_str(value)
                .decode_utf8()
                .map_err(|_| wrong(name, "bytes that are not UTF-8", "text"))?;
            match name {
                "cursor" if value.is_empty() => query.cursor = None,
                "cursor" => query.cursor = Some(value.into_owned()),
                "tables" => query.tables = read_tables(&value)?,
                "wait_ms" => query.wait = read_wait(&value)?,
                // A parameter of a later release means nothing here.
                _ => {}
            }
        }
        if query.cursor.is_none() && !query.tables.is_empty() {
            return Err(wrong(
                "tables",
                "no cursor beside it",
                "the place that the tables are taken anew at",
            ));
        }
        Ok(query)
    }
}

fn read_tables(value: &str) -> Result<Vec<u32>, Problem> {
    let read =
        |number: &str| number.parse().ok().filter(|_| number.bytes().all(|byte| byte.is_ascii_digit()));
    let tables: Option<Vec<u32>> = value.split('.').map(read).collect();
    let wanted = "1 to 32 numbers with dots between them";
    tables
        .filter(|tables| tables.len() <= TABLES_MAX)
        .ok_or_else(|| wrong("tables", "something else", wanted))
}

fn read_wait(value: &str) -> Result<Duration, Problem> {
    let wait_ms = value.parse::<u64>().ok().filter(|wait_ms| *wait_ms <= WAIT_MS_MAX);
    let wanted = "whole milliseconds from 0 to 60000";
    wait_ms.map(Duration::from_millis).ok_or_else(|| wrong("wait_ms", "something else", wanted))
}

fn wrong(name: &str, found: &str, wanted: &str) -> Problem {
    Problem::new(ProblemKind::BadRequest, format!("parameter {name}: found {found}, wanted {wanted}"))
}

/// Answers one download.
pub(super) async fn answer(
    database: &Arc<Database>,
    caller: &Caller,
    headers: &HeaderMap,
    query: &str,
) -> Result<Response, Problem> {
    let site = read_site(headers)?;
    let _present = database.metrics.devices.enter(site);
    let token = read_token(headers)?;
    read_db_version(headers)?;
    let query = Query::read(query)?;
    // A text that is none is refused by the feed.
    let cursor: Option<Cursor> = query.cursor.as_deref().and_then(|cursor| cursor.parse().ok());
    // Who takes tables anew does not have the rest up to there.
    if let Some(cursor) = cursor.as_ref().filter(|_| query.tables.is_empty()) {
        Horizon::hear(database, site, cursor);
    }
    let waiting = if query.wait.is_zero() { None } else { database.limits.wait() };
    // Without room to wait, what is new is told all the same.
    let wait = if waiting.is_some() { query.wait } else { Duration::ZERO };
    let mut ending = database.ending();
    let wanted = Wanted {
        cursor: query.cursor.as_deref(),
        tables: &query.tables,
        wait,
        scopes_interval: database.scopes_interval(),
        broken_off: range::broken_off(headers),
        takes_urls: headers.get(REDIRECTS).is_some_and(|value| value == "follow"),
    };
    let found = tokio::select! {
        found = database.feed.changes(caller, wanted) => found.map_err(Problem::from)?,
        () = shutdown::asked(&mut ending) => {
            let cursor = query.cursor.filter(|_| query.tables.is_empty()).ok_or_else(|| {
                Problem::from(Error::Unavailable { reason: "the hub is ending".to_owned() })
            })?;
            let (frames, moved) = (Vec::new(), Moved::No);
            let (part, name, url) = (None, None, None);
            ChangesAnswer { frames, rows: 0, cursor, complete: true, part, name, url, moved, is_by_table: false }
        }
    };
    drop(waiting);
    if found.is_nothing() && found.part.is_none() && wait < query.wait {
        return Err(database.limits.no_wait());
    }
    tracing::debug!(%site, frames = found.frames.len(), complete = found.complete, "changes");
    if let Some(cursor @ Cursor::Log { .. }) = &cursor
        && found.part == Some(0)
        && found.moved == Moved::No
        && !found.is_by_table
    {
        // It cannot go on in the log: what it lacks may be deletions that are forgotten, and it has to know.
        database.horizon.check(database, site, cursor).await?;
    }
    let acked = match found.moved {
        // Asked when an epoch has ended: it may be less than what the site was told by a server that is gone. Only
        // a site with a token was ever told anything.
        Moved::On if token.is_some() => database.backend.site_acked(site).await?,
        Moved::On | Moved::Restored | Moved::No => None,
    };
    let tables = query.tables.iter().filter(|_| found.is_by_table).map(u32::to_string).collect::<Vec<_>>();
    let mut response = respond(database, headers, found, acked)?;
    if !tables.is_empty() {
        let tables = HeaderValue::from_str(&tables.join(".")).map_err(|_| Problem::from(Error::Cursor))?;
        response.headers_mut().insert(TABLES, tables);
    }
    Ok(response)
}

fn respond(
    database: &Database,
    asked: &HeaderMap,
    found: ChangesAnswer,
    acked: Option<i64>,
) -> Result<Response, Problem> {
    let cursor = HeaderValue::from_str(&found.cursor).map_err(|_| Problem::from(Error::Cursor))?;
    let nothing = found.is_nothing();
    let source = if found.part.is_some() { "snapshot" } else { "log" };
    database.metrics.count_download(if nothing { "nothing" } else { source });
    let mut response = match found.name {
        _ if nothing => Response::default(),
        Some(name) if let Some(url) = &found.url => {
            // Who asks for the rest of a part was counted before.
            if range::broken_off(asked).is_none() {
                database.metrics.sent_rows.inc_by(found.rows);
            }
            elsewhere(&format!("\"{name}\""), url)?
        }
        Some(name) => parts(database, asked, &format!("\"{name}\""), (found.frames, found.rows))?,
        None => frames(database, found.frames, found.rows)?,
    };
    if nothing {
        *response.status_mut() = StatusCode::NO_CONTENT;
    }
    let headers = response.headers_mut();
    headers.insert(CURSOR, cursor);
    headers.insert(COMPLETE, HeaderValue::from_static(if found.complete { "true" } else { "false" }));
    headers.insert(SOURCE, HeaderValue::from_static(source));
    if let Some(part) = found.part {
        headers.insert(PART, HeaderValue::from(part));
    }
    if let Some(acked) = acked {
        headers.insert(ACKED, HeaderValue::from(acked));
    }
    if found.moved == Moved::Restored {
        headers.insert(RESTORED, HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// A body of parts of a snapshot, or what is wanted of it.
fn parts(
    database: &Database,
    asked: &HeaderMap,
    tag: &str,
    (mut found, mut rows): (Vec<Bytes>, u64),
) -> Result<Response, Problem> {
    let length = found.iter().map(Bytes::len).fold(0_usize, usize::saturating_add);
    let (status, place) = match range::wanted(asked, tag, length) {
        range::Wanted::Whole => (StatusCode::OK, None),
        range::Wanted::Part(bytes) => {
            found = cut(found, &bytes);
            // They were counted with the answer that broke off.
            rows = 0;
            let last = bytes.end.saturating_sub(1);
            (StatusCode::PARTIAL_CONTENT, Some(format!("bytes {}-{last}/{length}", bytes.start)))
        }
        range::Wanted::Nothing => (StatusCode::RANGE_NOT_SATISFIABLE, Some(format!("bytes */{length}"))),
    };
    let mut response = if status == StatusCode::RANGE_NOT_SATISFIABLE {
        let detail = format!("header Range: found none of the {length} bytes, wanted some");
        Problem::new(ProblemKind::RangeNotSatisfiable, detail).response()
    } else {
        frames(database, found, rows)?
    };
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    for (name, text) in [(header::ETAG, Some(tag.to_owned())), (header::CONTENT_RANGE, place)] {
        if let Some(value) = text.and_then(|text| HeaderValue::from_str(&text).ok()) {
            headers.insert(name, value);
        }
    }
    Ok(response)
}

/// Where a part is to be fetched. The address is a secret of the client's, as its key is.
fn elsewhere(tag: &str, url: &ObjectUrl) -> Result<Response, Problem> {
    let wrong = |_| Problem::from(Error::Unavailable { reason: "an address is no header".to_owned() });
    let mut location = HeaderValue::from_str(url.reveal()).map_err(wrong)?;
    location.set_sensitive(true);
    let mut response = Response::default();
    *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    response.headers_mut().insert(header::LOCATION, location);
    response.headers_mut().insert(header::ETAG, HeaderValue::from_str(tag).map_err(wrong)?);
    Ok(response)
}

/// The bytes at these places, counted through all frames.
fn cut(frames: Vec<Bytes>, wanted: &Range<usize>) -> Vec<Bytes> {
    let mut begin = 0_usize;
    let mut found = Vec::with_capacity(frames.len());
    for frame in frames {
        let from = wanted.start.saturating_sub(begin).min(frame.len());
        let to = wanted.end.saturating_sub(begin).min(frame.len());
        begin = begin.saturating_add(frame.len());
        if from < to {
            found.push(frame.slice(from..to));
        }
    }
    found
}

/// A body of frames, sent from where they are without joining them first.
fn frames(database: &Database, frames: Vec<Bytes>, rows: u64) -> Result<Response, Problem> {
    let length = frames.iter().map(Bytes::len).fold(0_usize, usize::saturating_add);
    let bytes = u64::try_from(length).unwrap_or(u64::MAX);
    let load = database.limits.carry(bytes)?;
    database.metrics.sent_bytes.inc_by(bytes);
    database.metrics.sent_rows.inc_by(rows);
    let parts = frames.into_iter().map(move |frame| {
        // They are on their way until the last is handed over, or nobody wants them.
        let _held = &load;
        Ok::<_, std::convert::Infallible>(frame)
    });
    let mut response = warp::reply::stream(stream::iter(parts)).into_response();
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, cursor: Option<&str>, tables: &[u32], wait_ms: u64) {
        let (cursor, wait) = (cursor.map(str::to_owned), Duration::from_millis(wait_ms));
        let wanted = Query { cursor, tables: tables.to_vec(), wait };
        assert_eq!(Query::read(text).unwrap(), wanted, "{text}");
    }

    #[test]
    fn a_query_is_read() {
        check("", None, &[], 0);
        check("cursor=&wait_ms=0", None, &[], 0);
        check("cursor=a.b-1&wait_ms=60000", Some("a.b-1"), &[], 60_000);
        check("cursor=a%2Fb&later=1", Some("a/b"), &[], 0);
        check("tables=7.12&cursor=a", Some("a"), &[7, 12], 0);
    }

    #[test]
    fn a_cut_goes_through_all_frames() {
        let frames = || ["abc", "", "de", "f"].map(Bytes::from).to_vec();
        for from in 0..6 {
            for to in from + 1..=6 {
                let found = cut(frames(), &(from..to));
                assert_eq!(found.concat(), "abcdef".as_bytes()[from..to], "{from} {to}");
                assert!(found.iter().all(|frame| !frame.is_empty()));
            }
        }
    }

    #[test]
    fn a_wrong_query_is_refused() {
        let many = format!("cursor=a&tables=1{}", ".1".repeat(TABLES_MAX));
        let tables = ["tables=1", "cursor=a&tables=", "cursor=a&tables=1,2", "cursor=a&tables=+1", &many];
        let waits = ["wait_ms=60001", "wait_ms=-1", "wait_ms=", "wait_ms=1.5", "cursor=%ff"];
        for text in tables.into_iter().chain(waits) {
            assert_eq!(Query::read(text).expect_err(text).kind(), ProblemKind::BadRequest);
        }
    }
}
