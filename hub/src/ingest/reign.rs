//! What every reign begins with and is watched for, whatever the centre is.

use std::sync::{Arc, Mutex};

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::outbox::{Destination, Outbox, Stored};
use super::{Ingest, IngestStatus};
use crate::definitions::Definitions;
use crate::epoch::{Epoch, EpochId};
use crate::error::{Error, Result};
use crate::keys::{Fence, SegmentName};
use crate::position::Lsn;
use crate::segment::SegmentIndex;
use crate::snapshot::visibility::DecodedTransactions;

/// What a leader goes on with.
pub(crate) struct Reign {
    pub(crate) epoch: Epoch,
    pub(crate) index: SegmentIndex,
    pub(crate) fence: Fence,
    /// Names the start of the centre that is followed.
    pub(crate) server_start: String,
    pub(crate) decoded: DecodedTransactions,
    pub(crate) definitions: Arc<Mutex<Definitions>>,
    /// Takes the name of each segment that is stored.
    pub(crate) news: mpsc::UnboundedSender<SegmentName>,
}

impl Ingest {
    /// Opens the log where the store ends, says that this node leads, and begins to write to the store: as long as
    /// the tasks live.
    pub(crate) async fn begin_reign(&self, reign: Reign) -> Result<(Arc<Outbox>, JoinSet<()>)> {
        let Reign { epoch, index, fence, server_start, decoded, definitions, news } = reign;
        let (id, end) = (epoch.id, index.last());
        self.archive.put_server_start(id, server_start).await?;
        self.log.open(epoch, index);
        self.log.begin_leading(decoded);
        self.set_status(|status| {
            *status = IngestStatus { connected: true, leading: true, problem: None, verified: true };
        });
        self.metrics.fenced.set(0);
        self.metrics.behind.set(None);
        tracing::info!(database = self.database.as_str(), epoch = %id, position = %end, fence, "leading");
        let outbox = Arc::new(Outbox::new(Stored { position: end, confirm: Lsn::ZERO }));
        let mut tasks = JoinSet::new();
        tasks.spawn(Arc::clone(&outbox).run(Destination {
            archive: self.archive.clone(),
            log: Arc::clone(&self.log),
            metrics: self.metrics.clone(),
            definitions,
            epoch: id,
            fence,
            news,
        }));
        Ok((outbox, tasks))
    }

    /// Ends the reign when another node has opened a later epoch: this one's centre is no longer the centre.
    pub(crate) async fn check_epoch_is_newest(&self, epoch: EpochId) -> Result<()> {
        // A store that does not answer says nothing about it.
        let newest = self.archive.newest_epoch_number().await.ok().flatten();
        match newest.filter(|newest| *newest > epoch.number()) {
            Some(newest) => Err(Error::EpochSuperseded { epoch: epoch.number(), newest }),
            None => Ok(()),
        }
    }
}
