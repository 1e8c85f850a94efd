//! The object store in a local directory, for one machine.
//!
//! An object is written to a temporary file, synced, and then linked or renamed to its place, so that a
//! reader never sees half of one; the folder is synced before the answer. Linking is the create-if-absent:
//! of any number of processes exactly one creates.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::{Entry, ObjectUrl, PutOutcome, Store, StoreFuture, check_key, check_prefix};
use crate::error::{Error, Result};

/// The folder of unfinished files; a key cannot begin with a dot, so it is no object's.
const UNFINISHED: &str = ".unfinished";

/// Age from which an unfinished file is nobody's: no write takes as long.
const UNFINISHED_MAX: Duration = Duration::from_secs(3_600);

/// An object store in a local directory.
#[derive(Clone, Debug)]
pub struct DirectoryStore {
    root: Arc<PathBuf>,
}

impl DirectoryStore {
    /// Opens the directory, making it if it is not there, and clears what a killed process left behind.
    pub async fn open(root: PathBuf) -> Result<DirectoryStore> {
        let store = DirectoryStore { root: Arc::new(root) };
        let opened = store.clone();
        blocking(move || opened.prepare()).await?;
        Ok(store)
    }

    fn prepare(&self) -> Result<()> {
        let unfinished = self.root.join(UNFINISHED);
        make_folder(&unfinished)?;
        let failed = |source| Error::StoreDirectory { operation: "read", path: unfinished.clone(), source };
        for entry in fs::read_dir(&unfinished).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let age = entry
                .metadata()
                .and_then(|file| file.modified())
                .map(|time| SystemTime::now().duration_since(time).unwrap_or_default());
            if age.is_ok_and(|age| age > UNFINISHED_MAX) {
                // Another process may clear the same leftovers: whoever is second finds nothing.
                let _already_gone = fs::remove_file(entry.path());
            }
        }
        Ok(())
    }

    fn read(&self, key: &str) -> Result<Option<Bytes>> {
        check_key(key)?;
        let path = self.root.join(key);
        match fs::read(&path) {
            Ok(object) => Ok(Some(Bytes::from(object))),
            Err(error) if is_absent(&error) => Ok(None),
            Err(source) => Err(Error::StoreDirectory { operation: "read", path, source }),
        }
    }

    /// Writes an object to a file of its own that has no key yet.
    fn write_unfinished(&self, object: &[u8]) -> Result<Unfinished> {
        let mut name = [0_u8; 16];
        getrandom::fill(&mut name).map_err(|_| Error::RandomBytes)?;
        let name = format!("{:032x}", u128::from_be_bytes(name));
        let path = self.root.join(UNFINISHED).join(name);
        let unfinished = Unfinished(path.clone());
        let written = File::create_new(&path).and_then(|mut file| {
            file.write_all(object)?;
            file.sync_all()
        });
        match written {
            Ok(()) => Ok(unfinished),
            Err(source) => Err(Error::StoreDirectory { operation: "write", path, source }),
        }
    }

    /// The place of a key, with its folder made.
    fn place(&self, key: &str) -> Result<(PathBuf, PathBuf)> {
        check_key(key)?;
        let path = self.root.join(key);
        let folder = path.parent().map_or_else(|| self.root.to_path_buf(), Path::to_path_buf);
        make_folder(&folder)?;
        Ok((path, folder))
    }

    fn create(&self, key: &str, object: &[u8]) -> Result<PutOutcome> {
        let (path, folder) = self.place(key)?;
        let unfinished = self.write_unfinished(object)?;
        match fs::hard_link(&unfinished.0, &path) {
            Ok(()) => {
                sync_folder(&folder)?;
                Ok(PutOutcome::Created)
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                // Whoever created it may not have synced yet, and this answer means durable too.
                sync_folder(&folder)?;
                Ok(PutOutcome::Exists)
            }
            Err(source) => Err(Error::StoreDirectory { operation: "write", path, source }),
        }
    }

    fn replace(&self, key: &str, object: &[u8]) -> Result<()> {
        let (path, folder) = self.place(key)?;
        let unfinished = self.write_unfinished(object)?;
        match fs::rename(&unfinished.0, &path) {
            Ok(()) => sync_folder(&folder),
            Err(source) => Err(Error::StoreDirectory { operation: "write", path, source }),
        }
    }

    fn remove(&self, key: &str) -> Result<()> {
        check_key(key)?;
        let path = self.root.join(key);
        match fs::remove_file(&path) {
            Ok(()) => Ok(()),
            Err(error) if is_absent(&error) => Ok(()),
            Err(source) => Err(Error::StoreDirectory { operation: "delete", path, source }),
        }
    }

    fn find(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Vec<String>> {
        check_prefix(prefix)?;
        let folder = prefix.rsplit_once('/').map_or("", |(folder, _)| folder);
        let mut found = Vec::new();
        let search = Search { root: &self.root, prefix, start_after: start_after.unwrap_or(""), limit };
        search.walk(folder, &mut found)?;
        Ok(found)
    }

    fn describe(&self, keys: Vec<String>) -> Result<Vec<Entry>> {
        let mut entries = Vec::with_capacity(keys.len());
        for key in keys {
            let path = self.root.join(&key);
            match fs::metadata(&path).and_then(|file| Ok((file.len(), file.modified()?))) {
                Ok((bytes, modified)) => entries.push(Entry { key, bytes, modified }),
                // Removed since it was listed.
                Err(error) if is_absent(&error) => {}
                Err(source) => return Err(Error::StoreDirectory { operation: "list", path, source }),
            }
        }
        Ok(entries)
    }
}

