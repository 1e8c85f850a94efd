//! What operators look at: devices, slots, refused rows, jobs from the database; segments and snapshots from the store.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use warp::http::StatusCode;
use warp::reply::Response;

use super::call::{Call, answer, done, wrong};
use super::types::{Device, Job, Page, RejectedRow, SegmentAnswer, Slot, SnapshotAnswer};
use crate::backend::Report;
use crate::error::{Error, Result};
use crate::http::problem::{Problem, ProblemKind};
use crate::ingest::archive::Archive;
use crate::jobs::queue::JobQueue;
use crate::keys::{Keys, SegmentName, parse_snapshot_key};
use crate::store::Entry;

type Answered = BoxFuture<'static, std::result::Result<Response, Problem>>;

/// Items of a page unless the request says otherwise.
const ITEMS: u64 = 100;

/// Most objects that are asked for at once.
const ENTRIES_MAX: usize = 1_000_000;

pub(super) fn devices(call: Call) -> Answered {
    page::<Device>(call, |after, items| Report::Devices { after, items }, |device| device.site.clone())
        .boxed()
}

pub(super) fn slots(call: Call) -> Answered {
    page::<Slot>(call, |_after, _items| Report::Slots, |slot| slot.name.clone()).boxed()
}

pub(super) fn rejected(call: Call) -> Answered {
    page::<RejectedRow>(
        call,
        |after, items| Report::Rejected { after, items },
        |row| row.rejection.to_string(),
    )
    .boxed()
}

pub(super) fn jobs(call: Call) -> Answered {
    page::<Job>(call, |after, items| Report::Jobs { after, items }, |job| job.job.to_string()).boxed()
}

pub(super) fn revive_job(call: Call) -> Answered {
    async move {
        let (queue, job) = dead_job(&call)?;
        if queue.revive(job).await? { done() } else { Err(no_dead_job(&call)) }
    }
    .boxed()
}

pub(super) fn forget_job(call: Call) -> Answered {
    async move {
        let (queue, job) = dead_job(&call)?;
        if queue.forget(job).await? { done() } else { Err(no_dead_job(&call)) }
    }
    .boxed()
}

/// The queue, and the job that the path names.
fn dead_job(call: &Call) -> std::result::Result<(Arc<dyn JobQueue>, i64), Problem> {
    let missing = || Problem::new(ProblemKind::UnknownName, "a SQLite file as the centre keeps no jobs");
    let queue = call.database()?.backend.queue().ok_or_else(missing)?;
    let job = call.name(1).parse().map_err(|_no_number| no_dead_job(call))?;
    Ok((queue, job))
}

fn no_dead_job(call: &Call) -> Problem {
    Problem::new(ProblemKind::UnknownName, format!("there is no dead job {:?}", call.name(1)))
}

/// Answers with a page of what the database says.
async fn page<T: DeserializeOwned + Serialize + JsonSchema>(
    call: Call,
    report: fn(String, i64) -> Report,
    place: fn(&T) -> String,
) -> std::result::Result<Response, Problem> {
    let database = call.database()?;
    let (after, items) = (call.query.text("after").unwrap_or_default(), items(&call));
    let wanted = report(after.to_owned(), i64::try_from(items).unwrap_or(i64::MAX));
    let found = database.backend.report(wanted).await?;
    let missing = || Problem::new(ProblemKind::UnknownName, "a SQLite file as the centre has no such list");
    let read = serde_json::from_value::<Vec<T>>(found.ok_or_else(missing)?);
    let items_found = read.map_err(|_| Problem::from(Error::ReportAnswer))?;
    let is_full = u64::try_from(items_found.len()).is_ok_and(|found| found >= items);
    let next = items_found.last().filter(|_| is_full).map(place);
    answer(StatusCode::OK, &Page { items: items_found, next })
}

fn items(call: &Call) -> u64 {
    call.query.number("limit").unwrap_or(ITEMS)
}

pub(super) fn segments(call: Call) -> Answered {
    async move {
        let (keys, epoch) = newest_epoch(&call).await?;
        let Some(epoch) = epoch else {
            return answer(StatusCode::OK, &Page::<SegmentAnswer> { items: Vec::new(), next: None });
        };
        let folder = keys.segments(epoch);
        let after = match call.query.text("after") {
            Some(name) => match SegmentName::parse(name) {
                Some(name) => Some(keys.segment(epoch, &name)),
                None => return Err(wrong("after", "something else", "the name of a segment")),
            },
            None => None,
        };
        let limit = usize::try_from(items(&call)).unwrap_or(ENTRIES_MAX);
        let store = call.app.databases.store();
        let entries = store.entries(&folder, after.as_deref(), limit).await?;
        let is_full = entries.len() >= limit;
        let segments: Vec<SegmentAnswer> =
            entries.iter().filter_map(|entry| tell_segment(&folder, entry)).collect();
        let next = segments.last().filter(|_| is_full).map(|segment| segment.name.clone());
        answer(StatusCode::OK, &Page { items: segments, next })
    }
    .boxed()
}

fn tell_segment(folder: &str, entry: &Entry) -> Option<SegmentAnswer> {
    let file = entry.key.strip_prefix(folder)?;
    let name = SegmentName::parse(file)?;
    Some(SegmentAnswer {
        name: file.to_owned(),
        previous: name.previous.commit_end.to_string(),
        last: name.last.commit_end.to_string(),
        bytes: entry.bytes,
        modified_ms: unix_ms(entry.modified),
    })
}

pub(super) fn snapshots(call: Call) -> Answered {
    async move {
        let (keys, epoch) = newest_epoch(&call).await?;
        let mut found: BTreeMap<(String, String), SnapshotAnswer> = BTreeMap::new();
        if let Some(epoch) = epoch {
            let folder = keys.snapshots(epoch);
            for entry in call.app.databases.store().entries(&folder, None, ENTRIES_MAX).await? {
                let Some((id, is_manifest)) = parse_snapshot_key(&folder, &entry.key) else { continue };
                let (lsn, build) = (id.lsn.to_string(), format!("{:016x}", id.build));
                let place = (id.lsn.to_hex(), build.clone());
                let snapshot = found.entry(place).or_insert(SnapshotAnswer {
                    lsn,
                    build,
                    finished: false,
                    objects: 0,
                    bytes: 0,
                    modified_ms: 0,
                });
                snapshot.finished |= is_manifest;
                snapshot.objects = snapshot.objects.saturating_add(1);
                snapshot.bytes = snapshot.bytes.saturating_add(entry.bytes);
                snapshot.modified_ms = snapshot.modified_ms.max(unix_ms(entry.modified));
            }
        }
        answer(StatusCode::OK, &Page { items: found.into_values().rev().collect(), next: None })
    }
    .boxed()
}

/// The names of a database's objects, and the newest epoch in the store.
async fn newest_epoch(call: &Call) -> std::result::Result<(Keys, Option<u32>), Problem> {
    let database = call.database()?;
    let keys = Keys::new(database.name.as_str());
    let epoch: Result<_> =
        Archive::new(call.app.databases.store().clone(), keys.clone()).newest_epoch_number().await;
    Ok((keys, epoch?))
}

fn unix_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
