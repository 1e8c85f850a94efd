//! The object store: immutable objects under slash-separated keys, in a directory or in S3.
//!
//! Owns the contract that both kinds keep, and the check that no key names anything outside the store. What
//! the keys mean is left to those who write them. Order and fencing come from Postgres: `put_new` is a second
//! line of defence only, because several S3 servers get conditional writes wrong.

pub mod directory;
mod metered;
pub mod s3;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

use crate::config::StoreLocation;
use crate::error::{Error, Result};
use crate::metrics::Metrics;

/// Longest key, in bytes: the limit of S3.
pub const KEY_BYTES_MAX: usize = 1_024;

/// Longest part of a key between two slashes, in bytes: the limit of most file systems.
pub const KEY_PART_BYTES_MAX: usize = 255;

/// What became of a write that must not replace an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutOutcome {
    /// The object was not there before, and is durable now.
    Created,
    /// An object of this key was there, and was left as it is. After a lost answer it may be our own earlier
    /// try: a caller to whom that matters compares the bytes.
    Exists,
}

/// An object as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its key.
    pub key: String,
    /// How long it is.
    pub bytes: u64,
    /// When it was written, by the clock of the store.
    pub modified: SystemTime,
}

/// An address at which whoever has it can read one object for a while: a secret, which printing does not show.
#[derive(Clone, PartialEq, Eq)]
pub struct ObjectUrl(String);

impl ObjectUrl {
    /// The address, for the one that it is made for.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ObjectUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ObjectUrl(..)")
    }
}

/// The answer of a store, in the making.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// A place that keeps objects by key.
///
/// An answer of `put` or `put_new` means durable, and visible to every reader that asks afterwards.
pub trait Store: Send + Sync {
    /// Reads an object; `None` when there is none of this key.
    fn get<'a>(&'a self, key: &'a str) -> StoreFuture<'a, Option<Bytes>>;

    /// Writes an object unless one of this key exists.
    fn put_new<'a>(&'a self, key: &'a str, object: Bytes) -> StoreFuture<'a, PutOutcome>;

    /// Writes an object, in place of one of this key if there is one; readers see the old or the new whole.
    fn put<'a>(&'a self, key: &'a str, object: Bytes) -> StoreFuture<'a, ()>;

    /// Lists at most `limit` keys that begin with `prefix` and come after `start_after`, in the order of their
    /// bytes.
    fn list<'a>(
        &'a self,
        prefix: &'a str,
        start_after: Option<&'a str>,
        limit: usize,
    ) -> StoreFuture<'a, Vec<String>>;

    /// Lists as `list` does, with what is known of each object.
    fn entries<'a>(
        &'a self,
        prefix: &'a str,
        start_after: Option<&'a str>,
        limit: usize,
    ) -> StoreFuture<'a, Vec<Entry>>;

    /// Removes an object; one that is not there is no error.
    fn delete<'a>(&'a self, key: &'a str) -> StoreFuture<'a, ()>;

    /// An address at which clients can read an object without us, if the store has such and is told to give them
    /// out. Whether the object is there is not asked.
    fn url_of<'a>(&'a self, key: &'a str) -> StoreFuture<'a, Option<ObjectUrl>>;
}

/// Opens the store that the configuration names, counted and timed in `metrics`.
pub async fn open(location: &StoreLocation, metrics: &Metrics) -> Result<Arc<dyn Store>> {
    match location {
        StoreLocation::Directory(path) => {
            let directory = directory::DirectoryStore::open(path.clone()).await?;
            Ok(Arc::new(metered::Metered::new(directory, metrics.store())))
        }
        StoreLocation::S3(location) => {
            let s3 = s3::S3Store::open(location).await;
            Ok(Arc::new(metered::Metered::new(s3, metrics.store())))
        }
    }
}

/// Tries whether the store keeps an object that a conditional write must not replace.
///
/// Several S3 services ignore the condition. Order then rests on Postgres alone, which it does anyhow; the
/// operator should know.
pub async fn keeps_existing(store: &dyn Store) -> Result<bool> {
    let number = getrandom::u64().map_err(|_| Error::RandomBytes)?;
    let key = format!("probe/{number:016x}");
    store.put_new(&key, Bytes::from_static(b"first")).await?;
    let second = store.put_new(&key, Bytes::from_static(b"second")).await?;
    let kept = store.get(&key).await?.is_some_and(|object| object == "first");
    store.delete(&key).await?;
    Ok(second == PutOutcome::Exists && kept)
}

/// Whether a byte may stand in a key.
fn is_key_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'=')
}

/// Refuses a key that could name something outside the store, or that one of the kinds cannot hold.
///
/// No part is empty or begins with a dot, so neither `..` nor a hidden file can be named.
pub(crate) fn check_key(key: &str) -> Result<()> {
    let sound = key.len() <= KEY_BYTES_MAX
        && key.split('/').all(|part| {
            !part.is_empty()
                && part.len() <= KEY_PART_BYTES_MAX
                && !part.starts_with('.')
                && part.bytes().all(is_key_byte)
        });
    if sound { Ok(()) } else { Err(Error::StoreKey { key: key.to_owned() }) }
}

/// Refuses a prefix that no sound key begins with; it may be empty, and may end within a part.
pub(crate) fn check_prefix(prefix: &str) -> Result<()> {
    match prefix.strip_suffix('/') {
        Some(folder) => check_key(folder),
        None if prefix.is_empty() => Ok(()),
        None => check_key(prefix),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_cannot_leave_the_store() {
        let long = "a".repeat(KEY_PART_BYTES_MAX + 1);
        let deep = "a/".repeat(KEY_BYTES_MAX);
        for key in
            ["", "/", "/a", "a/", "a//b", ".", "..", "a/../b", ".tmp/x", "a b", "a\\b", "a\0", "ä", "a?b"]
        {
            assert!(check_key(key).is_err(), "{key:?}");
        }
        assert!(check_key(&long).is_err());
        assert!(check_key(&deep).is_err());
        for key in ["a", "v1/demo/epoch/1", "v1/demo/0/log/00-01-2.seg", "v1/a_b/x=y"] {
            assert!(check_key(key).is_ok(), "{key:?}");
        }
    }

    #[tokio::test]
    async fn a_directory_keeps_what_exists_and_trying_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let store = directory::DirectoryStore::open(root.path().to_owned()).await.unwrap();
        assert!(keeps_existing(&store).await.unwrap());
        assert_eq!(store.list("", None, 10).await.unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_prefix_may_end_within_a_part() {
        for prefix in ["", "v1/", "v1/de", "v1/demo/log/"] {
            assert!(check_prefix(prefix).is_ok(), "{prefix:?}");
        }
        for prefix in ["/", "../", "v1//", "v1/."] {
            assert!(check_prefix(prefix).is_err(), "{prefix:?}");
        }
    }
}
