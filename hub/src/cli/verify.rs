//! `hub verify`: compares what a client gets of the store, a snapshot and the log behind it, with the rows of Postgres
//! under one snapshot there, table by table and row by row.
//!
//! Only digests of values are held, of one table at a time, so that memory is bounded by the rows of the largest table
//! and by what was written since the snapshot.

mod rows;

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use shared_format::payload::{Changes, ColumnAlgorithm, Limits, Payload, TableDefinition, decode_frame};
use shared_format::{ColumnId, encode_key};
use tokio::time::Instant;

use super::findings::Told;
use super::served;
use crate::backend::{self, PageWanted, Report, SnapshotRows};
use crate::config::{BackendLocation, Config, DatabaseConfig};
use crate::epoch::Epoch;
use crate::error::{Error, Result};
use crate::ingest::archive::Archive;
use crate::keys::{Keys, SegmentName};
use crate::metrics::Metrics;
use crate::position::{Lsn, Position};
use crate::segment::{Found, SegmentIndex};
use crate::snapshot::whole::Whole;
use crate::store;
use rows::{Compared, Digested, Known, Source};

/// Longest wait for the store to hold all that the database shows: an idle hub notes its place once a minute.
const LOG_WAIT_MAX: Duration = Duration::from_secs(90);

/// Time between two looks.
const LOG_WAIT_INTERVAL: Duration = Duration::from_millis(500);

/// Rows of a page.
const PAGE_ROWS: i32 = 2_000;

/// Differences of one table that are printed.
const SHOWN_MAX: u64 = 20;

/// What names a row within its table: the incarnation of the table, and the row's key.
type RowName = (u64, Vec<u8>);

/// What the log says behind a snapshot.
#[derive(Default)]
struct Written {
    tables: HashMap<u32, Vec<(RowName, Digested, Source)>>,
    /// Tables that clients take anew from a later snapshot.
    reloaded: BTreeSet<u32>,
}

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
    let BackendLocation::Postgres(url) = &database.backend else {
        let wanted = "a database in Postgres; a central file is compared by nobody but its own hub";
        return Err(Error::Argument { found: name.to_owned(), wanted });
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
    let mut rows = backend::open_beside(url, &epoch).await?;
    let index = wait_for_log(&archive, &epoch, database, rows.lsn()).await?;
    let written = read_log(&archive, &epoch, &index, (snapshot.lsn(), rows.lsn())).await?;
    let mut verdict = Verdict::default();
    verdict.say(&format!("epoch {}, snapshot of {}, log up to {}", epoch.id, snapshot.lsn(), rows.lsn()));
    for table in rows.tables().await? {
        let expected = read_snapshot(&snapshot, &written, table.cast_unsigned()).await?;
        compare_table(&mut *rows, table, expected, &written, &mut verdict).await?;
    }
    rows.finish().await?;
    Ok(verdict.end())
}

