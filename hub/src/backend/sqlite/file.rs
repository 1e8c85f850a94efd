//! The central file: one connection on a thread of its own, under a lock that keeps other hubs out.
//!
//! Whatever is asked of the file waits in line for that thread. In between it looks whether other programs have
//! committed something, by `pragma data_version`, and lets the extension pass that on.

use std::fs::{self, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OptionalExtension, TransactionBehavior};
use serde_json::Value;
use tokio::sync::{oneshot, watch};

use super::connection;
use crate::config::SqliteLocation;
use crate::error::{Error, Result};
use crate::position::Lsn;

/// How often the file is looked at; a look reads a counter in shared memory.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// One thing to do with the connection.
type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// How far the feed of the file is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Reached {
    /// The number of its newest row.
    pub(super) end: Lsn,
    /// Why what was written meanwhile could not be passed on.
    pub(super) problem: Option<String>,
}

/// The central file, served by this hub as long as this lives.
pub(super) struct File {
    jobs: Sender<Job>,
    reached: watch::Receiver<Reached>,
    pub(super) location: SqliteLocation,
    /// Which file was opened, to notice when another one takes its name.
    opened: (u64, u64),
    /// What the file said when it was opened, before anything else was asked of it.
    pub(super) begun: Begun,
}

/// What a file says of itself when a hub begins with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Begun {
    /// Its name.
    pub(super) name: String,
    /// Counts the hubs that began.
    pub(super) fence: u64,
    /// The number of the newest row of its feed, as it was found.
    pub(super) stood: Lsn,
    /// The same, with what others wrote since.
    pub(super) end: Lsn,
    /// Names the newest time that it was set back on purpose; empty when there was none.
    pub(super) restored: String,
    /// The row of its feed from which on some tables have other readers.
    pub(super) reload: Lsn,
}

impl File {
    /// Opens and locks the file, and makes it a centre. One that is not there is made where `may_be_new` says so: else
    /// somebody may be about to put another one there.
    pub(super) async fn open(location: &SqliteLocation, may_be_new: bool) -> Result<Arc<File>> {
        let location = location.clone();
        let opening = tokio::task::spawn_blocking(move || open(location, may_be_new));
        opening.await.map_err(|_ended| Error::TaskEnded { task: "open the central file" })?.map(Arc::new)
    }

    /// Follows how far the feed is.
    pub(super) fn reached(&self) -> watch::Receiver<Reached> {
        self.reached.clone()
    }

    /// Does something with the connection when its turn comes.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let gone = || Error::Unavailable { reason: "the central file is being closed".to_owned() };
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            // Whoever asked may have given up.
            drop(answer.send(job(connection)));
        });
        self.jobs.send(job).map_err(|_ended| gone())?;
        answered.await.map_err(|_ended| gone())?
    }

    /// Makes sure that the file is still the one of its name.
    pub(super) fn check_is_there(&self) -> Result<()> {
        let found = identity(&self.location.file).ok();
        if found == Some(self.opened) {
            return Ok(());
        }
        Err(Error::CentralFileReplaced { path: self.location.file.clone() })
    }
}

fn open(location: SqliteLocation, may_be_new: bool) -> Result<File> {
    let path = location.file.clone();
    let failed = |operation| {
        let path = path.clone();
        move |source| Error::CentralFile { operation, path, source }
    };
    let lock = lock(&location)?;
    if !may_be_new {
        identity(&location.file).map_err(failed("look at"))?;
    }
    let mut connection = connection::open(&location)?;
    let begun = begin(&mut connection)?;
    let opened = identity(&location.file).map_err(failed("look at"))?;
    let (jobs, waiting) = mpsc::channel();
    let (sender, reached) = watch::channel(Reached { end: begun.end, problem: None });
    let serving = thread::Builder::new().name("central-file".to_owned()).spawn(move || {
        serve(&mut connection, &waiting, &sender);
        drop(connection);
        // Only now may another hub have it.
        drop(lock);
    });
    serving.map_err(failed("serve"))?;
    Ok(File { jobs, reached, location, opened, begun })
}

/// Keeps other hubs out until it is dropped.
fn lock(location: &SqliteLocation) -> Result<fs::File> {
    let path = location.file.clone();
    let failed = |operation| {
        let path = path.clone();
        move |source| Error::CentralFile { operation, path, source }
    };
    let beside = lock_path(&location.file);
    let lock = fs::OpenOptions::new().create(true).truncate(false).write(true).open(beside);
    let lock = lock.map_err(failed("make the lock of"))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(Error::CentralFileServed { path }),
        Err(TryLockError::Error(source)) => Err(failed("lock")(source)),
    }
}

/// Tries what a hub needs of the file, without beginning with it; says how it stands.
pub(crate) fn check(location: &SqliteLocation) -> Result<&'static str> {
    connection::try_library(location)?;
    let _lock = match lock(location) {
        Ok(lock) => lock,
        Err(Error::CentralFileServed { .. }) => return Ok("a hub serves the file"),
        Err(error) => return Err(error),
    };
    if identity(&location.file).is_err() {
        return Ok("the file is not there yet, the first hub makes it");
    }
    connection::try_file(location)?;
    Ok("the file can be read and written, nobody serves it now")
}

