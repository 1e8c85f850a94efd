//! Ingest: one leader per database decodes its log and writes it to the store.
//!
//! Owns who leads, and what happens when something breaks: connections are made again with growing waits; what
//! only an operator can mend stops ingest, with the reason in the status and once in the log. Nothing here is
//! needed to serve what the store holds.

pub(crate) mod archive;
mod control;
mod gather;
mod leader;
mod outbox;
mod verify;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use control::Control;
pub(crate) use control::read_snapshot;
use leader::Ended;
pub(crate) use verify::Skip;

use crate::config::DatabaseConfig;
use crate::error::{Error, Result};
use crate::feed::log::Log;
use crate::metrics::DatabaseMetrics;
use crate::shutdown::asked;
use archive::Archive;

/// How often a follower asks whether it may lead.
const LOCK_INTERVAL: Duration = Duration::from_secs(1);

/// First wait after a failure; it doubles up to `RETRY_MAX`.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// What ingest is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct IngestStatus {
    /// Postgres answers.
    pub(crate) connected: bool,
    /// This node leads.
    pub(crate) leading: bool,
    /// What went wrong last, if it was not mended since.
    pub(crate) problem: Option<String>,
}

/// Everything that ingest of one database works with.
pub(crate) struct Ingest {
    pub(crate) database: DatabaseConfig,
    pub(crate) archive: Archive,
    pub(crate) log: Arc<Log>,
    pub(crate) metrics: DatabaseMetrics,
    pub(crate) status: Mutex<IngestStatus>,
    pub(crate) shutdown: watch::Receiver<bool>,
}

impl Ingest {
    pub(crate) fn status(&self) -> IngestStatus {
        self.status.lock().expect("no step on the status panics").clone()
    }

    fn set_status(&self, change: impl FnOnce(&mut IngestStatus)) {
        change(&mut self.status.lock().expect("no step on the status panics"));
    }

    /// Runs until shutdown.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut shutdown = self.shutdown.clone();
        let mut wait = RETRY_MIN;
        loop {
            let begun = Instant::now();
            let outcome = tokio::select! {
                outcome = self.take_turns() => outcome,
                () = asked(&mut shutdown) => Ok(()),
            };
            self.log.stop_leading();
            let Err(error) = outcome else { return };
            self.note_failure(&error);
            if begun.elapsed() > RETRY_MAX {
                wait = RETRY_MIN;
            }
            tokio::select! {
                () = tokio::time::sleep(jittered(wait)) => {}
                () = asked(&mut shutdown) => return,
            }
            wait = wait.saturating_mul(2).min(RETRY_MAX);
        }
    }

    /// Waits for its turn on one connection, then leads; ends with an error, or in peace at shutdown.
    async fn take_turns(&self) -> Result<()> {
        let control = Arc::new(Control::connect(&self.database.url).await?);
        while !control.try_lock().await? {
            self.open_from_store().await?;
            self.set_status(|status| {
                *status = IngestStatus { connected: true, leading: false, problem: None };
            });
            tokio::time::sleep(jittered(LOCK_INTERVAL)).await;
        }
        loop {
            match self.lead(&control).await? {
                Ended::Shutdown => return Ok(()),
                Ended::NewEpoch => self.log.stop_leading(),
            }
        }
    }

    /// Lets a node that has never led serve what another one stored.
    async fn open_from_store(&self) -> Result<()> {
        if self.log.epoch_id().is_none()
            && let Some(epoch) = self.archive.newest_epoch().await?
        {
            let index = self.archive.segments(&epoch).await?;
            self.log.open(epoch, index);
        }
        Ok(())
    }

    /// Says once what went wrong, and again only when it is something else.
    fn note_failure(&self, error: &Error) {
        let problem = error.logged();
        let mut news = false;
        self.set_status(|status| {
            news = status.problem.as_ref() != Some(&problem);
            let connected = matches!(
                error,
                Error::EpochMismatch { .. }
                    | Error::EpochTaken { .. }
                    | Error::SlotMissing { .. }
                    | Error::SlotLost { .. }
                    | Error::SlotAhead { .. }
                    | Error::SlotPlugin { .. }
                    | Error::SlotActive { .. }
                    | Error::UnknownDefinition { .. }
            );
            *status = IngestStatus { connected, leading: false, problem: Some(problem.clone()) };
        });
        if news {
            let database = self.database.name.as_str();
            tracing::warn!(database, problem, "ingest stopped, trying again");
        }
    }
}

/// Between three and five quarters of a wait, so that hubs do not move in step.
fn jittered(wait: Duration) -> Duration {
    // Without random bytes the waits are equal, which harms nobody.
    let random = getrandom::u32().unwrap_or(u32::MAX / 2);
    wait.mul_f64(0.75 + f64::from(random) / f64::from(u32::MAX) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_stays_near_what_was_asked() {
        for _ in 0..100 {
            let wait = jittered(Duration::from_millis(100));
            assert!((75..=125).contains(&wait.as_millis()), "{wait:?}");
        }
    }
}
