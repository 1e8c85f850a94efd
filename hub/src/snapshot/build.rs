//! Writes a snapshot: reads pages from the database and puts them into parts.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use shared_format::payload::{Changes, Payload, PayloadBuilder, encode_frame};
use tokio::sync::watch;
use tokio::time::Instant;

use super::manifest::{Manifest, TablePlaces, TableRows};
use super::{EVERYBODY, Progress, expire};
use crate::audience::Audience;
use crate::backend::{PageWanted, SnapshotRows};
use crate::definitions::{DefinitionKey, Definitions};
use crate::error::Result;
use crate::ingest::split::Splitter;
use crate::keys::Keys;
use crate::store::Store;

/// Bytes of a part after which it is cut: half of what a part may have, since one page may exceed it.
const PART_BYTES: usize = 4 * 1024 * 1024;

/// Bytes that a page should have: one slice of CPU work.
const PAGE_BYTES: usize = 512 * 1024;

/// Bytes of rows for some readers after which a part is cut, before they are compressed.
const PART_BYTES_EXPANDED: usize = 8 * 1024 * 1024;

/// Rows of the first page, and the most that any page has.
const PAGE_ROWS_FIRST: i32 = 100;
const PAGE_ROWS_MAX: i32 = 10_000;

/// Writes one snapshot.
pub(super) struct Writer {
    pub(super) store: Arc<dyn Store>,
    pub(super) keys: Keys,
    pub(super) manifest: Manifest,
    pub(super) progress: watch::Sender<Progress>,
    /// Old snapshots are removed afterwards.
    pub(super) expire: bool,
}

impl Writer {
    /// Writes all parts, then the manifest.
    pub(super) async fn run(mut self, rows: Box<dyn SnapshotRows>) {
        let outcome = self.write(rows).await;
        let Manifest { epoch, snapshot, parts, .. } = self.manifest.clone();
        let ended = match outcome {
            Ok(took) => {
                tracing::info!(%epoch, lsn = %snapshot.lsn, parts, ?took, "snapshot made");
                Ok(took)
            }
            Err(error) => {
                tracing::warn!(%epoch, problem = error.logged(), "snapshot failed");
                Err(format!("snapshot failed: {error}"))
            }
        };
        let made = ended.is_ok();
        self.progress.send_modify(|progress| progress.ended = Some(ended));
        if made && self.expire {
            let expired = expire::run(&self.store, &self.keys, epoch.number(), SystemTime::now()).await;
            if let Err(error) = expired {
                tracing::warn!(%epoch, problem = error.logged(), "old snapshots stay for now");
            }
        }
    }

    async fn write(&mut self, mut rows: Box<dyn SnapshotRows>) -> Result<Duration> {
        let begun = Instant::now();
        let mut part = Gathering::default();
        for table in rows.tables().await? {
            for dead in [false, true] {
                self.write_rows(&mut *rows, table, dead, &mut part).await?;
            }
        }
        if !part.is_empty() {
            self.put_part(part).await?;
        }
        rows.finish().await?;
        let took = begun.elapsed();
        self.manifest.took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let Manifest { epoch, snapshot, .. } = self.manifest;
        let key = self.keys.snapshot_manifest(epoch.number(), snapshot, EVERYBODY);
        self.store.put(&key, Bytes::from(self.manifest.encode())).await?;
        Ok(took)
    }

