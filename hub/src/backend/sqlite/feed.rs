//! Puts the feed of the central file into the log: what comes next by its numbers, from where the store ends.
//!
//! A row of the feed is deleted once the store holds it, so the file keeps what a lost node knew. A file whose numbers
//! are behind the store's was set back to an older copy: what the store has beyond it is merged into it again, and a
//! new epoch begins.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rusqlite::{Connection, params};
use shared_format::payload::{Limits, Payload, decode_frame};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::file::{File, in_transaction, is_busy};
use crate::definitions::Definitions;
use crate::epoch::{Epoch, EpochId, EpochReason, ServerIdentity};
use crate::error::{Error, Result};
use crate::ingest::{Destination, Gatherer, Ingest, IngestStatus, Outbox, Stored, random_tag};
use crate::lineage::Lineage;
use crate::position::{Lsn, Position};
use crate::segment::{Found, SegmentIndex};
use crate::snapshot::visibility::{DecodedTransactions, PgSnapshot};

/// Bytes that may wait for the store before no more of the feed is read.
const WAITING_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Rows and bytes of the feed that are read at once.
const ROWS_MAX: i64 = 1_000;
const BYTES_MAX: usize = 8 * 1024 * 1024;

/// How often it is made sure that file and epoch are still the newest.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Where the log goes on.
struct Ground {
    epoch: Epoch,
    index: SegmentIndex,
    /// The store ends within a transaction.
    within: bool,
    definitions: Definitions,
}

/// One row of the feed.
struct FeedRow {
    position: Position,
    ends: bool,
    frame: Vec<u8>,
}

/// Leads until something ends it.
pub(super) async fn lead(ingest: &Ingest, file: &Arc<File>) -> Result<()> {
    let Ground { epoch, index, within, definitions } = find_ground(ingest, file).await?;
    let end = index.last();
    let fence = file.begun.fence;
    ingest.archive.put_server_start(epoch.id, fence.to_string()).await?;
    ingest.log.open(epoch.clone(), index);
    let nothing = PgSnapshot::parse("0:0:").ok_or(Error::EpochObject { part: "snapshot" })?;
    ingest.log.begin_leading(DecodedTransactions::begin(end.commit_end, &nothing));
    ingest.set_status(|status| {
        *status = IngestStatus { connected: true, leading: true, problem: None, verified: true };
    });
    ingest.metrics.fenced.set(0);
    ingest.metrics.behind.set(None);
    tracing::info!(database = ingest.database.as_str(), epoch = %epoch.id, position = %end, fence, "leading");
    let outbox = Arc::new(Outbox::new(Stored { position: end, confirm: Lsn::ZERO }));
    let definitions = Arc::new(Mutex::new(definitions));
    // There are no other nodes to be told.
    let (news, _nobody) = mpsc::unbounded_channel();
    let mut tasks = JoinSet::new();
    tasks.spawn(Arc::clone(&outbox).run(Destination {
        archive: ingest.archive.clone(),
        log: Arc::clone(&ingest.log),
        metrics: ingest.metrics.clone(),
        definitions: Arc::clone(&definitions),
        epoch: epoch.id,
        fence,
        news,
    }));
    let mut gatherer = Gatherer::default();
    if within {
        gatherer.go_on_within();
    }
    let place = if end.message == Lsn::MAX { end.commit_end } else { end.message };
    let leader = Leader {
        ingest,
        file,
        epoch: epoch.id,
        stored: outbox.stored(),
        outbox,
        definitions,
        gatherer,
        place,
    };
    leader.run().await
}

/// A reign.
struct Leader<'a> {
    ingest: &'a Ingest,
    file: &'a Arc<File>,
    epoch: EpochId,
    outbox: Arc<Outbox>,
    stored: watch::Receiver<Stored>,
    definitions: Arc<Mutex<Definitions>>,
    gatherer: Gatherer,
    /// The number of the last row that was read.
    place: Lsn,
}