/// Waits until the store holds the log up to a place, and lists it.
async fn wait_for_log(
    archive: &Archive,
    epoch: &Epoch,
    database: &DatabaseConfig,
    up_to: Lsn,
) -> Result<SegmentIndex> {
    let backend = backend::open(database)?;
    let slot = format!("cloudsync_{}", epoch.server.database_oid);
    let begun = Instant::now();
    loop {
        // Asked first: what was confirmed then is listed now.
        let confirmed = confirmed(backend.report(Report::Slots).await?, &slot)?;
        let index = archive.segments(epoch).await?;
        let stored = index.last().commit_end.max(archive.idle_up_to(epoch.id.number()).await?);
        let stored = stored.max(confirmed);
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

/// Reads what the log says between two places.
async fn read_log(
    archive: &Archive,
    epoch: &Epoch,
    index: &SegmentIndex,
    (from, up_to): (Lsn, Lsn),
) -> Result<Written> {
    let mut written = Written::default();
    let mut place = Position::after(from);
    while let Some(name) = next_segment(index, place)? {
        let segment = archive.segment(epoch.id.number(), name).await?;
        let segment = segment.ok_or(Error::LogGap { after: name.previous })?;
        // A frame may end behind the place and have begun before it.
        let mut before = name.previous.commit_end;
        for (last, frame) in segment.row_frames()? {
            let source = if last.commit_end <= up_to { Source::Log } else { Source::Passing };
            if last.commit_end > from && (source == Source::Log || before < up_to) {
                written.add(&frame, source)?;
            }
            before = last.commit_end.min(up_to).max(before);
        }
        place = name.last;
        if place.commit_end > up_to {
            break;
        }
    }
    Ok(written)
}

fn next_segment(index: &SegmentIndex, place: Position) -> Result<Option<SegmentName>> {
    match index.find(place) {
        Found::Segment(name) => Ok(Some(name)),
        Found::Nothing => Ok(None),
        Found::Behind | Found::Gap => Err(Error::LogGap { after: place }),
    }
}

impl Written {
    fn add(&mut self, frame: &[u8], source: Source) -> Result<()> {
        let (payload, _length) = decode_frame(frame, &Limits::default())?;
        let payload = Payload::parse(&payload)?;
        self.reloaded.extend(payload.reloads().iter().map(|reload| reload.table));
        for changes in payload.changes() {
            let rows = self.tables.entry(changes.table()).or_default();
            each_row(&changes, |name, row| rows.push((name, row, source)))?;
        }
        Ok(())
    }
}

/// Gives each row of some changes.
fn each_row(changes: &Changes<'_>, mut give: impl FnMut(RowName, Digested)) -> Result<()> {
    let columns = changes.columns();
    let mut rows = changes.rows();
    while let Some(row) = rows.next_row()? {
        give((changes.incarnation(), encode_key(row.key.iter().copied())), Digested::of(row, &columns));
    }
    Ok(())
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
    for (name, row, source) in written.tables.get(&table).into_iter().flatten() {
        known.entry(name.clone()).or_default().take(row, *source);
    }
    Ok(known)
}

/// Compares the live rows of a table.
async fn compare_table(
    rows: &mut dyn SnapshotRows,
    table: i32,
    mut expected: HashMap<RowName, Known>,
    written: &Written,
    verdict: &mut Verdict,
) -> Result<()> {
    let mut compared = TableVerdict::default();
    let mut after = None;
    loop {
        let wanted = PageWanted { table, dead: false, after, rows_max: PAGE_ROWS };
        let Some(page) = rows.page(wanted).await? else { return Ok(()) };
        if let Some(payload) = &page.payload {
            let payload = Payload::parse(payload)?;
            for definition in payload.definitions()? {
                if definition.table == table.cast_unsigned() {
                    compared.definition = Some(definition);
                }
            }
            for changes in payload.changes() {
                each_row(&changes, |name, row| {
                    let known = expected.remove(&name);
                    let is_register = |column| compared.is_register(column);
                    let outcome = rows::compare(&row, known.as_ref(), is_register);
                    compared.note(&name.1, outcome);
                })?;
            }
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let incarnation = compared.definition.as_ref().map(|definition| definition.incarnation);
    for ((of, key), known) in &expected {
        if known.is_live() && incarnation.is_none_or(|incarnation| incarnation == *of) {
            compared.only_clients(key);
        }
    }
    verdict.table(&compared, table, written.reloaded.contains(&table.cast_unsigned()));
    Ok(())
}

/// What was found in one table.
#[derive(Default)]
struct TableVerdict {
    definition: Option<TableDefinition>,
    same: u64,
    passing: u64,
    differences: u64,
    shown: String,
}

impl TableVerdict {
    /// Whether the log holds shares of a whole in place of the values of a column.
    fn is_register(&self, column: ColumnId) -> bool {
        let known = self.definition.iter().flat_map(|definition| &definition.columns);
        known.into_iter().any(|known| known.id == column && known.algorithm != ColumnAlgorithm::Lww)
    }

    fn column_name(&self, column: ColumnId) -> String {
        let mut known = self.definition.iter().flat_map(|definition| &definition.columns);
        known
            .find(|known| known.id == column)
            .map_or_else(|| format!("{column:?}"), |known| known.name.clone())
    }

    fn note(&mut self, key: &[u8], outcome: Compared) {
        match outcome {
            Compared::Same => self.same = self.same.saturating_add(1),
            Compared::Passing => self.passing = self.passing.saturating_add(1),
            Compared::OnlyInDatabase => self.show("only in the database", key),
            Compared::Differs(columns) => {
                let names: Vec<String> = columns.iter().map(|column| self.column_name(*column)).collect();
                self.show(&format!("differs in {}", names.join(", ")), key);
            }
        }
    }

    fn only_clients(&mut self, key: &[u8]) {
        self.show("only with clients", key);
    }

    fn show(&mut self, what: &str, key: &[u8]) {
        self.differences = self.differences.saturating_add(1);
        if self.differences <= SHOWN_MAX {
            // Writing to a text cannot fail.
            let _written = writeln!(self.shown, "  {what}: {}", rows::tell_key(key));
        }
    }
}

/// What was found in all tables.
#[derive(Default)]
struct Verdict {
    text: String,
    differences: u64,
}

impl Verdict {
    fn say(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    fn table(&mut self, found: &TableVerdict, table: i32, is_reloaded: bool) {
        let name = found.definition.as_ref().map_or_else(
            || format!("number {table}"),
            |definition| match &definition.schema {
                Some(schema) => format!("{schema}.{}", definition.name),
                None => definition.name.clone(),
            },
        );
        let TableVerdict { same, passing, differences, shown, .. } = found;
        if is_reloaded {
            self.say(&format!(
                "table {name}: clients take it anew from the next snapshot, it was not compared"
            ));
            return;
        }
        self.say(&format!("table {name}: {same} rows are the same, {differences} differ"));
        self.text.push_str(shown);
        if *differences > SHOWN_MAX {
            self.say(&format!("  and {} more", differences.saturating_sub(SHOWN_MAX)));
        }
        if *passing > 0 {
            self.say(&format!("  {passing} are being written and were not compared"));
        }
        self.differences = self.differences.saturating_add(*differences);
    }

    fn end(mut self) -> Told {
        let is_good = self.differences == 0;
        if is_good {
            self.say("no differences");
        } else {
            let differences = self.differences;
            self.say(&format!("{differences} differences: somebody wrote past the triggers of capture"));
            self.say(
                "  to mend it: write those rows once more by plain SQL, each with another value; one that is only in the \
                 database: delete and insert it; one that is only with clients: insert and delete it",
            );
        }
        Told { text: self.text, is_good }
    }
}