    /// Writes the live rows of a table, or its tombstones.
    async fn write_rows(
        &mut self,
        source: &mut dyn SnapshotRows,
        table: i32,
        dead: bool,
        part: &mut Gathering,
    ) -> Result<()> {
        let mut after: Option<Vec<u8>> = None;
        let mut rows_max = PAGE_ROWS_FIRST;
        loop {
            let is_first = after.is_none();
            let wanted = PageWanted { table, dead, after, rows_max };
            let Some(page) = source.page(wanted).await? else { return Ok(()) };
            // An empty table is named too, so that clients know it is empty.
            if let Some(payload) = page.payload.filter(|_| page.rows > 0 || (is_first && !dead)) {
                if let Some(full) = part.add(&payload, is_first && !dead)? {
                    self.put_part(full).await?;
                }
                rows_max = next_page_rows(page.rows.max(1), payload.len());
                tokio::task::yield_now().await;
            }
            after = page.next;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    async fn put_part(&mut self, part: Gathering) -> Result<()> {
        let Manifest { epoch, snapshot, parts, .. } = self.manifest;
        let is_split = !part.others.is_empty();
        let (tables, rows) = (part.tables.clone(), part.rows.clone());
        let part = part.finish()?;
        let key = self.keys.snapshot_part(epoch.number(), snapshot, EVERYBODY, parts);
        let length = u64::try_from(part.len()).unwrap_or(u64::MAX);
        self.store.put(&key, part).await?;
        self.manifest.parts = parts.saturating_add(1);
        if is_split {
            self.manifest.split.push(parts);
        }
        Arc::make_mut(&mut self.manifest.tables).push(tables);
        Arc::make_mut(&mut self.manifest.rows).push(rows);
        self.manifest.bytes = self.manifest.bytes.saturating_add(length);
        self.progress.send_modify(|progress| {
            progress.parts = self.manifest.parts;
            progress.split.clone_from(&self.manifest.split);
            progress.tables = Arc::clone(&self.manifest.tables);
            progress.rows = Arc::clone(&self.manifest.rows);
            progress.bytes = self.manifest.bytes;
        });
        Ok(())
    }
}

/// The part that is being gathered.
#[derive(Default)]
struct Gathering {
    /// Where the frames for everybody of each table lie.
    tables: TablePlaces,
    /// How many rows are in those.
    rows: TableRows,
    /// Frames for everybody.
    everybody: BytesMut,
    /// Rows of other audiences, each together.
    others: Splitter,
    /// Bytes of those, before they are compressed.
    others_bytes: usize,
}

impl Gathering {
    fn is_empty(&self) -> bool {
        self.everybody.is_empty() && self.others.is_empty()
    }

    /// Adds a page; gives what was gathered before if both are too much for a part. A table's name is told to
    /// everybody, `is_first`, so that clients know which rows of it they may keep.
    fn add(&mut self, page: &[u8], is_first: bool) -> Result<Option<Gathering>> {
        let payload = Payload::parse(page)?;
        let begun = self.everybody.len();
        let (full, is_for_everybody) = self.add_page(page, &payload, is_first)?;
        let begun = if full.is_some() { 0 } else { begun };
        let mut rows: TableRows = payload.definitions()?.iter().map(|known| (known.table, 0)).collect();
        for changes in payload.changes() {
            let counted = if is_for_everybody { changes.row_count() } else { 0 };
            *rows.entry(changes.table()).or_default() += u64::try_from(counted).unwrap_or(u64::MAX);
        }
        for (table, rows) in rows {
            let counted = self.rows.entry(table).or_default();
            *counted = counted.saturating_add(rows);
            self.tables.entry(table).or_insert((begun, begun)).1 = self.everybody.len();
        }
        Ok(full)
    }

    /// Says also whether the whole page is for everybody.
    fn add_page(
        &mut self,
        page: &[u8],
        payload: &Payload<'_>,
        is_first: bool,
    ) -> Result<(Option<Gathering>, bool)> {
        let mut definitions = Definitions::default();
        for definition in payload.definitions()? {
            definitions.add(definition);
        }
        let readers = |changes: &Changes<'_>| {
            let audience = definitions.get(DefinitionKey::of(changes)).and_then(Audience::of_table);
            (audience.is_some() || changes.scopes().is_some())
                .then(|| audience.unwrap_or_else(Audience::everybody))
        };
        if payload.changes().iter().all(|changes| readers(changes).is_none()) {
            return Ok((self.add_frame(&encode_frame(page)), true));
        }
        let full = (self.others_bytes >= PART_BYTES_EXPANDED).then(|| std::mem::take(self));
        if is_first {
            let mut names = PayloadBuilder::new();
            payload.definitions()?.iter().for_each(|definition| names.definition(definition));
            self.everybody.extend_from_slice(&encode_frame(&names.finish()));
        }
        for changes in payload.changes() {
            let audience = readers(&changes).unwrap_or_else(Audience::everybody);
            self.others.add(&changes, &audience, &definitions)?;
        }
        self.others_bytes = self.others_bytes.saturating_add(page.len());
        Ok((full, false))
    }

    fn add_frame(&mut self, frame: &[u8]) -> Option<Gathering> {
        let too_much = self.everybody.len().saturating_add(frame.len()) > PART_BYTES;
        let full = (!self.is_empty() && too_much).then(|| std::mem::take(self));
        self.everybody.extend_from_slice(frame);
        full
    }

    fn finish(self) -> Result<Bytes> {
        if self.others.is_empty() {
            return Ok(self.everybody.freeze());
        }
        let rows = self.rows.values().sum();
        super::part::join(&self.everybody, rows, &self.others.finish())
    }
}

/// How many rows the next page should have, after one of `rows` rows and `bytes` bytes.
///
/// It grows by four at most, because the next rows may be larger.
fn next_page_rows(rows: i32, bytes: usize) -> i32 {
    let wanted = i64::from(rows).saturating_mul(i64::try_from(PAGE_BYTES).unwrap_or(i64::MAX))
        / i64::try_from(bytes).unwrap_or(i64::MAX).max(1);
    let grown = i64::from(rows).saturating_mul(4);
    let bounded = wanted.min(grown).clamp(1, i64::from(PAGE_ROWS_MAX));
    i32::try_from(bounded).unwrap_or(PAGE_ROWS_MAX)
}

#[cfg(test)]
mod tests {
    use shared_format::payload::{
        ChangesBuilder, ColumnAlgorithm, ColumnDefinition, TableAlgorithm, TableDefinition,
    };
    use shared_format::{ColumnId, Hlc, RowKind, SiteId, Stamp, ValueRef};

