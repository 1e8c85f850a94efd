//! Objects that were read from the store, kept for others who read the same: clients that catch up together.
//!
//! Invariant: what is kept stays below the budget, whatever is read. Who asks for an object that is being read waits
//! for that read instead of beginning another.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::OnceCell;

use crate::error::{Error, Result};
use crate::metrics::StoreMetrics;
use crate::segment::LogFrame;
use crate::snapshot::part::SplitPart;

/// What is kept for one key.
#[derive(Clone, Debug)]
pub(crate) enum Kept {
    /// A segment.
    Segment(Arc<ReadSegment>),
    /// A snapshot part that everybody gets whole.
    Part(Bytes),
    /// A snapshot part of several audiences.
    SplitPart(Arc<SplitPart>),
}

/// A segment as readers need it.
#[derive(Debug)]
pub(crate) struct ReadSegment {
    pub(crate) transaction_end: bool,
    pub(crate) frames: Vec<LogFrame>,
}

/// A read that is done, or on its way.
type Cell = Arc<OnceCell<Kept>>;

/// Why a read gave nothing to keep.
enum Nothing {
    Missing,
    Failed(Error),
}

/// The objects of all databases by their keys in the store.
#[derive(Debug)]
pub(crate) struct ReadCache {
    bytes_max: usize,
    metrics: StoreMetrics,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    entries: HashMap<String, Entry>,
    /// The keys by when they were last asked for.
    order: BTreeMap<u64, String>,
    bytes: usize,
    clock: u64,
}

#[derive(Debug)]
struct Entry {
    cell: Cell,
    /// Zero while it is being read.
    bytes: usize,
    asked: u64,
}

impl State {
    /// The place of a key, which is the newest from now on.
    fn touch(&mut self, key: &str) -> Cell {
        self.clock = self.clock.wrapping_add(1);
        let asked = self.clock;
        let entry = self.entries.entry(key.to_owned()).or_insert_with(|| Entry {
            cell: Cell::default(),
            bytes: 0,
            asked,
        });
        self.order.remove(&entry.asked);
        entry.asked = asked;
        self.order.insert(asked, key.to_owned());
        Arc::clone(&entry.cell)
    }

    fn remove(&mut self, key: &str) {
        if let Some(entry) = self.entries.remove(key) {
            self.order.remove(&entry.asked);
            self.bytes = self.bytes.saturating_sub(entry.bytes);
        }
    }

    /// Forgets reads whose askers went away, as far as they are the oldest.
    fn forget_abandoned(&mut self) {
        while let Some(key) = self.order.values().next().cloned() {
            let entry = self.entries.get(&key);
            if entry.is_none_or(|entry| entry.bytes > 0 || Arc::strong_count(&entry.cell) > 1) {
                return;
            }
            self.remove(&key);
        }
    }

    /// Counts the bytes of what was read, and lets go of what was asked for longest ago.
    fn keep(&mut self, key: &str, cell: &Cell, bytes: usize, bytes_max: usize) {
        match self.entries.get_mut(key) {
            Some(entry) if Arc::ptr_eq(&entry.cell, cell) && entry.bytes == 0 => entry.bytes = bytes,
            Some(_) | None => return,
        }
        self.bytes = self.bytes.saturating_add(bytes);
        self.forget_abandoned();
        while self.bytes > bytes_max {
            let oldest = self.order.values().find(|key| self.entries.get(*key).is_some_and(|e| e.bytes > 0));
            let Some(oldest) = oldest.cloned() else { return };
            self.remove(&oldest);
        }
    }
}