/// A file that has no key yet; removed when dropped, unless it was renamed to its place.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        // After a rename it is gone; a leftover is cleared when the store is next opened.
        let _already_gone = fs::remove_file(&self.0);
    }
}

/// A listing in the making.
struct Search<'a> {
    root: &'a Path,
    prefix: &'a str,
    start_after: &'a str,
    limit: usize,
}

impl Search<'_> {
    /// Whether keys that begin with this path of a folder, slash included, can be wanted.
    fn wants_folder(&self, folder: &str) -> bool {
        let of_prefix = folder.starts_with(self.prefix) || self.prefix.starts_with(folder);
        let after = self.start_after < folder || self.start_after.starts_with(folder);
        of_prefix && after
    }

    /// Adds the wanted keys below one folder in the order of their bytes.
    fn walk(&self, folder: &str, found: &mut Vec<String>) -> Result<()> {
        let path = self.root.join(folder);
        let failed = |source| Error::StoreDirectory { operation: "list", path: path.clone(), source };
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if is_absent(&error) => return Ok(()),
            Err(source) => return Err(failed(source)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let mut key = if folder.is_empty() { name } else { format!("{folder}/{name}") };
            if check_key(&key).is_err() {
                continue;
            }
            // With its slash a folder sorts where its keys do.
            if entry.file_type().map_err(failed)?.is_dir() {
                key.push('/');
            }
            names.push(key);
        }
        names.sort_unstable();
        for key in names {
            if found.len() >= self.limit {
                return Ok(());
            }
            match key.strip_suffix('/') {
                Some(folder) if self.wants_folder(&key) => self.walk(folder, found)?,
                Some(_) => {}
                None if key.starts_with(self.prefix) && key.as_str() > self.start_after => found.push(key),
                None => {}
            }
        }
        Ok(())
    }
}

/// Whether an error says that there is no such object; a key below another key's file is none.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::IsADirectory)
}

/// Makes a folder with those above it, each durable before what is put into it.
fn make_folder(folder: &Path) -> Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(above) = folder.parent() {
        make_folder(above)?;
    }
    match fs::create_dir(folder) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists && folder.is_dir() => {}
        Err(source) => {
            return Err(Error::StoreDirectory { operation: "make folder", path: folder.to_owned(), source });
        }
    }
    folder.parent().map_or(Ok(()), sync_folder)
}

fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|opened| opened.sync_all()).map_err(|source| Error::StoreDirectory {
        operation: "sync",
        path: folder.to_owned(),
        source,
    })
}

/// Runs file work away from the threads that serve sockets.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::TaskEnded { task: "store" })?
}

impl Store for DirectoryStore {
    fn get<'a>(&'a self, key: &'a str) -> StoreFuture<'a, Option<Bytes>> {
        let (store, key) = (self.clone(), key.to_owned());
        Box::pin(blocking(move || store.read(&key)))
    }

    fn put_new<'a>(&'a self, key: &'a str, object: Bytes) -> StoreFuture<'a, PutOutcome> {
        let (store, key) = (self.clone(), key.to_owned());
        Box::pin(blocking(move || store.create(&key, &object)))
    }

    fn put<'a>(&'a self, key: &'a str, object: Bytes) -> StoreFuture<'a, ()> {
        let (store, key) = (self.clone(), key.to_owned());
        Box::pin(blocking(move || store.replace(&key, &object)))
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        start_after: Option<&'a str>,
        limit: usize,
    ) -> StoreFuture<'a, Vec<String>> {
        let store = self.clone();
        let (prefix, start_after) = (prefix.to_owned(), start_after.map(str::to_owned));
        Box::pin(blocking(move || store.find(&prefix, start_after.as_deref(), limit)))
    }

    fn entries<'a>(
        &'a self,
        prefix: &'a str,
        start_after: Option<&'a str>,
        limit: usize,
    ) -> StoreFuture<'a, Vec<Entry>> {
        let store = self.clone();
        let (prefix, start_after) = (prefix.to_owned(), start_after.map(str::to_owned));
        Box::pin(blocking(move || store.describe(store.find(&prefix, start_after.as_deref(), limit)?)))
    }

    fn delete<'a>(&'a self, key: &'a str) -> StoreFuture<'a, ()> {
        let (store, key) = (self.clone(), key.to_owned());
        Box::pin(blocking(move || store.remove(&key)))
    }

    fn url_of<'a>(&'a self, _key: &'a str) -> StoreFuture<'a, Option<ObjectUrl>> {
        Box::pin(std::future::ready(Ok(None)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unfinished(root: &Path) -> usize {
        fs::read_dir(root.join(UNFINISHED)).unwrap().count()
    }

    #[tokio::test]
    async fn what_a_killed_process_left_behind_is_cleared_and_what_another_writes_is_not() {
        let root = tempfile::tempdir().unwrap();
        DirectoryStore::open(root.path().to_owned()).await.unwrap();
        let folder = root.path().join(UNFINISHED);
        fs::write(folder.join("young"), "half").unwrap();
        let old = File::create(folder.join("old")).unwrap();
        old.set_modified(SystemTime::now() - UNFINISHED_MAX - Duration::from_secs(1)).unwrap();
        let store = DirectoryStore::open(root.path().to_owned()).await.unwrap();
        assert!(folder.join("young").exists() && !folder.join("old").exists());
        assert_eq!(store.list("", None, 10).await.unwrap(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn a_write_leaves_nothing_but_the_object() {
        let root = tempfile::tempdir().unwrap();
        let store = DirectoryStore::open(root.path().join("made/with/it")).await.unwrap();
        store.put_new("a/b", "1".into()).await.unwrap();
        store.put_new("a/b", "2".into()).await.unwrap();
        store.put("a/b", "3".into()).await.unwrap();
        assert_eq!(unfinished(&root.path().join("made/with/it")), 0);
        // A key below the file of another is one that a directory cannot hold, and never half of one.
        assert!(store.put("a/b/c", "4".into()).await.is_err());
        assert_eq!(store.get("a/b/c").await.unwrap(), None);
        assert_eq!(store.list("", None, 10).await.unwrap(), ["a/b"]);
    }
}
