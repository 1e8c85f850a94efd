//! Writes a snapshot: reads pages from the database and puts them into parts.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use shared_format::payload::encode_frame;
use tokio::sync::watch;
use tokio::time::Instant;

use super::manifest::Manifest;
use super::{EVERYBODY, Progress, expire};
use crate::backend::{PageWanted, SnapshotRows};
use crate::error::Result;
use crate::keys::Keys;
use crate::store::Store;

/// Bytes of a part after which it is cut: half of what a part may have, since one page may exceed it.
const PART_BYTES: usize = 4 * 1024 * 1024;

/// Bytes that a page should have: one slice of CPU work.
const PAGE_BYTES: usize = 512 * 1024;

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
        let Manifest { epoch, snapshot, parts, .. } = self.manifest;
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
        let mut part = BytesMut::new();
        for table in rows.tables().await? {
            for dead in [false, true] {
                self.write_rows(&mut *rows, table, dead, &mut part).await?;
            }
        }
        if !part.is_empty() {
            self.put_part(part.freeze()).await?;
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
        part: &mut BytesMut,
    ) -> Result<()> {
        let mut after: Option<Vec<u8>> = None;
        let mut rows_max = PAGE_ROWS_FIRST;
        loop {
            let is_first = after.is_none();
            let wanted = PageWanted { table, dead, after, rows_max };
            let Some(page) = source.page(wanted).await? else { return Ok(()) };
            // An empty table is named too, so that clients know it is empty.
            if let Some(payload) = page.payload.filter(|_| page.rows > 0 || (is_first && !dead)) {
                let frame = encode_frame(&payload);
                if !part.is_empty() && part.len().saturating_add(frame.len()) > PART_BYTES {
                    self.put_part(std::mem::take(part).freeze()).await?;
                }
                part.extend_from_slice(&frame);
                rows_max = next_page_rows(page.rows.max(1), payload.len());
                tokio::task::yield_now().await;
            }
            after = page.next;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    async fn put_part(&mut self, part: Bytes) -> Result<()> {
        let Manifest { epoch, snapshot, parts, .. } = self.manifest;
        let key = self.keys.snapshot_part(epoch.number(), snapshot, EVERYBODY, parts);
        let length = u64::try_from(part.len()).unwrap_or(u64::MAX);
        self.store.put(&key, part).await?;
        self.manifest.parts = parts.saturating_add(1);
        self.manifest.bytes = self.manifest.bytes.saturating_add(length);
        self.progress.send_modify(|progress| {
            progress.parts = self.manifest.parts;
            progress.bytes = self.manifest.bytes;
        });
        Ok(())
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
    use super::*;

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
