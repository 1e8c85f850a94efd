//! The chunks of an upload that is larger than one body: each is kept in the store, signed, until the last one comes.
//!
//! Any node may take the next one. A chunk that is missing, or is not believed, is sent again by the site, which keeps
//! all of them until the upload is answered.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;

use super::ENTRIES_MAX;
use super::entry::{Entry, Head, SigningKey};
use crate::error::Result;
use crate::keys::{InboxName, Keys};
use crate::store::Store;

/// Which chunk of an upload a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    /// Its number, from 1.
    pub(crate) number: u32,
    /// How many there are.
    pub(crate) count: u32,
}

impl Chunk {
    /// Most chunks of one upload: what is larger becomes visible in parts.
    pub(crate) const COUNT_MAX: u32 = 256;

    /// Whether the upload is whole with it.
    pub(crate) const fn is_last(self) -> bool {
        self.number == self.count
    }
}

/// The last part of a chunk's name.
impl fmt::Display for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:06}-{:06}", self.number, self.count)
    }
}

/// The chunks of one upload before its last.
#[derive(Clone)]
pub(crate) struct Chunks {
    pub(super) store: Arc<dyn Store>,
    pub(super) keys: Keys,
    pub(super) key: SigningKey,
    pub(super) database: String,
    pub(super) name: InboxName,
    /// How many there are, with the last.
    pub(super) count: u32,
    /// What the last one's sender must have shown with each of them.
    pub(super) token: Option<String>,
    /// The role that each of them must have been sent as.
    pub(super) role: Option<String>,
    /// Who must have sent each of them: of the claims of its token, what stays when that is renewed.
    pub(super) sender: String,
}

/// Who sends, by the claims of a caller.
pub(super) fn sender(claims: &str) -> String {
    let claims: Value = serde_json::from_str(claims).unwrap_or_default();
    let named =
        ["iss", "sub"].into_iter().filter_map(|name| Some((name.to_owned(), claims.get(name)?.clone())));
    Value::Object(named.collect()).to_string()
}

impl Chunks {
    /// How many there are, with the last.
    pub(crate) const fn count(&self) -> u32 {
        self.count
    }

    /// The numbers of those before the last.
    pub(crate) fn numbers(&self) -> std::ops::Range<u32> {
        1..self.count
    }

    fn signed_name(&self, number: u32) -> String {
        format!("{}/{}", self.name, Chunk { number, count: self.count })
    }

    /// The name tells by whom it was sent, so that it need not be read to know that it is there.
    fn place(&self, number: u32) -> String {
        let (name, chunk) = (self.signed_name(number), Chunk { number, count: self.count });
        let (token, role) = (self.token.as_deref(), self.role.as_deref());
        let tag = self.key.tag(&[Some(&self.database), Some(&name), token, role, Some(&self.sender)]);
        format!("{}{chunk}-{tag}", self.keys.chunks_of(&self.name))
    }

    /// Makes one durable.
    pub(super) async fn put(&self, number: u32, accepted_ms: u64, frame: Bytes) -> Result<()> {
        let head = Head {
            database: self.database.clone(),
            name: self.signed_name(number),
            token: self.token.clone(),
            follows: None,
            role: self.role.clone(),
            claims: self.sender.clone(),
            cursor: None,
            chunks: None,
            accepted_ms,
        };
        let object = Bytes::from(Entry { head, body: frame }.encode(&self.key));
        // In place of one that is there: that may be one which is not believed.
        self.store.put(&self.place(number), object).await
    }

    /// The frame of one; none if it is missing or not believed.
    pub(crate) async fn frame(&self, number: u32) -> Result<Option<Bytes>> {
        let Some(object) = self.store.get(&self.place(number)).await? else { return Ok(None) };
        let entry = Entry::decode(&object, &self.key, &self.database, &self.signed_name(number));
        let is_of_this = |entry: &Entry| {
            let Head { token, role, claims, .. } = &entry.head;
            (token, role, claims) == (&self.token, &self.role, &self.sender)
        };
        Ok(entry.ok().filter(is_of_this).map(|entry| entry.body))
    }

    /// The first that is missing. Nothing is read: when they are applied, one that was tampered with is found.
    pub(super) async fn missing(&self) -> Result<Option<u32>> {
        let kept: HashSet<String> = self.kept().await?.into_iter().collect();
        Ok(self.numbers().find(|number| !kept.contains(&self.place(*number))))
    }

    /// Removes them: the upload is applied.
    pub(crate) async fn forget(&self) -> Result<()> {
        for key in self.kept().await? {
            self.store.delete(&key).await?;
        }
        Ok(())
    }

    /// All that is kept of this upload, by whomever it was sent.
    async fn kept(&self) -> Result<Vec<String>> {
        self.store.list(&self.keys.chunks_of(&self.name), None, ENTRIES_MAX).await
    }
}

#[cfg(test)]
mod tests {
    use shared_format::SiteId;

    use super::*;
    use crate::store::directory::DirectoryStore;

    async fn chunks(folder: &tempfile::TempDir) -> Chunks {
        let store: Arc<dyn Store> = Arc::new(DirectoryStore::open(folder.path().to_owned()).await.unwrap());
        let name = InboxName { site: SiteId::from_bytes([1; 16]), first: 4, last: 6, upload: [2; 16] };
        Chunks {
            store,
            keys: Keys::new("demo"),
            key: SigningKey::derive(b"key"),
            database: "demo".to_owned(),
            name,
            count: 3,
            token: None,
            role: Some("app".to_owned()),
            sender: sender(r#"{"sub":"u1","exp":7}"#),
        }
    }

    #[tokio::test]
    async fn a_chunk_is_read_by_who_sent_it_and_at_its_own_place_only() {
        let folder = tempfile::tempdir().unwrap();
        let sound = chunks(&folder).await;
        assert_eq!(sound.missing().await.unwrap(), Some(1));
        sound.put(1, 5, Bytes::from_static(b"one")).await.unwrap();
        assert_eq!(sound.missing().await.unwrap(), Some(2));
        sound.put(2, 5, Bytes::from_static(b"two")).await.unwrap();
        assert_eq!(sound.missing().await.unwrap(), None);
        assert_eq!(sound.frame(2).await.unwrap().unwrap(), "two");

        let others = [
            Chunks { role: Some("dba".to_owned()), ..sound.clone() },
            Chunks { token: Some("00".to_owned()), ..sound.clone() },
            Chunks { sender: sender(r#"{"sub":"u2","exp":7}"#), ..sound.clone() },
            Chunks { sender: sender("{}"), ..sound.clone() },
            Chunks { key: SigningKey::derive(b"other"), ..sound.clone() },
            Chunks { database: "other".to_owned(), ..sound.clone() },
            Chunks { count: 4, ..sound.clone() },
            Chunks { name: InboxName { last: 7, ..sound.name }, ..sound.clone() },
        ];
        for other in others {
            assert_eq!(other.missing().await.unwrap(), Some(1));
        }
        let renewed = Chunks { sender: sender(r#"{"exp":8,"sub":"u1"}"#), ..sound.clone() };
        assert_eq!(renewed.missing().await.unwrap(), None, "a token may be renewed between two chunks");
        // One that lies elsewhere than it was signed for.
        let moved = sound.store.get(&sound.place(1)).await.unwrap().unwrap();
        sound.store.put(&sound.place(2), moved).await.unwrap();
        assert_eq!((sound.missing().await.unwrap(), sound.frame(2).await.unwrap()), (None, None));
        sound.forget().await.unwrap();
        assert_eq!(sound.store.list("", None, 10).await.unwrap(), Vec::<String>::new());
    }
}
