//! Removes what waited in vain: chunks whose last one never came, and uploads that can never be applied.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use super::{ENTRIES_MAX, Inbox};
use crate::error::Result;
use crate::http::databases::Database;
use crate::keys::InboxName;
use crate::store::Entry;

/// How long chunks wait for the last one: a device that is slower sends them again.
const CHUNKS_KEEP: Duration = Duration::from_secs(3 * 86_400);

/// How long an upload that can never be applied is kept for somebody to look at.
const BURIED_KEEP: Duration = Duration::from_secs(90 * 86_400);

impl Inbox {
    /// Removes what is too old. Of an upload that was buried its dead job stays, and says so.
    pub(crate) async fn expire(&self, database: &Database) -> Result<()> {
        let now = SystemTime::now();
        let buried = self.store.entries(&self.keys.buried(), None, ENTRIES_MAX).await?;
        let mut kept: BTreeSet<InboxName> = self.names(&self.keys.inbox()).await?.into_iter().collect();
        for Entry { key, modified, .. } in buried {
            let Some(name) = key.strip_prefix(&self.keys.buried()).and_then(InboxName::parse) else {
                continue;
            };
            if !is_older(modified, BURIED_KEEP, now) {
                kept.insert(name);
                continue;
            }
            tracing::warn!(database = database.name.as_str(), entry = %name, "buried upload expired");
            let days = BURIED_KEEP.as_secs() / 86_400;
            self.note_dead(database, &name, format!("removed: nobody revived it for {days} days")).await?;
            self.store.delete(&key).await?;
        }
        let folder = self.keys.chunks();
        let chunks = self.store.entries(&folder, None, ENTRIES_MAX).await?;
        for key in expired(&folder, &chunks, &kept, now) {
            self.store.delete(key).await?;
        }
        Ok(())
    }
}

/// The chunks that nobody waits for any more; those of uploads that are kept stay with them.
fn expired<'e>(
    folder: &str,
    chunks: &'e [Entry],
    kept: &BTreeSet<InboxName>,
    now: SystemTime,
) -> Vec<&'e str> {
    let upload = |key: &str| InboxName::parse(key.strip_prefix(folder)?.rsplit_once('/')?.0);
    // As long as more come, those before are waited for.
    let young: BTreeSet<InboxName> = chunks
        .iter()
        .filter(|chunk| !is_older(chunk.modified, CHUNKS_KEEP, now))
        .filter_map(|chunk| upload(&chunk.key))
        .collect();
    let is_wanted = |name: &InboxName| kept.contains(name) || young.contains(name);
    let keys = chunks.iter().map(|chunk| chunk.key.as_str());
    keys.filter(|key| upload(key).is_some_and(|name| !is_wanted(&name))).collect()
}

fn is_older(modified: SystemTime, keep: Duration, now: SystemTime) -> bool {
    now.duration_since(modified).is_ok_and(|age| age > keep)
}

#[cfg(test)]
mod tests {
    use shared_format::SiteId;

    use super::*;
    use crate::keys::Keys;

    #[test]
    fn chunks_stay_while_their_upload_may_be_ended_or_is_kept() {
        let keys = Keys::new("demo");
        let name = |first| InboxName { site: SiteId::from_bytes([1; 16]), first, last: 9, upload: [2; 16] };
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(10 * 86_400);
        let chunk = |first, number: u32, days: u64| Entry {
            key: format!("{}{number:06}-000003", keys.chunks_of(&name(first))),
            bytes: 1,
            modified: now - Duration::from_secs(days * 86_400),
        };
        let chunks = [chunk(1, 1, 5), chunk(1, 2, 4), chunk(2, 1, 5), chunk(2, 2, 1), chunk(3, 1, 5)];
        let kept = BTreeSet::from([name(3)]);
        let wanted: Vec<&str> = chunks[..2].iter().map(|chunk| chunk.key.as_str()).collect();
        assert_eq!(expired(&keys.chunks(), &chunks, &kept, now), wanted);
    }
}
