//! Finds the ground to lead on, and makes it anew where it is gone: what was lost is brought back, a new slot is
//! made, and an epoch is opened where it begins.
//!
//! Invariant: an epoch is opened last. Whatever ends the work before is done again by the next leader, and doing
//! it twice does no harm: replay is a merge, and a slot without an epoch is made again.

use tokio::time::{Instant, sleep};

use super::control::Control;
use super::replay::Replaying;
use super::{Ingest, RETRY_MIN};
use crate::epoch::{Epoch, EpochId, EpochReason, ServerIdentity};
use crate::error::{Error, Result};
use crate::ground::{Cause, Found, Kept, PLUGIN, Step, judge};
use crate::position::Lsn;
use crate::replication::{ReplicationConnection, SlotKind};
use crate::segment::SegmentIndex;

use super::leader::SLOT_RELEASE_MAX;

/// What the store and the server agree on.
pub(super) struct Ground {
    pub(super) connection: ReplicationConnection,
    pub(super) slot: String,
    pub(super) epoch: Epoch,
    pub(super) index: SegmentIndex,
    /// The end of the last segment or idle marker.
    pub(super) stored: Lsn,
}

/// What the store holds.
struct Stock {
    epoch: Epoch,
    index: SegmentIndex,
    stored: Lsn,
}

/// What a new epoch is opened with.
struct Opening {
    reason: EpochReason,
    server: ServerIdentity,
    restored: String,
    start: Lsn,
}

/// Who the server is, and how far its WAL is flushed.
pub(super) async fn identify(
    connection: &mut ReplicationConnection,
    control: &Control,
) -> Result<(ServerIdentity, Lsn)> {
    let database_oid = control.database_oid().await?;
    let identity = connection.identify_system().await?;
    let server = ServerIdentity { system: identity.system, lineage: identity.lineage, database_oid };
    Ok((server, identity.flushed))
}

impl Ingest {
    /// Compares server, slot and store, and makes what is missing.
    pub(super) async fn find_ground(&self, control: &Control) -> Result<Ground> {
        if control.is_in_recovery().await? {
            return Err(Error::Standby);
        }
        let mut connection = ReplicationConnection::connect(control.url()).await?;
        let (server, flushed) = identify(&mut connection, control).await?;
        let slot = format!("cloudsync_{}", server.database_oid);
        let stock = self.stock().await?;
        let restored = control.restored().await?;
        let started = control.server_start().await?;
        let is_restored = match &stock {
            Some(stock) => self.is_restored(&stock.epoch, &restored).await?,
            None => false,
        };
        let found = Found { server, flushed, slot: control.slot(&slot).await?, is_restored };
        let kept = stock.as_ref().map(|Stock { epoch, stored, .. }| Kept {
            epoch,
            stored: *stored,
            is_stuck: self.is_stuck(),
        });
        let step = judge(kept, &found)?;
        let opening = |reason, start| Opening { reason, server: found.server.clone(), restored, start };
        match (step, stock) {
            (Step::Continue, Some(Stock { epoch, index, stored })) => {
                Ok(Ground { connection, slot, epoch, index, stored })
            }
            (Step::NewEpoch(cause), Some(stock)) => {
                let before = self.archive.server_start(stock.epoch.id).await?;
                let what = cause.replay(before.as_ref() != Some(&started));
                self.heal(control, &stock, cause, Replaying { what, started }).await?;
                release_slot(control, &slot).await?;
                let made = connection.create_slot(&slot, PLUGIN, SlotKind::Lasting).await?;
                let opening = opening(cause.reason(), made.consistent_point);
                let epoch = self.open_epoch(control, Some(stock.epoch.id), opening).await?;
                self.metrics.count_epoch(cause.label());
                self.unstick();
                Ok(begun(connection, slot, epoch))
            }
            (Step::FirstAt(confirmed), _) => {
                let epoch = self.open_epoch(control, None, opening(EpochReason::First, confirmed)).await?;
                Ok(begun(connection, slot, epoch))
            }
            (Step::First | Step::Continue | Step::NewEpoch(_), _) => {
                release_slot(control, &slot).await?;
                let made = connection.create_slot(&slot, PLUGIN, SlotKind::Lasting).await?;
                let opening = opening(EpochReason::First, made.consistent_point);
                let epoch = self.open_epoch(control, None, opening).await?;
                Ok(begun(connection, slot, epoch))
            }
        }
    }

    async fn stock(&self) -> Result<Option<Stock>> {
        let Some(epoch) = self.archive.newest_epoch().await? else { return Ok(None) };
        let index = self.archive.segments(&epoch).await?;
        let idle = self.archive.idle_up_to(epoch.id.number()).await?;
        let stored = index.last().commit_end.max(idle);
        Ok(Some(Stock { epoch, index, stored }))
    }

    /// Whether the newest restore on purpose is one that no epoch knows. Where a restore took away a later one,
    /// what is found is old and says nothing.
    pub(crate) async fn is_restored(&self, newest: &Epoch, restored: &str) -> Result<bool> {
        if restored.is_empty() || restored == newest.restored {
            return Ok(false);
        }
        for number in 1..newest.id.number() {
            if self.archive.epoch(number).await?.is_some_and(|epoch| epoch.restored == restored) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Ends an epoch: says so, and brings back what Postgres lacks.
    async fn heal(&self, control: &Control, stock: &Stock, cause: Cause, replaying: Replaying) -> Result<()> {
        let database = self.database.as_str();
        let Stock { epoch, index, stored } = stock;
        tracing::warn!(database, epoch = %epoch.id, %stored, cause = cause.label(), "epoch ends: {cause}");
        let replayed = self.replay(control, epoch, index, &replaying).await?;
        if replayed.frames > 0 {
            let (frames, changed, refused) = (replayed.frames, replayed.changed, replayed.refused);
            tracing::warn!(
                database,
                frames,
                changed,
                refused,
                "stored changes were merged into postgres again"
            );
        }
        Ok(())
    }

    async fn open_epoch(&self, control: &Control, previous: Option<EpochId>, with: Opening) -> Result<Epoch> {
        let number = previous.map_or(1, |previous| previous.number().saturating_add(1));
        let definitions = control.definitions().await?;
        let Opening { reason, server, restored, start } = with;
        let id = EpochId::new(number, random_tag()?);
        let epoch = Epoch { id, server, start, definitions, reason, restored };
        self.archive.open_epoch(&epoch).await?;
        let database = self.database.as_str();
        tracing::info!(database, epoch = %epoch.id, %start, ?reason, "epoch opened");
        Ok(epoch)
    }
}

fn begun(connection: ReplicationConnection, slot: String, epoch: Epoch) -> Ground {
    let (index, stored) = (SegmentIndex::new(epoch.start_position()), epoch.start);
    Ground { connection, slot, epoch, index, stored }
}

/// Removes a slot of our name, if there is one. Whoever reads from it is ended: the lock says that we lead.
async fn release_slot(control: &Control, slot: &str) -> Result<()> {
    let deadline = Instant::now() + SLOT_RELEASE_MAX;
    while !control.drop_slot(slot).await? {
        if Instant::now() >= deadline {
            return Err(Error::SlotActive { slot: slot.to_owned() });
        }
        sleep(RETRY_MIN).await;
    }
    Ok(())
}

/// A random number that tells apart epochs of equal number.
pub(crate) fn random_tag() -> Result<u32> {
    getrandom::u32().map_err(|_unsupported| Error::RandomBytes)
}