impl Leader<'_> {
    async fn run(mut self) -> Result<()> {
        let mut reached = self.file.reached();
        let mut checks = interval(CHECK_INTERVAL);
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let found = reached.borrow_and_update().clone();
            if let Some(problem) = found.problem {
                return Err(Error::CentralFeed { problem });
            }
            while self.place < found.end && self.outbox.waiting_bytes() < WAITING_BYTES_MAX {
                self.read().await?;
            }
            tokio::select! {
                changed = reached.changed() => {
                    changed.map_err(|_ended| Error::TaskEnded { task: "serve the central file" })?;
                }
                changed = self.stored.changed() => {
                    changed.expect("the outbox outlives the reign");
                    self.confirm().await?;
                }
                _ = checks.tick() => {
                    self.file.check_is_there()?;
                    self.check_epoch_is_newest().await?;
                }
            }
        }
    }

    /// Reads on in the feed, and cuts what was gathered.
    async fn read(&mut self) -> Result<()> {
        let place = self.place;
        let rows = self.file.call(move |connection| read_feed(connection, place)).await?;
        if rows.is_empty() {
            return Err(Error::CentralFeed { problem: format!("rows behind {place} are missing") });
        }
        for row in rows {
            self.gather(&row)?;
            if self.cut_if_due(true) {
                tokio::task::yield_now().await;
            }
        }
        self.cut_if_due(false);
        Ok(())
    }

    fn gather(&mut self, row: &FeedRow) -> Result<()> {
        let (payload, _length) = decode_frame(&row.frame, &Limits::default())?;
        let parsed = Payload::parse(&payload)?;
        let mut known = self.definitions.lock().expect("no step on definitions panics");
        self.gatherer.add(row.position, &parsed, payload.len(), &mut known)?;
        self.place = row.position.message;
        if row.ends {
            self.gatherer.end_transaction(row.position.commit_end, None, true);
        }
        Ok(())
    }

    fn cut_if_due(&mut self, more_is_here: bool) -> bool {
        if !self.gatherer.is_due(more_is_here) {
            return false;
        }
        let Some(gathered) = self.gatherer.cut() else { return false };
        self.ingest.log.push(gathered.frame.clone(), &gathered.transactions);
        self.outbox.push(gathered);
        true
    }

    /// Deletes what the store holds.
    ///
    /// Nothing hangs on it: where somebody else writes for long, it is done after the next segment.
    async fn confirm(&mut self) -> Result<()> {
        let confirm = self.stored.borrow_and_update().confirm;
        let number = i64::try_from(confirm.raw()).unwrap_or(i64::MAX);
        self.ingest.metrics.ingest_position_bytes.set(number);
        let deleted = self.file.call(move |connection| {
            in_transaction(connection, "delete what is stored", |connection| {
                connection
                    .prepare_cached("delete from main.cloudsync_feed where seq <= ?1")?
                    .execute([number])
            })
        });
        match deleted.await {
            Err(Error::Sqlite { source, .. }) if is_busy(&source) => Ok(()),
            other => other.map(drop),
        }
    }

    /// Ends the reign when another hub has opened a later epoch.
    async fn check_epoch_is_newest(&self) -> Result<()> {
        // A store that does not answer says nothing about it.
        let newest = self.ingest.archive.newest_epoch_number().await.ok().flatten();
        match newest.filter(|newest| *newest > self.epoch.number()) {
            Some(newest) => Err(Error::EpochSuperseded { epoch: self.epoch.number(), newest }),
            None => Ok(()),
        }
    }
}

/// Some rows of the feed behind a number, each with the number that its transaction ends at.
fn read_feed(connection: &mut Connection, place: Lsn) -> Result<Vec<FeedRow>> {
    let failed = |source| Error::Sqlite { action: "read the feed", source };
    let sql = "select f.seq, f.ends, f.frame,
            (select min(e.seq) from main.cloudsync_feed as e where e.seq >= f.seq and e.ends)
        from main.cloudsync_feed as f where f.seq > ?1 order by f.seq limit ?2";
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    let after = i64::try_from(place.raw()).unwrap_or(i64::MAX);
    let mut found = statement.query(params![after, ROWS_MAX]).map_err(failed)?;
    let (mut rows, mut bytes) = (Vec::new(), 0_usize);
    while let Some(row) = found.next().map_err(failed)? {
        let lsn = |at: usize| row.get::<_, i64>(at).map(|number| Lsn::new(number.unsigned_abs()));
        let (message, commit_end) = (lsn(0).map_err(failed)?, lsn(3).map_err(failed)?);
        let frame: Vec<u8> = row.get(2).map_err(failed)?;
        bytes = bytes.saturating_add(frame.len());
        let ends = row.get(1).map_err(failed)?;
        rows.push(FeedRow { position: Position::new(commit_end, message), ends, frame });
        if bytes >= BYTES_MAX {
            break;
        }
    }
    Ok(rows)
}

