//! The inbox: uploads that were taken while Postgres was away, durable in the store until they are applied.
//!
//! Invariant: an entry goes only after Postgres has it, or has what came after it from the same site; what can never
//! be applied is kept elsewhere, and a dead job names it. A site keeps what it sent until it hears from Postgres, so
//! the order of its entries is that of their ranges, and one applied twice is told by its id. Each names the one before
//! it, of which its site has no token yet: Postgres takes none before that.

mod chunks;
mod entry;
mod expire;
mod waiting;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde_json::{Value, json};
use shared_format::payload::{Limits, Payload, decode_frame};
use shared_format::{FormatError, Hlc, SiteId};

use crate::backend::Upload;
use crate::config::InboxKey;
use crate::cursor::Cursor;
use crate::error::{Error, Result};
use crate::hex;
use crate::http::databases::Database;
use crate::jobs::queue::NewJob;
use crate::keys::{InboxName, Keys};
use crate::store::Store;
pub(crate) use chunks::{Chunk, Chunks};
use entry::{Distrust, Entry, Head, SigningKey};

/// Entries that one look lists; those behind are looked at when these are gone.
const ENTRIES_MAX: usize = 10_000;

/// How far the stamps of an upload may be ahead of our clock. Half of what Postgres takes: its clock may be behind
/// ours, and what it would refuse must not be promised.
const CLOCK_AHEAD: Duration = Duration::from_secs(30);

/// The kind of the job that stands for an entry which cannot be applied.
pub(crate) const BURIED: &str = "buried_upload";

/// The lane of everything that applies entries.
pub(crate) const LANE: &str = "inbox";

/// The status of an upload of which a chunk is missing.
pub(crate) const INCOMPLETE: &str = "incomplete";

/// Takes uploads for one database while that is away, and applies them when it is back.
pub(crate) struct Inbox {
    store: Arc<dyn Store>,
    keys: Keys,
    /// The key of the configuration.
    own_key: Option<SigningKey>,
    /// The key of the database, known from the first time on that Postgres was reached.
    key: OnceLock<SigningKey>,
}

/// What became of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fate {
    /// Postgres has it.
    Done,
    /// Postgres has what the site sent after it.
    Overtaken,
    /// It can never be applied, for this reason.
    Buried(String),
}

impl Inbox {
    pub(crate) fn new(store: Arc<dyn Store>, keys: Keys, own_key: Option<&InboxKey>) -> Inbox {
        let own_key = own_key.map(|key| SigningKey::derive(key.as_bytes()));
        Inbox { store, keys, own_key, key: OnceLock::new() }
    }

    /// Learns the key of the database, while that can be asked.
    pub(crate) async fn learn_key(&self, database: &Database) -> Result<()> {
        if self.key.get().is_none()
            && let Some(secret) = database.backend.message_key().await?
        {
            // Whoever was first learned the same.
            let _known = self.key.set(SigningKey::derive(&secret));
        }
        Ok(())
    }

    /// The chunks of an upload before its last. A database that signs nothing has a key of this process, since one node
    /// serves it: what an earlier one signed is sent again.
    pub(crate) async fn chunks(&self, database: &Database, upload: &Upload, count: u32) -> Result<Chunks> {
        if self.key().is_err() && database.backend.queue().is_none() {
            let mut secret = [0; 32];
            getrandom::fill(&mut secret).map_err(|_none| Error::RandomBytes)?;
            // Whoever was first has made one.
            let _known = self.key.set(SigningKey::derive(&secret));
        }
        if self.key().is_err() {
            self.learn_key(database).await?;
        }
        Ok(Chunks {
            store: Arc::clone(&self.store),
            keys: self.keys.clone(),
            key: self.key()?.clone(),
            database: database.name.as_str().to_owned(),
            name: InboxName {
                site: upload.site,
                first: upload.first,
                last: upload.last,
                upload: upload.upload,
            },
            count,
            token: upload.token.map(|bytes| hex::encode(&bytes)),
            role: upload.role.clone(),
            sender: chunks::sender(&upload.claims),
        })
    }

    /// Makes a chunk durable, until the last one comes.
    pub(crate) async fn stage(
        &self,
        database: &Database,
        upload: &Upload,
        chunk: Chunk,
        body: Bytes,
    ) -> Result<Value> {
        let chunks = self.chunks(database, upload, chunk.count).await?;
        let now_ms = since_1970_ms(SystemTime::now());
        chunks.put(chunk.number, now_ms, body).await?;
        Ok(json!({ "status": "staged", "chunk": chunk.number, "server_time_ms": now_ms }))
    }