    use super::*;

    #[test]
    fn a_page_of_several_tables_is_found_by_each() {
        let definition = |table| TableDefinition {
            table,
            incarnation: 9,
            version: 1,
            name: format!("t{table}"),
            schema: None,
            algorithm: TableAlgorithm::Cls,
            key: vec![ColumnDefinition {
                id: ColumnId::new(1),
                name: "id".to_owned(),
                type_name: "integer".to_owned(),
                algorithm: ColumnAlgorithm::Lww,
                group: None,
            }],
            columns: Vec::new(),
            scoped: false,
            row_security: false,
        };
        let page = |tables: &[u32], rows: &[u32]| {
            let mut page = PayloadBuilder::new();
            tables.iter().for_each(|table| page.definition(&definition(*table)));
            for table in rows {
                let mut changes = ChangesBuilder::new(*table, 9, 1, 1, &[]);
                let stamp = Stamp { hlc: Hlc::from_raw(5), site: SiteId::from_bytes([7; 16]) };
                changes.row(RowKind::Created, stamp, &[ValueRef::Integer(1)], &[]);
                page.push(changes);
            }
            page.finish()
        };
        let mut part = Gathering::default();
        // As a central file gives them: all names first, then rows of one table after another.
        assert!(part.add(&page(&[1, 2, 3], &[]), true).unwrap().is_none());
        let names = part.everybody.len();
        assert!(part.add(&page(&[1, 2], &[1, 2]), false).unwrap().is_none());
        let end = part.everybody.len();
        assert_eq!(part.tables, TablePlaces::from([(1, (0, end)), (2, (0, end)), (3, (0, names))]));
        assert_eq!(part.rows, TableRows::from([(1, 1), (2, 1), (3, 0)]));
    }

    #[test]
    fn pages_have_about_the_same_size_whatever_the_rows_are() {
        for (rows, bytes, wanted) in [
            (100, PAGE_BYTES, 100),
            (100, PAGE_BYTES * 2, 50),
            (100, PAGE_BYTES / 2, 200),
            (100, 1_000, 400),
            (10_000, 1_000, PAGE_ROWS_MAX),
            (1, PAGE_BYTES * 100, 1),
            (1, 0, 4),
        ] {
            assert_eq!(next_page_rows(rows, bytes), wanted, "{rows} {bytes}");
        }
    }
}
