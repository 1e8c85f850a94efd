//! What the hub needs of a database: one trait, behind which Postgres stands, or a SQLite file.
//!
//! Everything that differs by the kind of database goes through here: uploads, the numbers of sites, signs of
//! life, the rows of a snapshot, and the feed that ingest puts into the log. Tail, segments, cursors and answers
//! are the same for all kinds.

mod postgres;
mod sqlite;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::Value;
use shared_format::SiteId;

use crate::config::{BackendLocation, DatabaseConfig, SqliteLocation};
use crate::epoch::Epoch;
use crate::error::Result;
use crate::feed::log::Log;
use crate::inbox::Chunks;
use crate::ingest::Ingest;
use crate::jobs::queue::JobQueue;
use crate::position::Lsn;

/// One central database.
pub(crate) trait Backend: Send + Sync {
    /// Waits for a place where one upload can be applied, without touching the database yet.
    fn reserve(&self) -> BoxFuture<'_, Result<Box<dyn UploadPlace>>>;

    /// The number up to which the database has what a site sent; none if it does not know the site.
    fn site_acked(&self, site: SiteId) -> BoxFuture<'_, Result<Option<i64>>>;

    /// Notes that a site has received the log up to a place; says whether tombstones are gone that it may not have
    /// seen.
    fn note_site(&self, site: SiteId, place: Lsn) -> BoxFuture<'_, Result<bool>>;

    /// Drops tombstones that every site has received, as far as one call goes; says whether there is more to do.
    fn collect_tombstones(&self) -> BoxFuture<'_, Result<bool>>;

    /// Notices tables that changed while nobody was told, and makes up for what was written to them since.
    fn catch_up(&self) -> BoxFuture<'_, Result<()>>;

    /// The scopes that a caller with these claims holds.
    fn scopes_of<'a>(&'a self, claims: &'a str) -> BoxFuture<'a, Result<Vec<String>>>;

    /// The key that the database signs with, which nobody else may read; none where it signs nothing.
    fn message_key(&self) -> BoxFuture<'_, Result<Option<Vec<u8>>>>;

    /// The queue of jobs; none where nothing keeps one.
    fn queue(&self) -> Option<Arc<dyn JobQueue>>;

    /// When jobs are due that no queue keeps, by their kinds.
    fn jobs_due(&self) -> BoxFuture<'_, Result<BTreeMap<String, SystemTime>>> {
        async { Ok(BTreeMap::new()) }.boxed()
    }

    /// Keeps when a job is due, where no queue does.
    fn keep_job_due(&self, _kind: &'static str, _at: SystemTime) -> BoxFuture<'_, Result<()>> {
        async { Ok(()) }.boxed()
    }

    /// Asks for a sign of life.
    fn ping(&self) -> BoxFuture<'_, Result<()>>;

    /// Tells operators about the database, as a JSON list; none if a database of this kind has nothing such.
    fn report(&self, report: Report) -> BoxFuture<'_, Result<Option<Value>>>;

    /// Opens a view of the database that stands still, at a place in the log of this epoch.
    fn open_snapshot<'a>(
        &'a self,
        log: &'a Log,
        epoch: &'a Epoch,
    ) -> BoxFuture<'a, Result<Box<dyn SnapshotRows>>>;

    /// Waits for its turn to lead, and puts what is committed into the log, until something ends it: an error,
    /// or in peace the shutdown.
    fn take_turns<'a>(&'a self, ingest: &'a Ingest) -> BoxFuture<'a, Result<()>>;
}

/// What operators ask about a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    /// The sites that have uploaded.
    Devices {
        /// The site to begin behind, as hexadecimal digits; empty for the first.
        after: String,
        /// Most of them.
        items: i64,
    },
    /// Its replication slots.
    Slots,
    /// What it holds, counted.
    Summary,
    /// Its jobs.
    Jobs {
        /// The number to begin behind; empty for the first.
        after: String,
        /// Most of them.
        items: i64,
    },
    /// Rows that it refused.
    Rejected {
        /// The number to begin behind; empty for the first.
        after: String,
        /// Most of them.
        items: i64,
    },
}