    fn key(&self) -> Result<&SigningKey> {
        let reason = "postgres was not reached since this node began, and uploads cannot be signed without it: \
                      set inbox_key in the hub's file, or CLOUDSYNC_INBOX_KEY, to the same secret of 32 bytes \
                      or more on every node";
        self.own_key
            .as_ref()
            .or_else(|| self.key.get())
            .ok_or_else(|| Error::Unavailable { reason: reason.to_owned() })
    }

    /// Makes an upload durable that Postgres cannot take now.
    pub(crate) async fn accept(
        &self,
        database: &Database,
        upload: &Upload,
        cursor: Option<Cursor>,
        body: Bytes,
    ) -> Result<Value> {
        let unavailable = |reason: &str| Error::Unavailable { reason: reason.to_owned() };
        let key = self.key()?;
        let now = SystemTime::now();
        if newest_stamp(&upload.payload)? > latest(now) {
            return Err(unavailable(
                "stamps are ahead of the clock, and postgres cannot be asked about them",
            ));
        }
        let Upload { site, upload: id, first, last, .. } = *upload;
        let name = InboxName { site, first, last, upload: id };
        let mut waiting = self.waiting(site).await?;
        waiting.check(&name)?;
        if let Some(chunks) = &upload.before
            && let Some(missing) = chunks.missing().await?
        {
            return Ok(json!({ "status": INCOMPLETE, "missing": missing }));
        }
        let head = Head {
            database: database.name.as_str().to_owned(),
            name: name.to_string(),
            token: upload.token.map(|bytes| hex::encode(&bytes)),
            follows: upload.follows.map(|bytes| hex::encode(&bytes)),
            role: upload.role.clone(),
            claims: upload.claims.clone(),
            cursor: cursor.map(|cursor| cursor.to_string()),
            chunks: upload.before.as_ref().map(Chunks::count),
            accepted_ms: since_1970_ms(now),
        };
        let object = Bytes::from(Entry { head, body }.encode(key));
        waiting.add(name, u64::try_from(object.len()).unwrap_or(u64::MAX));
        // One that is there is the same upload, taken before.
        self.store.put_new(&self.keys.inbox_entry(&name), object).await?;
        let known = &database.metrics.inbox_entries;
        known.set(known.get().max(i64::try_from(waiting.count()).unwrap_or(i64::MAX)));
        database.bell.ring();
        Ok(json!({
            "status": "stored", "server_time_ms": since_1970_ms(now), "rejected": [], "lost": [],
            "takes_next": waiting.has_room(),
        }))
    }

    /// Bytes of everything that waits.
    pub(crate) async fn weigh(&self) -> Result<u64> {
        let mut bytes = 0_u64;
        for folder in [self.keys.inbox(), self.keys.chunks()] {
            let entries = self.store.entries(&folder, None, ENTRIES_MAX).await?;
            bytes = entries.iter().map(|entry| entry.bytes).fold(bytes, u64::saturating_add);
        }
        Ok(bytes)
    }

    async fn names(&self, folder: &str) -> Result<Vec<InboxName>> {
        let root = self.keys.inbox();
        let keys = self.store.list(folder, None, ENTRIES_MAX).await?;
        Ok(keys.iter().filter_map(|key| InboxName::parse(key.strip_prefix(&root)?)).collect())
    }

    /// Applies everything that waits, site by site; what fails for one site does not keep the others.
    pub(crate) async fn apply_all(&self, database: &Database) -> Result<()> {
        let names = self.names(&self.keys.inbox()).await?;
        let mut left = names.len();
        database.metrics.inbox_entries.set(i64::try_from(left).unwrap_or(i64::MAX));
        let mut sites: BTreeMap<SiteId, Vec<InboxName>> = BTreeMap::new();
        for name in names {
            sites.entry(name.site).or_default().push(name);
        }
        let mut outcome = Ok(());
        for names in sites.into_values() {
            match self.apply_in_order(database, names).await {
                Ok(applied) => left = left.saturating_sub(applied),
                Err(error) if error.is_lost_connection() => return Err(error),
                Err(error) => outcome = Err(error),
            }
            database.metrics.inbox_entries.set(i64::try_from(left).unwrap_or(i64::MAX));
        }
        outcome
    }

