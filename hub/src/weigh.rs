//! How much the store holds of a database: looked at once a minute by its leader, for the metrics, and by every node
//! that limits it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::http::databases::Database;
use crate::keys::parse_snapshot_key;
use crate::shutdown::asked;
use crate::store::Entry;

/// Time between two looks: a listing costs a request for each thousand objects.
const INTERVAL: Duration = Duration::from_secs(60);

/// Time between two looks while the store holds too much: uploads wait for it to hold less.
const FULL_INTERVAL: Duration = Duration::from_secs(10);

/// Time between two looks whether this node leads, and whether the epoch is known.
const LEADING_INTERVAL: Duration = Duration::from_secs(5);

/// Objects of one kind, and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weight {
    /// How many there are; a snapshot of many parts is one.
    pub count: u64,
    /// Bytes of all of them.
    pub bytes: u64,
}

/// What the newest epoch holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weights {
    /// Its log.
    pub segments: Weight,
    /// Its snapshots, also those in the making.
    pub snapshots: Weight,
}

impl Weights {
    /// Adds up what listings show; `folder` is that of the snapshots.
    pub(crate) fn of(segments: impl Iterator<Item = u64>, snapshots: &[Entry], folder: &str) -> Weights {
        let mut weights = Weights::default();
        for bytes in segments {
            weights.segments.count = weights.segments.count.saturating_add(1);
            weights.segments.bytes = weights.segments.bytes.saturating_add(bytes);
        }
        let mut ids = BTreeSet::new();
        for entry in snapshots {
            weights.snapshots.bytes = weights.snapshots.bytes.saturating_add(entry.bytes);
            ids.extend(parse_snapshot_key(folder, &entry.key).map(|(id, _whole)| (id.lsn, id.build)));
        }
        weights.snapshots.count = u64::try_from(ids.len()).unwrap_or(u64::MAX);
        weights
    }
}

/// Looks until the database is not served any more. A node that does not lead tells no metric.
pub(crate) async fn run(database: Arc<Database>) {
    let mut ending = database.ending();
    loop {
        let leads = database.feed.status().leader;
        if !leads {
            database.metrics.set_stored(&Weights::default());
        }
        let is_limited = database.limits.config().stored_bytes_max.is_some();
        let weighed = if leads || is_limited { look(&database, leads).await } else { None };
        let pause = match weighed {
            Some(()) if database.limits.is_full() => FULL_INTERVAL,
            Some(()) => INTERVAL,
            None => LEADING_INTERVAL,
        };
        tokio::select! {
            () = asked(&mut ending) => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Looks once; none if nothing can be said.
async fn look(database: &Database, leads: bool) -> Option<()> {
    let uploaded = database.limits.uploaded_bytes();
    let looked = async {
        let Some(weights) = database.feed.weigh().await? else { return Ok(None) };
        Ok::<_, Error>(Some((weights, database.inbox.weigh().await?)))
    };
    match looked.await {
        Ok(Some((weights, inbox_bytes))) => {
            if leads {
                database.metrics.set_stored(&weights);
            }
            let stored = weights.segments.bytes.saturating_add(weights.snapshots.bytes);
            database.limits.note_stored(stored.saturating_add(inbox_bytes), uploaded);
            Some(())
        }
        Ok(None) => None,
        Err(error) => {
            let name = database.name.as_str();
            tracing::debug!(database = name, problem = error.logged(), "store was not weighed");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::cursor::SnapshotId;
    use crate::keys::Keys;
    use crate::position::Lsn;

    #[test]
    fn a_snapshot_of_many_parts_counts_once() {
        let keys = Keys::new("demo");
        let snapshot = |lsn| SnapshotId { lsn: Lsn::new(lsn), build: 7 };
        let entry = |key| Entry { key, bytes: 10, modified: SystemTime::UNIX_EPOCH };
        let listed = [
            entry(keys.snapshot_part(1, snapshot(5), "aa", 0)),
            entry(keys.snapshot_part(1, snapshot(5), "aa", 1)),
            entry(keys.snapshot_manifest(1, snapshot(5), "aa")),
            entry(keys.snapshot_part(1, snapshot(6), "aa", 0)),
        ];
        let weights = Weights::of([3, 4].into_iter(), &listed, &keys.snapshots(1));
        assert_eq!(weights.segments, Weight { count: 2, bytes: 7 });
        assert_eq!(weights.snapshots, Weight { count: 2, bytes: 40 });
    }
}
