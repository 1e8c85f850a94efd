//! A SQLite file as a backend: SQL to the extension that is loaded into it.
//!
//! The file is opened by whoever leads, and only then are uploads taken: one hub serves a file.

mod agenda;
mod connection;
mod feed;
mod file;
mod ground;
mod snapshot;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rusqlite::{Connection, params};
use serde_json::Value;
use shared_format::SiteId;
use shared_format::payload::encode_frame;

use super::{Backend, Report, SnapshotRows, Upload, UploadPlace};
use crate::config::SqliteLocation;
use crate::epoch::Epoch;
use crate::error::{Error, Result};
use crate::feed::log::Log;
use crate::ingest::Ingest;
use crate::jobs::queue::JobQueue;
use crate::position::Lsn;
use crate::shutdown::asked;
use file::{File, begin, in_transaction};
pub(super) use file::{check, counts};
pub(in crate::backend) use snapshot::open_beside;

/// One central file.
pub(super) struct Sqlite {
    location: SqliteLocation,
    open: Mutex<Option<Arc<File>>>,
}

impl Sqlite {
    pub(super) fn new(location: &SqliteLocation) -> Sqlite {
        Sqlite { location: location.clone(), open: Mutex::new(None) }
    }

    fn set_open(&self, file: Option<Arc<File>>) {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = file;
    }

    fn file(&self) -> Result<Arc<File>> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let closed = || Error::Unavailable { reason: "the central file is not open in this hub".to_owned() };
        open.ok_or_else(closed)
    }

    async fn turn(&self, ingest: &Ingest) -> Result<()> {
        let may_be_new = ingest.archive.newest_epoch_number().await?.is_none();
        let file = File::open(&self.location, may_be_new).await?;
        let _closed = Closing(self);
        self.set_open(Some(Arc::clone(&file)));
        // Only its first word tells an older copy: what it holds since gets new numbers.
        let mut begun = file.begun.clone();
        loop {
            feed::lead(ingest, &file, &begun).await?;
            // Some tables have other readers from now on.
            ingest.log.stop_leading();
            begun = file.call(begin).await?;
        }
    }
}

/// Closes the file at the end of a turn, however that comes.
struct Closing<'a>(&'a Sqlite);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.set_open(None);
    }
}