    /// Applies what waits of one site; tells whether anything did.
    pub(crate) async fn apply_site(&self, database: &Database, site: SiteId) -> Result<bool> {
        let names = self.names(&self.keys.inbox_of(site)).await?;
        Ok(self.apply_in_order(database, names).await? > 0)
    }

    async fn apply_in_order(&self, database: &Database, mut names: Vec<InboxName>) -> Result<usize> {
        names.sort_unstable();
        let count = names.len();
        for name in names {
            let key = self.keys.inbox_entry(&name);
            // Gone means that another node was faster.
            let Some(object) = self.store.get(&key).await? else { continue };
            let fate = self.apply(database, &name, &object).await?;
            tracing::info!(database = database.name.as_str(), site = %name.site, ?fate, "inbox entry applied");
            if let Fate::Buried(reason) = fate {
                self.bury(database, &name, object, reason).await?;
            }
            self.store.delete(&key).await?;
        }
        Ok(count)
    }

    async fn apply(&self, database: &Database, name: &InboxName, object: &Bytes) -> Result<Fate> {
        self.learn_key(database).await?;
        let entry = match self.read(database, name, object)? {
            Ok(entry) => entry,
            Err(distrust) => return Ok(Fate::Buried(distrust.reason().to_owned())),
        };
        if !database.allows_role(entry.head.role.as_deref()) {
            return Ok(Fate::Buried("role is not allowed any more".to_owned()));
        }
        let payload = match read_body(&entry.body) {
            Ok(payload) => payload,
            Err(error) => return Ok(Fate::Buried(error.to_string())),
        };
        database.feed.check_writable()?;
        if self.is_expired(database, name, entry.head.cursor.as_deref()).await? {
            return Ok(Fate::Buried(Error::CursorExpired.to_string()));
        }
        let bytes = |text: &Option<String>| {
            text.as_deref().and_then(|text| u128::from_str_radix(text, 16).ok()).map(u128::to_be_bytes)
        };
        let mut upload = Upload {
            payload: Bytes::from(payload),
            site: name.site,
            upload: name.upload,
            first: name.first,
            last: name.last,
            token: bytes(&entry.head.token),
            follows: bytes(&entry.head.follows),
            rejected_seen: None,
            role: entry.head.role,
            claims: entry.head.claims,
            before: None,
        };
        if let Some(count) = entry.head.chunks {
            upload.before = Some(self.chunks(database, &upload, count).await?);
        }
        let chunks = upload.before.clone();
        let answer = database.backend.reserve().await?.apply(upload).await?;
        let fate = fate(&answer, name)?;
        if let (Some(chunks), Fate::Done | Fate::Overtaken) = (chunks, &fate) {
            chunks.forget().await?;
        }
        Ok(fate)
    }

    /// Reads an entry that was signed with the key of the configuration, or before there was one.
    fn read(
        &self,
        database: &Database,
        name: &InboxName,
        object: &Bytes,
    ) -> Result<std::result::Result<Entry, Distrust>> {
        let decode = |key: &SigningKey| Entry::decode(object, key, database.name.as_str(), &name.to_string());
        let read = decode(self.key()?);
        let with_other = self.key.get().filter(|_| read == Err(Distrust::Signature)).map(decode);
        Ok(with_other.unwrap_or(read))
    }