/// Compares file and store.
async fn find_ground(ingest: &Ingest, file: &Arc<File>) -> Result<Ground> {
    let system = format!("sqlite-{}", file.begun.name);
    let server = ServerIdentity { system, lineage: Lineage::first(1), database_oid: 0 };
    let Some(epoch) = ingest.archive.newest_epoch().await? else {
        return open_epoch(ingest, file, (None, EpochReason::First), server, file.begun.end).await;
    };
    epoch.check_server(&server)?;
    let index = ingest.archive.segments(&epoch).await?;
    let end = index.last();
    let place = if end.message == Lsn::MAX { end.commit_end } else { end.message };
    let noted = ingest.archive.server_start(epoch.id).await?;
    let is_older =
        noted.and_then(|noted| noted.parse().ok()).is_some_and(|noted: u64| noted >= file.begun.fence);
    if is_older || place > file.begun.end || !has_all_behind(file, place).await? {
        let previous = epoch.id;
        merge_again(ingest, file, &epoch, &index).await?;
        let end = file.call(|connection| {
            let sql = "select cloudsync_central_restored()";
            in_transaction(connection, "note a restore", |connection| {
                connection.query_row(sql, [], |_row| Ok(()))
            })?;
            super::file::pass_on(connection)
        });
        let from = (Some(previous), EpochReason::Failover);
        return open_epoch(ingest, file, from, server, end.await?).await;
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

/// Whether the feed still has every row behind a number.
async fn has_all_behind(file: &File, place: Lsn) -> Result<bool> {
    let (after, end) = (place.raw(), file.begun.end.raw());
    let number = i64::try_from(after).unwrap_or(i64::MAX);
    let counted = file.call(move |connection| {
        let sql = "select count(*) from main.cloudsync_feed where seq > ?1";
        let count = connection.query_row(sql, [number], |row| row.get::<_, i64>(0));
        count.map_err(|source| Error::Sqlite { action: "count the feed", source })
    });
    Ok(counted.await?.unsigned_abs() == end.saturating_sub(after))
}

/// Merges into the file what the store has beyond it.
async fn merge_again(ingest: &Ingest, file: &File, epoch: &Epoch, index: &SegmentIndex) -> Result<()> {
    let database = ingest.database.as_str();
    tracing::warn!(database, epoch = %epoch.id, "the central file was set back: stored changes are merged into it");
    let mut place = Position::after(file.begun.end).max(epoch.start_position());
    loop {
        let name = match index.find(place) {
            Found::Segment(name) => name,
            Found::Nothing => return Ok(()),
            Found::Behind | Found::Gap => return Err(Error::LogGap { after: place }),
        };
        let segment = ingest.archive.segment(epoch.id.number(), name).await?;
        let segment = segment.ok_or(Error::LogGap { after: name.previous })?;
        let frames = segment.scopes.iter().flat_map(|scope| &scope.frames);
        for frame in frames.filter(|frame| frame.last > place && !frame.bytes.is_empty()) {
            let bytes = frame.bytes.clone();
            let merged = file.call(move |connection| {
                in_transaction(connection, "merge stored changes", |connection| {
                    let sql = "select cloudsync_payload_apply(?1)";
                    connection.query_row(sql, [bytes.as_ref()], |row| row.get::<_, i64>(0))
                })
            });
            let rows = merged.await?;
            ingest.metrics.count_replayed(rows, 0);
        }
        place = name.last;
    }
}

async fn open_epoch(
    ingest: &Ingest,
    file: &File,
    (previous, reason): (Option<EpochId>, EpochReason),
    server: ServerIdentity,
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
    let restored = String::new();
    let epoch = Epoch { id, server, start, definitions, reason, restored };
    ingest.archive.open_epoch(&epoch).await?;
    let database = ingest.database.as_str();
    tracing::info!(database, epoch = %epoch.id, %start, ?reason, "epoch opened");
    let mut known = Definitions::default();
    known.add_payload(&epoch.definitions)?;
    let index = SegmentIndex::new(epoch.start_position());
    Ok(Ground { epoch, index, within: false, definitions: known })
}