impl Backend for Sqlite {
    fn reserve(&self) -> BoxFuture<'_, Result<Box<dyn UploadPlace>>> {
        async { Ok(Box::new(self.file()?) as Box<dyn UploadPlace>) }.boxed()
    }

    fn site_acked(&self, site: SiteId) -> BoxFuture<'_, Result<Option<i64>>> {
        let acked = move |connection: &mut Connection| {
            let sql = "select cloudsync_central_acked(?1)";
            let asked = connection.query_row(sql, [site.as_bytes().as_slice()], |row| row.get(0));
            asked.map_err(|source| Error::Sqlite { action: "read the number of a site", source })
        };
        async move { self.file()?.call(acked).await }.boxed()
    }

    fn note_site(&self, site: SiteId, place: Lsn) -> BoxFuture<'_, Result<bool>> {
        let place = i64::try_from(place.raw()).unwrap_or(i64::MAX);
        let noted = move |connection: &mut Connection| {
            in_transaction(connection, "note the place of a site", |connection| {
                let sql = "select cloudsync_central_note_site(?1, ?2)";
                let row = params![site.as_bytes().as_slice(), place];
                connection.prepare_cached(sql)?.query_row(row, |row| row.get(0))
            })
        };
        async move { self.file()?.call(noted).await }.boxed()
    }

    /// A file has no triggers that somebody could turn off for all.
    fn catch_up(&self) -> BoxFuture<'_, Result<()>> {
        async { Ok(()) }.boxed()
    }

    fn collect_tombstones(&self) -> BoxFuture<'_, Result<bool>> {
        let collected = |connection: &mut Connection| {
            in_transaction(connection, "drop tombstones", |connection| {
                connection.query_row("select cloudsync_central_collect()", [], |row| row.get(0))
            })
        };
        async move { self.file()?.call(collected).await }.boxed()
    }

    fn scopes_of<'a>(&'a self, claims: &'a str) -> BoxFuture<'a, Result<Vec<String>>> {
        let claims = claims.to_owned();
        let asked = move |connection: &mut Connection| {
            let sql = "select cloudsync_central_scopes(?1)";
            let told = connection
                .prepare_cached(sql)
                .and_then(|mut statement| statement.query_row([claims], |row| row.get::<_, String>(0)));
            let told = told.map_err(|source| Error::Sqlite { action: "ask for scopes", source })?;
            serde_json::from_str(&told).map_err(|_| Error::UploadAnswer { part: "cloudsync_central_scopes" })
        };
        async move { self.file()?.call(asked).await }.boxed()
    }

    fn report(&self, report: Report) -> BoxFuture<'_, Result<Option<Value>>> {
        let (sql, after, items) = match report {
            Report::Devices { after, items } => {
                (include_str!("../../../../sql/hub/file_devices.sql"), after, items)
            }
            Report::Rejected { after, items } => {
                (include_str!("../../../../sql/hub/file_rejected.sql"), after, items)
            }
            Report::Slots | Report::Summary | Report::Jobs { .. } => return async { Ok(None) }.boxed(),
        };
        let asked = move |connection: &mut Connection| {
            let told = connection.query_row(sql, params![after, items], |row| row.get::<_, String>(0));
            let told = told.map_err(|source| Error::Sqlite { action: "tell of the central file", source })?;
            serde_json::from_str(&told).map(Some).map_err(|_| Error::ReportAnswer)
        };
        async move { self.file()?.call(asked).await }.boxed()
    }

    /// Nothing that a file says passes through hands that could forge it; and it is never away.
    fn message_key(&self) -> BoxFuture<'_, Result<Option<Vec<u8>>>> {
        async { Ok(None) }.boxed()
    }

    /// One node serves a file, and does its jobs alone.
    fn queue(&self) -> Option<Arc<dyn JobQueue>> {
        None
    }

    fn jobs_due(&self) -> BoxFuture<'_, Result<BTreeMap<String, SystemTime>>> {
        async { self.file()?.call(|connection| agenda::read(connection)).await }.boxed()
    }

    fn keep_job_due(&self, kind: &'static str, at: SystemTime) -> BoxFuture<'_, Result<()>> {
        async move { self.file()?.call(move |connection| agenda::keep(connection, kind, at)).await }.boxed()
    }

    fn ping(&self) -> BoxFuture<'_, Result<()>> {
        async { self.file()?.call(|_connection| Ok(())).await }.boxed()
    }

    fn open_snapshot<'a>(
        &'a self,
        _log: &'a Log,
        _epoch: &'a Epoch,
    ) -> BoxFuture<'a, Result<Box<dyn SnapshotRows>>> {
        async { snapshot::open(&*self.file()?).await }.boxed()
    }

    fn take_turns<'a>(&'a self, ingest: &'a Ingest) -> BoxFuture<'a, Result<()>> {
        let mut shutdown = ingest.shutdown.clone();
        async move {
            tokio::select! {
                outcome = self.turn(ingest) => outcome,
                // The file keeps what is not stored yet.
                () = asked(&mut shutdown) => Ok(()),
            }
        }
        .boxed()
    }
}

impl UploadPlace for Arc<File> {
    fn apply(self: Box<Self>, upload: Upload) -> BoxFuture<'static, Result<Value>> {
        async move {
            let (frames, missing) = gather(&upload).await?;
            let file = Arc::clone(&self);
            let told = self.call(move |connection| {
                // A file that is none any more keeps nothing.
                file.check_is_there()?;
                take(connection, &upload, frames.as_deref())
            });
            let told = told.await?;
            let mut answer: Value =
                serde_json::from_str(&told).map_err(|_| Error::UploadAnswer { part: "object" })?;
            if let Some(missing) = missing {
                answer["missing"] = Value::from(missing);
            }
            Ok(answer)
        }
        .boxed()
    }
}

/// The frames of an upload, one behind the other; if a chunk is missing, its number instead.
async fn gather(upload: &Upload) -> Result<(Option<Vec<u8>>, Option<u32>)> {
    let mut frames = Vec::new();
    if let Some(chunks) = &upload.before {
        for number in chunks.numbers() {
            let Some(frame) = chunks.frame(number).await? else { return Ok((None, Some(number))) };
            frames.extend_from_slice(&frame);
        }
    }
    frames.extend(encode_frame(&upload.payload));
    Ok((Some(frames), None))
}

/// Hands an upload to the extension, without its frames if one is missing. The caller's role and claims mean nothing
/// here.
fn take(connection: &mut Connection, upload: &Upload, frames: Option<&[u8]>) -> Result<String> {
    let sql = "select cloudsync_central_upload(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    let Upload { site, upload: id, first, last, token, rejected_seen, follows, .. } = upload;
    let (site, token) = (site.as_bytes().as_slice(), token.as_ref().map(<[u8; 16]>::as_slice));
    let follows = follows.as_ref().map(<[u8; 16]>::as_slice);
    let row = params![frames, site, id.as_slice(), first, last, token, rejected_seen, follows];
    in_transaction(connection, "apply an upload", |connection| {
        connection.prepare_cached(sql)?.query_row(row, |row| row.get(0))
    })
}