/// A place where one upload can be applied; free again when dropped.
pub(crate) trait UploadPlace: Send {
    /// Applies an upload in one transaction, and gives what the database says of it.
    fn apply(self: Box<Self>, upload: Upload) -> BoxFuture<'static, Result<Value>>;
}

/// One upload as the database is told of it.
#[derive(Clone)]
pub(crate) struct Upload {
    /// The payload, checked.
    pub(crate) payload: Bytes,
    /// The site that sent it.
    pub(crate) site: SiteId,
    /// Its random id.
    pub(crate) upload: [u8; 16],
    /// The first number that it speaks for.
    pub(crate) first: i64,
    /// The last number that it speaks for.
    pub(crate) last: i64,
    /// The token of the last acknowledgement.
    pub(crate) token: Option<[u8; 16]>,
    /// The upload before it, if the site was not told the token of that one yet.
    pub(crate) follows: Option<[u8; 16]>,
    /// The greatest rejection that the site has stored.
    pub(crate) rejected_seen: Option<i64>,
    /// The role to act as.
    pub(crate) role: Option<String>,
    /// The claims of the caller: a JSON object.
    pub(crate) claims: String,
    /// The chunks before this one, which are applied together with it.
    pub(crate) before: Option<Chunks>,
}

/// A view of a database that stands still.
pub(crate) trait SnapshotRows: Send {
    /// Everything that committed up to here is shown.
    fn lsn(&self) -> Lsn;

    /// The tracked tables.
    fn tables(&mut self) -> BoxFuture<'_, Result<Vec<i32>>>;

    /// A page of a table in the order of its key, live rows or tombstones; none if there is no such table.
    fn page(&mut self, page: PageWanted) -> BoxFuture<'_, Result<Option<Page>>>;

    /// Ends the view in order.
    fn finish(self: Box<Self>) -> BoxFuture<'static, Result<()>>;
}

/// Which page of a table is asked for.
#[derive(Clone, Debug)]
pub(crate) struct PageWanted {
    /// The table.
    pub(crate) table: i32,
    /// Tombstones instead of live rows.
    pub(crate) dead: bool,
    /// Where the page before ended; none for the first.
    pub(crate) after: Option<Vec<u8>>,
    /// Most rows of the page.
    pub(crate) rows_max: i32,
}

/// Some rows of a table.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    /// The rows as a payload; of an empty table, its definition.
    pub(crate) payload: Option<Vec<u8>>,
    /// How many rows there are.
    pub(crate) rows: i32,
    /// Where the next page begins; none after the last.
    pub(crate) next: Option<Vec<u8>>,
}

/// Makes what speaks to the database of a configuration; it is reached when it is needed.
pub(crate) fn open(database: &DatabaseConfig) -> Result<Arc<dyn Backend>> {
    Ok(match &database.backend {
        BackendLocation::Postgres(url) => Arc::new(postgres::Postgres::new(url)?),
        BackendLocation::Sqlite(location) => Arc::new(sqlite::Sqlite::new(location)),
    })
}

/// Tries what a hub needs of a central file, without beginning with it; says how it stands.
pub(crate) fn check_file(location: &SqliteLocation) -> Result<&'static str> {
    sqlite::check(location)
}

/// How many tables a central file tracks, how many sites have uploaded to it, and how many rows it refused; none while it
/// is no centre.
pub(crate) fn count_file(location: &SqliteLocation) -> Result<Option<[u64; 3]>> {
    sqlite::counts(location)
}

/// Opens a view of a database that stands still, for whoever looks at it beside the hub.
pub(crate) async fn open_beside(location: &BackendLocation, epoch: &Epoch) -> Result<Box<dyn SnapshotRows>> {
    match location {
        BackendLocation::Postgres(url) => postgres::open_beside(url, epoch).await,
        BackendLocation::Sqlite(location) => sqlite::open_beside(location, epoch).await,
    }
}
