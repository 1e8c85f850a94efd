//! Puts the feed of the central file into the log: what comes next by its numbers, from where the store ends.
//!
//! A row of the feed is deleted once the store holds it, so the file keeps what a lost node knew.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rusqlite::{Connection, params};
use shared_format::payload::{Limits, Payload, decode_frame};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::file::{Begun, File, in_transaction, is_busy, newest};
use super::ground::{Ground, find_ground};
use crate::definitions::Definitions;
use crate::epoch::EpochId;
use crate::error::{Error, Result};
use crate::ingest::{Gatherer, Ingest, Outbox, Reign, Stored};
use crate::position::{Lsn, Position};
use crate::snapshot::visibility::{DecodedTransactions, PgSnapshot};

/// Bytes that may wait for the store before no more of the feed is read.
const WAITING_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Rows and bytes of the feed that are read at once.
const ROWS_MAX: i64 = 1_000;
const BYTES_MAX: usize = 8 * 1024 * 1024;

/// How often it is made sure that file and epoch are still the newest.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Longest wait for the store to take what a file had that was replaced.
const KEEP_MAX: Duration = Duration::from_secs(30);

/// One row of the feed.
struct FeedRow {
    position: Position,
    ends: bool,
    frame: Vec<u8>,
}

/// Leads until something ends it; in peace where a new epoch has to begin, since tables have other readers.
pub(super) async fn lead(ingest: &Ingest, file: &Arc<File>, begun: &Begun) -> Result<()> {
    let Ground { epoch, index, within, definitions } = find_ground(ingest, file, begun).await?;
    let end = index.last();
    let nothing = PgSnapshot::parse("0:0:").ok_or(Error::EpochObject { part: "snapshot" })?;
    let definitions = Arc::new(Mutex::new(definitions));
    // There are no other nodes to be told.
    let (news, _nobody) = mpsc::unbounded_channel();
    let id = epoch.id;
    let reign = Reign {
        epoch,
        index,
        fence: begun.fence,
        server_start: begun.fence.to_string(),
        decoded: DecodedTransactions::begin(end.commit_end, &nothing),
        definitions: Arc::clone(&definitions),
        news,
    };
    let (outbox, _tasks) = ingest.begin_reign(reign).await?;
    let mut gatherer = Gatherer::default();
    if within {
        gatherer.go_on_within();
    }
    let place = if end.message == Lsn::MAX { end.commit_end } else { end.message };
    let mut leader = Leader {
        ingest,
        file,
        epoch: id,
        stored: outbox.stored(),
        outbox,
        definitions,
        gatherer,
        place,
        is_reloaded: false,
    };
    let outcome = leader.run().await;
    if matches!(outcome, Ok(()) | Err(Error::CentralFileReplaced { .. })) {
        leader.keep_all().await?;
    }
    outcome
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
    /// Tables have other readers from here on.
    is_reloaded: bool,
}

impl Leader<'_> {
    async fn run(&mut self) -> Result<()> {
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
            if self.is_reloaded {
                return Ok(());
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
                    self.ingest.check_epoch_is_newest(self.epoch).await?;
                }
            }
        }
    }

    /// Puts all that the file has taken into the store: before a new epoch begins, and of a file that was replaced. What
    /// was uploaded to that until it was noticed is merged into the one in its place.
    async fn keep_all(&mut self) -> Result<()> {
        // Whatever upload to a file that was replaced comes behind this is refused.
        let end = self.file.call(|connection| newest(connection)).await?;
        while self.place < end {
            self.read().await?;
        }
        let deadline = Instant::now() + KEEP_MAX;
        while self.outbox.waiting_bytes() > 0
            && tokio::time::timeout_at(deadline, self.stored.changed()).await.is_ok()
        {}
        Ok(())
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
        self.is_reloaded |= !parsed.reloads().is_empty();
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