impl ReadCache {
    pub(crate) fn new(bytes_max: usize, metrics: StoreMetrics) -> ReadCache {
        ReadCache { bytes_max, metrics, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives what is kept for a key, else what `read` gives; None if that finds nothing.
    pub(crate) async fn get(
        &self,
        key: &str,
        read: impl Future<Output = Result<Option<Kept>>>,
    ) -> Result<Option<Kept>> {
        let cell = self.state().touch(key);
        let mut is_read = false;
        let found = cell
            .get_or_try_init(|| {
                is_read = true;
                async { read.await.map_err(Nothing::Failed)?.ok_or(Nothing::Missing) }
            })
            .await
            .cloned();
        let mut state = self.state();
        if is_read {
            match &found {
                Ok(kept) => state.keep(key, &cell, kept.bytes(), self.bytes_max),
                Err(_nothing) => state.remove(key),
            }
        }
        self.metrics.note_read(is_read, state.bytes);
        drop(state);
        match found {
            Ok(kept) => Ok(Some(kept)),
            Err(Nothing::Missing) => Ok(None),
            Err(Nothing::Failed(error)) => Err(error),
        }
    }
}

impl Kept {
    /// What it takes in memory, never zero.
    fn bytes(&self) -> usize {
        let content = match self {
            Kept::Segment(segment) => segment.frames.iter().map(LogFrame::byte_len).sum(),
            Kept::Part(bytes) => bytes.len(),
            Kept::SplitPart(part) => part.byte_len(),
        };
        content.saturating_add(ENTRY_BYTES)
    }
}

/// What an entry takes beside its content.
const ENTRY_BYTES: usize = 512;

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::metrics::Metrics;

    fn cache(entries: usize) -> ReadCache {
        ReadCache::new(entries * (ENTRY_BYTES + 10), Metrics::new().unwrap().store())
    }

    /// Asks for a key; whether it had to be read.
    async fn ask(cache: &ReadCache, key: &str) -> bool {
        let reads = AtomicUsize::new(0);
        let kept = cache.get(key, async {
            reads.fetch_add(1, Ordering::Relaxed);
            Ok(Some(Kept::Part(Bytes::from_static(b"0123456789"))))
        });
        assert!(matches!(kept.await, Ok(Some(Kept::Part(bytes))) if bytes.len() == 10));
        reads.into_inner() == 1
    }

    #[tokio::test]
    async fn what_was_asked_for_last_stays_within_the_budget() {
        let cache = cache(2);
        for (key, is_read) in
            [("a", true), ("b", true), ("a", false), ("c", true), ("a", false), ("b", true), ("c", true)]
        {
            assert_eq!(ask(&cache, key).await, is_read, "{key}");
            let state = cache.state();
            assert!(state.bytes <= cache.bytes_max && state.entries.len() == state.order.len());
        }
        assert_eq!(cache.state().entries.len(), 2);
    }

    #[tokio::test]
    async fn what_does_not_fit_is_read_each_time() {
        let cache = cache(0);
        assert!(ask(&cache, "a").await && ask(&cache, "a").await);
        let state = cache.state();
        assert_eq!((state.bytes, state.entries.len()), (0, 0));
    }

    #[tokio::test]
    async fn nothing_and_failures_are_not_kept() {
        let cache = cache(2);
        assert!(matches!(cache.get("a", async { Ok(None) }).await, Ok(None)));
        let failure = cache.get("a", async { Err(Error::RandomBytes) }).await;
        assert!(matches!(failure, Err(Error::RandomBytes)));
        assert!(ask(&cache, "a").await);
        assert!(!ask(&cache, "a").await);
    }

    #[tokio::test]
    async fn many_who_ask_at_once_cause_one_read() {
        let cache = cache(2);
        let reads = AtomicUsize::new(0);
        let asked = (0..100).map(|_| {
            cache.get("a", async {
                reads.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
                Ok(Some(Kept::Part(Bytes::new())))
            })
        });
        let found = futures_util::future::join_all(asked).await;
        assert!(found.into_iter().all(|found| matches!(found, Ok(Some(_)))));
        assert_eq!(reads.into_inner(), 1);
    }

    #[tokio::test]
    async fn a_read_whose_asker_went_away_leaves_nothing() {
        let cache = cache(2);
        let asked = cache.get("a", std::future::pending());
        assert!(futures_util::FutureExt::now_or_never(asked).is_none());
        assert_eq!(cache.state().entries.len(), 1);
        assert!(ask(&cache, "b").await);
        assert_eq!(cache.state().entries.len(), 1);
        assert!(ask(&cache, "a").await);
    }
}
