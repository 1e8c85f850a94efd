//! Whether the central file and the store still belong together, and what follows when they do not.
//!
//! A file whose feed is behind the store was set back to an older copy: what the store has beyond it is merged into it
//! again, and a new epoch begins. A file that was set back on purpose, or put in the place of another one, is taken as
//! it is, in a new epoch.

use std::sync::Arc;

use rusqlite::Connection;

use super::file::{Begun, File, in_transaction, pass_on};
use crate::definitions::Definitions;
use crate::epoch::{Epoch, EpochId, EpochReason, ServerIdentity};
use crate::error::{Error, Result};
use crate::ground::Cause;
use crate::ingest::{Ingest, random_tag};
use crate::lineage::Lineage;
use crate::position::{Lsn, Position};
use crate::segment::{Found, SegmentIndex};

/// Where the log goes on.
pub(super) struct Ground {
    pub(super) epoch: Epoch,
    pub(super) index: SegmentIndex,
    /// The store ends within a transaction.
    pub(super) within: bool,
    pub(super) definitions: Definitions,
}

/// Compares file and store.
pub(super) async fn find_ground(ingest: &Ingest, file: &Arc<File>, begun: &Begun) -> Result<Ground> {
    let server = server_of(&begun.name);
    let is = (server.clone(), begun.restored.as_str());
    let Some(epoch) = ingest.archive.newest_epoch().await? else {
        return open_epoch(ingest, file, (None, EpochReason::First), is, begun.end).await;
    };
    if ingest.is_restored(&epoch, &begun.restored).await? {
        return begin_anew(ingest, file, (&epoch, Cause::Restored), is, begun.end).await;
    }
    epoch.check_server(&server)?;
    let index = ingest.archive.segments(&epoch).await?;
    let end = index.last();
    let place = if end.message == Lsn::MAX { end.commit_end } else { end.message };
    let noted = ingest.archive.server_start(epoch.id).await?;
    let is_older = noted.and_then(|noted| noted.parse().ok()).is_some_and(|noted: u64| noted >= begun.fence);
    // What the file had itself counts: whatever was written to a copy since gets numbers that the store may hold too.
    if is_older || place > begun.stood || !has_all_behind(file, begun, place).await? {
        merge_again(ingest, file, begun, (&epoch, &index)).await?;
        let end = file.call(|connection| {
            let sql = "select cloudsync_central_lost()";
            in_transaction(connection, "note a restore", |connection| {
                connection.query_row(sql, [], |_row| Ok(()))
            })?;
            pass_on(connection)
        });
        return begin_anew(ingest, file, (&epoch, Cause::RanBack), is, end.await?).await;
    }
    if begun.reload > epoch.start {
        let from = (Some(epoch.id), EpochReason::Reload);
        return open_epoch(ingest, file, from, is, begun.end).await;
    }
    let mut definitions = Definitions::default();
    definitions.add_payload(&epoch.definitions)?;
    let mut within = false;
    if let Some(name) = index.newest()
        && let Some(segment) = ingest.archive.segment(epoch.id.number(), *name).await?
    {
        definitions.add_payload(&segment.definitions)?;
        within = !segment.transaction_end;
    }
    Ok(Ground { epoch, index, within, definitions })
}

/// What an epoch calls a file of this name.
pub(super) fn server_of(name: &str) -> ServerIdentity {
    ServerIdentity { system: format!("sqlite-{name}"), lineage: Lineage::first(1), database_oid: 0 }
}

/// Whether the feed still has every row behind a number.
async fn has_all_behind(file: &File, begun: &Begun, place: Lsn) -> Result<bool> {
    let (after, end) = (place.raw(), begun.end.raw());
    let number = i64::try_from(after).unwrap_or(i64::MAX);
    let counted = file.call(move |connection| {
        let sql = "select count(*) from main.cloudsync_feed where seq > ?1";
        let count = connection.query_row(sql, [number], |row| row.get::<_, i64>(0));
        count.map_err(|source| Error::Sqlite { action: "count the feed", source })
    });
    Ok(counted.await?.unsigned_abs() == end.saturating_sub(after))
}

/// Merges into the file what the store has beyond it.
async fn merge_again(
    ingest: &Ingest,
    file: &File,
    begun: &Begun,
    (epoch, index): (&Epoch, &SegmentIndex),
) -> Result<()> {
    let database = ingest.database.as_str();
    tracing::warn!(database, epoch = %epoch.id, "the central file was set back: stored changes are merged into it");
    // What has expired was read from a snapshot by whoever needed it.
    let mut place = Position::after(begun.stood).max(epoch.start_position()).max(index.oldest());
    loop {
        let name = match index.find(place) {
            Found::Segment(name) => name,
            Found::Nothing => return Ok(()),
            Found::Behind | Found::Gap => return Err(Error::LogGap { after: place }),
        };
        let segment = ingest.archive.segment(epoch.id.number(), name).await?;
        let segment = segment.ok_or(Error::LogGap { after: name.previous })?;
        for (position, bytes) in segment.row_frames()?.into_iter().filter(|(last, _)| *last > place) {
            match file.call(move |connection| merge_frame(connection, &bytes)).await {
                Ok(rows) => ingest.metrics.count_replayed(rows, 0),
                Err(error) if error.mends_by_itself() => return Err(error),
                Err(error) => {
                    let problem = error.logged();
                    tracing::warn!(database, %position, problem, "changes of one frame cannot be brought back");
                    ingest.metrics.count_replayed(0, 1);
                }
            }
        }
        place = name.last;
    }
}

fn merge_frame(connection: &mut Connection, bytes: &[u8]) -> Result<i64> {
    in_transaction(connection, "merge stored changes", |connection| {
        let sql = "select cloudsync_payload_apply(?1)";
        connection.query_row(sql, [bytes], |row| row.get::<_, i64>(0))
    })
}

/// Ends an epoch.
async fn begin_anew(
    ingest: &Ingest,
    file: &File,
    (epoch, cause): (&Epoch, Cause),
    is: (ServerIdentity, &str),
    start: Lsn,
) -> Result<Ground> {
    let database = ingest.database.as_str();
    tracing::warn!(database, epoch = %epoch.id, cause = cause.label(), "epoch ends");
    let ground = open_epoch(ingest, file, (Some(epoch.id), cause.reason()), is, start).await?;
    ingest.metrics.count_epoch(cause.label());
    Ok(ground)
}

async fn open_epoch(
    ingest: &Ingest,
    file: &File,
    (previous, reason): (Option<EpochId>, EpochReason),
    (server, restored): (ServerIdentity, &str),
    start: Lsn,
) -> Result<Ground> {
    let number = previous.map_or(1, |previous| previous.number().saturating_add(1));
    let definitions = file.call(|connection| {
        let sql = "select cloudsync_central_definitions()";
        let told = connection.query_row(sql, [], |row| row.get::<_, Vec<u8>>(0));
        told.map_err(|source| Error::Sqlite { action: "read the definitions", source })
    });
    let definitions = definitions.await?;
    let id = EpochId::new(number, random_tag()?);
    let restored = restored.to_owned();
    let epoch = Epoch { id, server, start, definitions, reason, restored };
    ingest.archive.open_epoch(&epoch).await?;
    let database = ingest.database.as_str();
    tracing::info!(database, epoch = %epoch.id, %start, ?reason, "epoch opened");
    let mut known = Definitions::default();
    known.add_payload(&epoch.definitions)?;
    let index = SegmentIndex::new(epoch.start_position());
    Ok(Ground { epoch, index, within: false, definitions: known })
}
