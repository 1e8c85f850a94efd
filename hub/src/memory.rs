//! What the hub may hold of logs in memory: one budget for all databases together, and one for what is read from
//! the store.
//!
//! Invariant: what the leaders of this node hold of their logs stays below the budget, but for a frame each. A leader
//! over its share stops reading from Postgres, which keeps the rest in its WAL.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::config::MemoryConfig;
use crate::feed::cache::ReadCache;
use crate::metrics::StoreMetrics;

/// The budgets of one hub.
#[derive(Debug)]
pub(crate) struct Memory {
    log_bytes_max: usize,
    databases: AtomicUsize,
    /// What was read from the store.
    pub(crate) cache: ReadCache,
}

impl Memory {
    pub(crate) fn new(config: &MemoryConfig, metrics: StoreMetrics) -> Arc<Memory> {
        Arc::new(Memory {
            log_bytes_max: config.log_bytes_max,
            databases: AtomicUsize::new(0),
            cache: ReadCache::new(config.read_cache_bytes_max, metrics),
        })
    }

    /// The share of one more database, for as long as it is held.
    pub(crate) fn share(self: &Arc<Memory>) -> Share {
        self.databases.fetch_add(1, Ordering::AcqRel);
        Share(Arc::clone(self))
    }
}

/// The share of one database in the budget for logs.
#[derive(Debug)]
pub(crate) struct Share(Arc<Memory>);

impl Share {
    /// Bytes of its log that a database may have in memory now; it changes with the number of databases.
    pub(crate) fn bytes_max(&self) -> usize {
        self.0.log_bytes_max / self.0.databases.load(Ordering::Acquire).max(1)
    }

    /// Bytes of it that may wait for the store before the leader stops reading. The rest is for clients that are not
    /// far behind: they are served without the store.
    pub(crate) fn waiting_bytes_max(&self) -> usize {
        self.bytes_max() / 2
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.0.databases.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The budgets of tests that are not about them.
#[cfg(test)]
pub(crate) fn plenty() -> Arc<Memory> {
    let metrics = crate::metrics::Metrics::new().expect("metrics can be made");
    Memory::new(&MemoryConfig::default(), metrics.store())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn databases_share_one_budget() {
        let config = MemoryConfig { log_bytes_max: 1_200, read_cache_bytes_max: 0 };
        let memory = Memory::new(&config, Metrics::new().unwrap().store());
        let first = memory.share();
        assert_eq!((first.bytes_max(), first.waiting_bytes_max()), (1_200, 600));
        let others = [memory.share(), memory.share()];
        assert_eq!((first.bytes_max(), others[1].waiting_bytes_max()), (400, 200));
        drop(others);
        assert_eq!(first.bytes_max(), 1_200);
    }
}
