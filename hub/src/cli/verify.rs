//! `hub verify`: compares what a client gets of the store, a snapshot and the log behind it, with the rows of the database
//! as a view of it shows them that stands still, table by table and row by row.
//!
//! Only digests of values are held, of one table at a time, so that memory is bounded by the rows of the largest table
//! and by what was written since the snapshot.

mod log;
mod rows;
mod verdict;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use shared_format::RowKind;
use shared_format::payload::{Changes, Limits, Payload, TableDefinition, decode_frame};
use tokio::time::Instant;

use super::findings::Told;
use super::served;
use crate::backend::{self, PageWanted, Report, SnapshotRows};
use crate::config::{BackendLocation, Config, DatabaseConfig};
use crate::epoch::Epoch;
use crate::error::{Error, Result};
use crate::ingest::archive::Archive;
use crate::keys::Keys;
use crate::metrics::Metrics;
use crate::position::Lsn;
use crate::segment::SegmentIndex;
use crate::snapshot::whole::Whole;
use crate::store;
use log::{RowName, Written, each_row};
use rows::{Known, Source};
use verdict::{TableVerdict, Verdict};

/// Longest wait for the store to hold all that the database shows: an idle hub notes its place once a minute.
const LOG_WAIT_MAX: Duration = Duration::from_secs(90);

/// Time between two looks.
const LOG_WAIT_INTERVAL: Duration = Duration::from_millis(500);

/// Rows of a page.
const PAGE_ROWS: i32 = 2_000;

pub(super) async fn run(config: &Config, name: &str) -> Result<Told> {
    let (kept, problems) = served::of_control(config).await;
    let known = config.databases.iter().chain(&kept).find(|database| database.name.as_str() == name);
    let Some(database) = known else {
        let reason = match problems.first() {
            Some(problem) => format!("control database: {problem}"),
            None => {
                let wanted = "a database of the file or of the control database";
                return Err(Error::Argument { found: name.to_owned(), wanted });
            }
        };
        return Err(Error::Unavailable { reason });
    };
    let store = store::open(&config.store, &Metrics::new()?).await?;
    let keys = Keys::new(name);
    let archive = Archive::new(Arc::clone(&store), keys.clone());
    let nothing = |what: &str| Error::Unavailable { reason: what.to_owned() };
    let epoch = archive.newest_epoch().await?;
    let epoch =
        epoch.ok_or_else(|| nothing("the store holds nothing of this database, start a hub first"))?;
    let snapshot = Whole::newest(&store, &keys, epoch.id).await?;
    let missing = "the store holds no finished snapshot to compare, the first client that asks has one made";
    let snapshot = snapshot.ok_or_else(|| nothing(missing))?;
    let mut rows = backend::open_beside(&database.backend, &epoch).await?;
    let index = wait_for_log(&archive, &epoch, database, rows.lsn()).await?;
    let written = Written::read(&archive, &epoch, &index, (snapshot.lsn(), rows.lsn())).await?;
    let mut comparison = Comparison::new(&snapshot, &written);
    comparison.verdict.say(&format!(
        "epoch {}, snapshot of {}, log up to {}",
        epoch.id,
        snapshot.lsn(),
        rows.lsn()
    ));
    for table in rows.tables().await? {
        comparison.read(&mut *rows, table).await?;
    }
    rows.finish().await?;
    comparison.end().await
}

/// Waits until the store holds the log up to a place, and lists it.
async fn wait_for_log(
    archive: &Archive,
    epoch: &Epoch,
    database: &DatabaseConfig,
    up_to: Lsn,
) -> Result<SegmentIndex> {
    let backend = backend::open(database)?;
    let begun = Instant::now();
    loop {
        // Asked first: what was confirmed then is listed now.
        let confirmed = match &database.backend {
            BackendLocation::Postgres(_) => {
                let slot = format!("cloudsync_{}", epoch.server.database_oid);
                confirmed(backend.report(Report::Slots).await?, &slot)?
            }
            // A file has no slot: each of its numbers is in the log.
            BackendLocation::Sqlite(_) => Lsn::ZERO,
        };
        let index = archive.segments(epoch).await?;
        let stored = log::stored_up_to(archive, epoch, &index).await?.max(confirmed);
        if stored >= up_to {
            return Ok(index);
        }
        if begun.elapsed() >= LOG_WAIT_MAX {
            let reason = format!(
                "the store holds the log up to {stored} and the database is at {up_to}, see whether a hub runs"
            );
            return Err(Error::Unavailable { reason });
        }
        tokio::time::sleep(LOG_WAIT_INTERVAL).await;
    }
}

