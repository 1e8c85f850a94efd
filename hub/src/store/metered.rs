//! Counts and times the operations of a store.

use std::time::Instant;

use bytes::Bytes;

use super::{Entry, ObjectUrl, PutOutcome, Store, StoreFuture};
use crate::metrics::StoreMetrics;

/// A store whose operations are counted and timed.
pub(super) struct Metered<S> {
    store: S,
    metrics: StoreMetrics,
}

impl<S: Store> Metered<S> {
    /// Counts and times `store`.
    pub(super) fn new(store: S, metrics: StoreMetrics) -> Metered<S> {
        Metered { store, metrics }
    }

    fn measure<'a, T: Send + 'a>(
        &'a self,
        operation: &'static str,
        answer: StoreFuture<'a, T>,
    ) -> StoreFuture<'a, T> {
        Box::pin(async move {
            let start = Instant::now();
            let answer = answer.await;
            self.metrics.observe(operation, start.elapsed(), answer.is_err());
            answer
        })
    }
}

impl<S: Store> Store for Metered<S> {
    fn get<'a>(&'a self, key: &'a str) -> StoreFuture<'a, Option<Bytes>> {
        self.measure("get", self.store.get(key))
    }

    fn put_new<'a>(&'a self, key: &'a str, object: Bytes) -> StoreFuture<'a, PutOutcome> {
        self.measure("put", self.store.put_new(key, object))
    }

    fn put<'a>(&'a self, key: &'a str, object: Bytes) -> StoreFuture<'a, ()> {
        self.measure("put", self.store.put(key, object))
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        start_after: Option<&'a str>,
        limit: usize,
    ) -> StoreFuture<'a, Vec<String>> {
        self.measure("list", self.store.list(prefix, start_after, limit))
    }

    fn entries<'a>(
        &'a self,
        prefix: &'a str,
        start_after: Option<&'a str>,
        limit: usize,
    ) -> StoreFuture<'a, Vec<Entry>> {
        self.measure("list", self.store.entries(prefix, start_after, limit))
    }

    fn delete<'a>(&'a self, key: &'a str) -> StoreFuture<'a, ()> {
        self.measure("delete", self.store.delete(key))
    }

    /// Asks nobody, so that there is nothing to measure.
    fn url_of<'a>(&'a self, key: &'a str) -> StoreFuture<'a, Option<ObjectUrl>> {
        self.store.url_of(key)
    }
}