    /// Whether the site of an entry has to take a snapshot before anything of it is applied.
    async fn is_expired(&self, database: &Database, name: &InboxName, cursor: Option<&str>) -> Result<bool> {
        let Some(cursor) = cursor.and_then(|cursor| cursor.parse::<Cursor>().ok()) else { return Ok(false) };
        match database.horizon.check_upload(database, name.site, &cursor, name.last).await {
            Ok(()) => Ok(false),
            Err(Error::CursorExpired) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Keeps an entry that can never be applied, and lets a dead job name it.
    async fn bury(&self, database: &Database, name: &InboxName, object: Bytes, reason: String) -> Result<()> {
        self.store.put(&self.keys.buried_entry(name), object).await?;
        self.note_dead(database, name, reason).await
    }

    /// Lets a dead job name an entry, and say why.
    async fn note_dead(&self, database: &Database, name: &InboxName, reason: String) -> Result<()> {
        let Some(queue) = database.backend.queue() else { return Ok(()) };
        let job = NewJob {
            kind: BURIED,
            key: name.to_string(),
            lane: LANE,
            arguments: json!({}),
            after: Duration::ZERO,
            every: None,
        };
        queue.bury(job, reason).await
    }

    /// Puts a buried entry back, with those of its site behind it, which could only not follow it: somebody mended what
    /// was in its way.
    pub(crate) async fn unbury(&self, name: &str) -> Result<()> {
        let name = InboxName::parse(name).ok_or_else(|| Error::StoreKey { key: name.to_owned() })?;
        for key in self.store.list(&self.keys.buried_of(name.site), None, ENTRIES_MAX).await? {
            let found = key.strip_prefix(&self.keys.buried()).and_then(InboxName::parse);
            let Some(found) = found.filter(|found| *found == name || found.first > name.last) else {
                continue;
            };
            if let Some(object) = self.store.get(&key).await? {
                self.store.put(&self.keys.inbox_entry(&found), object).await?;
                self.store.delete(&key).await?;
            }
        }
        Ok(())
    }
}

/// What the answer of Postgres means for an entry; an error means that it has to wait.
fn fate(answer: &Value, name: &InboxName) -> Result<Fate> {
    let status = answer.get("status").and_then(Value::as_str).unwrap_or_default();
    let acked = answer.get("acked").and_then(Value::as_i64).unwrap_or(0);
    let detail = || answer.get("detail").and_then(Value::as_str).unwrap_or(status).to_owned();
    match status {
        "applied" | "duplicate" => Ok(Fate::Done),
        // The site sent it itself, and more after it. A copy of its file, which is another replica, still holds what
        // it sent, and is told so.
        "site_conflict" if acked >= name.last => Ok(Fate::Overtaken),
        // What it follows was buried, or is gone. The site that sent both still has them.
        "out_of_order" => {
            Ok(Fate::Buried(format!("begins with {}, the database has up to {acked}", name.first)))
        }
        "site_conflict" | "invalid" | INCOMPLETE => Ok(Fate::Buried(detail())),
        // Time mends it.
        "clock_ahead" => Err(Error::Unavailable { reason: detail() }),
        _ => Err(Error::UploadStatus { found: status.to_owned() }),
    }
}

fn read_body(body: &Bytes) -> std::result::Result<Vec<u8>, FormatError> {
    let (payload, _used) = decode_frame(body, &Limits::UPLOAD)?;
    Payload::parse(&payload)?;
    Ok(payload)
}

/// The greatest clock of any stamp in a payload.
fn newest_stamp(payload: &[u8]) -> Result<Hlc> {
    let mut newest = Hlc::ZERO;
    for changes in Payload::parse(payload)?.changes() {
        let mut rows = changes.rows();
        while let Some(row) = rows.next_row()? {
            newest = row.cells.iter().map(|cell| cell.stamp.hlc).fold(newest.max(row.stamp.hlc), Hlc::max);
        }
    }
    Ok(newest)
}

/// The latest stamp that is sure to be taken later.
fn latest(now: SystemTime) -> Hlc {
    let ms = i64::try_from(since_1970_ms(now + CLOCK_AHEAD)).unwrap_or(i64::MAX);
    Hlc::from_parts(ms, u16::MAX)
}

fn since_1970_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(answer: &Value, wanted: Option<Fate>) {
        let name = InboxName { site: SiteId::from_bytes([1; 16]), first: 4, last: 6, upload: [2; 16] };
        assert_eq!(fate(answer, &name).ok(), wanted, "{answer}");
    }

    #[test]
    fn an_entry_goes_only_when_postgres_has_it() {
        check(&json!({ "status": "applied" }), Some(Fate::Done));
        check(&json!({ "status": "duplicate" }), Some(Fate::Done));
        check(&json!({ "status": "site_conflict", "acked": 6 }), Some(Fate::Overtaken));
        check(
            &json!({ "status": "site_conflict", "acked": 5 }),
            Some(Fate::Buried("site_conflict".to_owned())),
        );
        check(
            &json!({ "status": "out_of_order", "acked": 2 }),
            Some(Fate::Buried("begins with 4, the database has up to 2".to_owned())),
        );
        check(&json!({ "status": "invalid", "detail": "why" }), Some(Fate::Buried("why".to_owned())));
        check(&json!({ "status": "clock_ahead" }), None);
        check(&json!({}), None);
    }

    #[test]
    fn what_is_ahead_of_the_clock_is_not_promised() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000);
        assert_eq!(latest(now).unix_ms(), 1_030_000);
    }
}