/// Up to where the hub has confirmed that the store holds the log.
fn confirmed(slots: Option<serde_json::Value>, name: &str) -> Result<Lsn> {
    #[derive(Deserialize)]
    struct Slot {
        name: String,
        confirmed_lsn: Option<String>,
    }
    let slots: Vec<Slot> =
        serde_json::from_value(slots.unwrap_or_default()).map_err(|_| Error::ReportAnswer)?;
    let slot = slots.into_iter().find(|slot| slot.name == name);
    slot.and_then(|slot| slot.confirmed_lsn).map_or(Ok(Lsn::ZERO), |lsn| lsn.parse())
}

/// A comparison on its way. The rows of the tables come one table after another.
struct Comparison<'a> {
    snapshot: &'a Whole,
    written: &'a Written,
    verdict: Verdict,
    definitions: BTreeMap<u32, TableDefinition>,
    compared: BTreeSet<u32>,
    open: Option<OpenTable>,
}

/// The table that is being compared.
struct OpenTable {
    table: u32,
    verdict: TableVerdict,
    /// What clients have and the database was not seen to have.
    expected: HashMap<RowName, Known>,
}

impl<'a> Comparison<'a> {
    fn new(snapshot: &'a Whole, written: &'a Written) -> Comparison<'a> {
        Comparison {
            snapshot,
            written,
            verdict: Verdict::default(),
            definitions: BTreeMap::new(),
            compared: BTreeSet::new(),
            open: None,
        }
    }

    /// Reads all pages that come for a table.
    async fn read(&mut self, rows: &mut dyn SnapshotRows, table: i32) -> Result<()> {
        let mut after = None;
        loop {
            let wanted = PageWanted { table, dead: false, after, rows_max: PAGE_ROWS };
            let Some(page) = rows.page(wanted).await? else { return Ok(()) };
            if let Some(payload) = &page.payload {
                self.take(&Payload::parse(payload)?).await?;
            }
            after = page.next;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    async fn take(&mut self, page: &Payload<'_>) -> Result<()> {
        for definition in page.definitions()? {
            self.definitions.insert(definition.table, definition);
        }
        for changes in page.changes() {
            let table = changes.table();
            let is_open = self.open.as_ref().is_some_and(|open| open.table == table);
            if !is_open && self.definitions.contains_key(&table) {
                self.close();
                self.open(table).await?;
            }
            if let Some(open) = &mut self.open {
                open.compare(&changes)?;
            }
        }
        Ok(())
    }

    async fn open(&mut self, table: u32) -> Result<()> {
        if let Some(definition) = self.definitions.get(&table).filter(|_| self.compared.insert(table)) {
            let expected = read_snapshot(self.snapshot, self.written, table).await?;
            self.open = Some(OpenTable { table, verdict: TableVerdict::new(definition.clone()), expected });
        }
        Ok(())
    }

    fn close(&mut self) {
        let Some(OpenTable { table, mut verdict, expected }) = self.open.take() else { return };
        let incarnation = verdict.definition().incarnation;
        for ((of, key), known) in &expected {
            if known.is_live() && *of == incarnation {
                verdict.only_clients(key);
            }
        }
        self.verdict.table(&verdict, self.written.is_reloaded(table));
    }

    /// Compares the tables that have no rows too, and sums up.
    async fn end(mut self) -> Result<Told> {
        self.close();
        for table in self.definitions.keys().copied().collect::<Vec<_>>() {
            self.open(table).await?;
            self.close();
        }
        Ok(self.verdict.end())
    }
}

impl OpenTable {
    fn compare(&mut self, changes: &Changes<'_>) -> Result<()> {
        let OpenTable { verdict, expected, .. } = self;
        each_row(changes, |name, row| {
            // Of a tombstone, and of what is parked, nobody has a row.
            if row.kind() != RowKind::Created {
                return;
            }
            let known = expected.remove(&name);
            let outcome = rows::compare(&row, known.as_ref(), |column| verdict.is_register(column));
            verdict.note(&name.1, outcome);
        })
    }
}

/// The rows of a table as clients have them after the snapshot and the log.
async fn read_snapshot(snapshot: &Whole, written: &Written, table: u32) -> Result<HashMap<RowName, Known>> {
    let mut known: HashMap<RowName, Known> = HashMap::new();
    for part in snapshot.parts_of(table) {
        let mut frames: Bytes = snapshot.frames(part).await?;
        while !frames.is_empty() {
            let (payload, length) = decode_frame(&frames, &Limits::default())?;
            drop(frames.split_to(length));
            for changes in Payload::parse(&payload)?.changes() {
                if changes.table() == table {
                    each_row(&changes, |name, row| {
                        known.entry(name).or_default().take(&row, Source::Snapshot);
                    })?;
                }
            }
            tokio::task::yield_now().await;
        }
    }
    for (name, row, source) in written.of(table) {
        known.entry(name.clone()).or_default().take(row, *source);
    }
    Ok(known)
}