/// How many tables a file tracks, how many sites have uploaded to it, and how many rows it refused; none while it is no
/// centre.
pub(crate) fn counts(location: &SqliteLocation) -> Result<Option<[u64; 3]>> {
    if identity(&location.file).is_err() {
        return Ok(None);
    }
    let failed = |source| Error::Sqlite { action: "count in the central file", source };
    let connection = connection::open_to_read(location).map_err(failed)?;
    let is_centre = "select exists (select 1 from main.sqlite_schema where name = 'cloudsync_uploaders')";
    if !connection.query_row(is_centre, [], |row| row.get::<_, bool>(0)).map_err(failed)? {
        return Ok(None);
    }
    let sql = "select (select count(*) from main.cloudsync_tables), (select count(*) from main.cloudsync_uploaders),
        (select count(*) from main.cloudsync_refusals)";
    let counts = connection.query_row(sql, [], |row| Ok([row.get(0)?, row.get(1)?, row.get(2)?]));
    let counts: [i64; 3] = counts.map_err(failed)?;
    Ok(Some(counts.map(i64::unsigned_abs)))
}

fn lock_path(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push("-hub");
    PathBuf::from(name)
}

pub(super) fn identity(path: &Path) -> std::io::Result<(u64, u64)> {
    fs::metadata(path).map(|found| (found.dev(), found.ino()))
}

/// Makes the file a centre, or goes on with it.
pub(super) fn begin(connection: &mut Connection) -> Result<Begun> {
    let sql = "select cloudsync_central_begin()";
    let told: String = in_transaction(connection, "begin with the central file", |connection| {
        connection.query_row(sql, [], |row| row.get(0))
    })?;
    let told: Value = serde_json::from_str(&told).unwrap_or_default();
    let text = |name: &'static str| {
        let found = told.get(name).and_then(Value::as_str).map(str::to_owned);
        found.ok_or(Error::UploadAnswer { part: name })
    };
    let number =
        |name: &'static str| told.get(name).and_then(Value::as_u64).ok_or(Error::UploadAnswer { part: name });
    Ok(Begun {
        name: text("file")?,
        fence: number("fence")?,
        stood: Lsn::new(number("stood")?),
        end: Lsn::new(number("position")?),
        restored: text("restored")?,
        reload: Lsn::new(number("reload")?),
    })
}

/// The name that the file has as a centre.
pub(super) fn name_of(connection: &Connection) -> Result<String> {
    let sql = "select value from main.cloudsync_settings where key = 'central_file'";
    let named = connection.query_row(sql, [], |row| row.get(0));
    named.map_err(|source| Error::Sqlite { action: "read the name of the central file", source })
}

/// Runs statements in one transaction that has the right to write from its begin.
pub(super) fn in_transaction<T>(
    connection: &mut Connection,
    action: &'static str,
    body: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> Result<T> {
    let failed = |source| Error::Sqlite { action, source };
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
    let done = body(&transaction).map_err(failed)?;
    transaction.commit().map_err(failed)?;
    Ok(done)
}

/// Takes what was written by others into the feed; the number of its newest row.
pub(super) fn pass_on(connection: &mut Connection) -> Result<Lsn> {
    let end: i64 = in_transaction(connection, "pass on what was written", |connection| {
        connection.query_row("select cloudsync_central_feed()", [], |row| row.get(0))
    })?;
    Ok(Lsn::new(end.unsigned_abs()))
}

/// Does what is asked, and looks for what others wrote, until nobody can ask any more.
fn serve(connection: &mut Connection, jobs: &Receiver<Job>, reached: &watch::Sender<Reached>) {
    let mut seen = None;
    loop {
        let worked = match jobs.recv_timeout(LOOK_INTERVAL) {
            Ok(job) => {
                job(connection);
                true
            }
            Err(RecvTimeoutError::Timeout) => false,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let version = data_version(connection).ok();
        let found = if seen != version || version.is_none() {
            pass_on(connection)
        } else if worked {
            newest(connection)
        } else {
            continue;
        };
        match found {
            Ok(end) => {
                seen = version;
                tell(reached, Reached { end, problem: None });
            }
            // Somebody else writes for long; the next look finds the same.
            Err(Error::Sqlite { source, .. }) if is_busy(&source) => {}
            Err(error) => {
                let end = reached.borrow().end;
                tell(reached, Reached { end, problem: Some(error.logged()) });
            }
        }
    }
}

fn tell(reached: &watch::Sender<Reached>, found: Reached) {
    reached.send_if_modified(|known| {
        let is_news = *known != found;
        *known = found;
        is_news
    });
}

/// Changes when another connection has committed.
fn data_version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.prepare_cached("pragma data_version")?.query_row([], |row| row.get(0))
}

/// The number of the newest row that the feed ever had.
pub(super) fn newest(connection: &Connection) -> Result<Lsn> {
    let sql = "select seq from main.sqlite_sequence where name = 'cloudsync_feed'";
    let found = connection.prepare_cached(sql).and_then(|mut statement| {
        let end: Option<i64> = statement.query_row([], |row| row.get(0)).optional()?;
        Ok(Lsn::new(end.unwrap_or(0).unsigned_abs()))
    });
    found.map_err(|source| Error::Sqlite { action: "read the end of the feed", source })
}

/// Whether another connection stood in the way for longer than is waited for.
pub(super) fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}
