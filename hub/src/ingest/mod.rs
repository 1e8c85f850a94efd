//! Ingest: one leader per database decodes its log and writes it to the store.
//!
//! Owns who leads, and what happens when something breaks: connections are made again with growing waits; what
//! only an operator can mend stops ingest, with the reason in the status and once in the log. Nothing here is
//! needed to serve what the store holds.

pub(crate) mod archive;
mod control;
mod follow;
mod gather;
mod ground;
mod lag;
mod leader;
mod news;
mod outbox;
mod reign;
mod replay;
mod slice;
pub(crate) mod split;
mod standby;
mod verify;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use control::Control;
pub(crate) use control::{read_snapshot, standbys_flushed};
pub(crate) use gather::Gatherer;
pub(crate) use ground::random_tag;
use leader::Ended;
pub(crate) use outbox::{Outbox, Stored};
pub(crate) use reign::Reign;
pub(crate) use verify::Skip;

use crate::backend::Backend;
use crate::config::DatabaseName;
use crate::epoch::EpochId;
use crate::error::{Error, Result};
use crate::feed::log::Log;
use crate::metrics::DatabaseMetrics;
use crate::position::Position;
use crate::postgres::PostgresUrl;
use crate::replication::ReplicationConnection;
use crate::shutdown::asked;
use archive::Archive;

/// How often a follower asks whether it may lead.
const LOCK_INTERVAL: Duration = Duration::from_millis(500);

/// A leader silent for so long is taken for gone: five missed signs of life. With the interval above and the time to
/// look at the store, another leads within five seconds.
const LEADER_SILENCE_MAX: Duration = Duration::from_millis(2_500);

/// Longest time that a leader gets to end in peace: to store what clients may have been given, and to move the slot.
const LEADER_END_MAX: Duration = Duration::from_secs(4);

/// First wait after a failure; it doubles up to `RETRY_MAX`.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Failures of decoding at one place after which the log is left there: a new epoch goes on behind it.
const STUCK_TIMES: u32 = 5;

/// What ingest is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct IngestStatus {
    /// Postgres answers.
    pub(crate) connected: bool,
    /// This node leads.
    pub(crate) leading: bool,
    /// What went wrong last, if it was not mended since.
    pub(crate) problem: Option<String>,
    /// The server was looked at since it was connected to, and is the one that the newest epoch came from: before
    /// that nothing may be written to it. What it took could be lost, and a site that it once knew be mistaken.
    pub(crate) verified: bool,
}

/// Where the log ended when decoding failed, and how often it failed there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stuck {
    place: Position,
    times: u32,
}

/// Everything that ingest of one database works with.
pub(crate) struct Ingest {
    pub(crate) database: DatabaseName,
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) archive: Archive,
    pub(crate) log: Arc<Log>,
    pub(crate) metrics: DatabaseMetrics,
    pub(crate) status: Mutex<IngestStatus>,
    pub(crate) stuck: Mutex<Stuck>,
    pub(crate) shutdown: watch::Receiver<bool>,
}

impl Ingest {
    pub(crate) fn status(&self) -> IngestStatus {
        self.status.lock().expect("no step on the status panics").clone()
    }

    pub(crate) fn set_status(&self, change: impl FnOnce(&mut IngestStatus)) {
        change(&mut self.status.lock().expect("no step on the status panics"));
    }

    /// Runs until shutdown.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut shutdown = self.shutdown.clone();
        let mut wait = RETRY_MIN;
        loop {
            let begun = Instant::now();
            let turn = self.backend.take_turns(&self);
            let outcome = until_ended(turn, &mut shutdown, || self.status().leading, LEADER_END_MAX).await;
            self.log.stop_leading();
            self.log.set_told(false);
            let Err(error) = outcome else { return };
            self.metrics.behind.cut_off();
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

    /// Waits for its turn on one connection to Postgres, then leads; ends with an error, or in peace at shutdown.
    pub(crate) async fn take_turns(&self, url: &PostgresUrl) -> Result<()> {
        let control = Arc::new(Control::connect(url).await?);
        let mut checked = None;
        let mut key: Option<Vec<u8>> = None;
        while !control.try_lock().await? {
            self.open_from_store().await?;
            if self.log.epoch_id() != checked {
                checked = self.check_followed(&control).await?;
            }
            self.set_status(|status| {
                *status = IngestStatus { connected: true, verified: true, ..IngestStatus::default() };
            });
            self.metrics.fenced.set(0);
            self.metrics.behind.set(None);
            if control.end_silent_leader(LEADER_SILENCE_MAX).await? {
                let database = self.database.as_str();
                tracing::warn!(database, "the leading hub is silent, its connections to postgres were ended");
                tokio::time::sleep(RETRY_MIN).await;
                continue;
            }
            let key = match &mut key {
                Some(key) => key,
                None => key.insert(self.listen(&control).await?),
            };
            self.hear(&control, key, LOCK_INTERVAL).await;
        }
        self.log.set_told(false);
        control.unlisten().await?;
        // It ends with this turn.
        let mut signs = JoinSet::new();
        signs.spawn(control::pulse(Arc::clone(&control)));
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

    /// Makes sure that the server may be the one that the newest epoch came from, or follow it; names the epoch.
    async fn check_followed(&self, control: &Control) -> Result<Option<EpochId>> {
        let Some(epoch) = self.log.epoch() else { return Ok(None) };
        let mut connection = ReplicationConnection::connect(control.url()).await?;
        let (server, _flushed) = ground::identify(&mut connection, control).await?;
        epoch.fork_of(&server)?;
        Ok(Some(epoch.id))
    }

    /// Notes why a reign ended, to tell an error that repeats at one place from one that passes.
    fn note_ending(&self, error: &Error, place: Position) {
        let mut stuck = self.stuck.lock().expect("no step on this panics");
        *stuck = match *stuck {
            Stuck { place: before, times } if error.is_of_the_log() && before == place => {
                Stuck { place, times: times.saturating_add(1) }
            }
            _elsewhere if error.is_of_the_log() => Stuck { place, times: 1 },
            unchanged => unchanged,
        };
    }

    /// Whether decoding fails again and again at one place.
    fn is_stuck(&self) -> bool {
        self.stuck.lock().expect("no step on this panics").times >= STUCK_TIMES
    }

    /// Forgets errors of a log that is left.
    fn unstick(&self) {
        *self.stuck.lock().expect("no step on this panics") = Stuck::default();
    }

    /// Says once what went wrong, and again only when it is something else.
    fn note_failure(&self, error: &Error) {
        let problem = error.logged();
        let mut news = false;
        self.set_status(|status| {
            news = status.problem.as_ref() != Some(&problem);
            let fenced = matches!(error, Error::EpochMismatch { .. } | Error::EpochSuperseded { .. });
            self.metrics.fenced.set(i64::from(fenced));
            let connected = fenced
                || matches!(
                    error,
                    Error::EpochTaken { .. }
                        | Error::Standby
                        | Error::SlotActive { .. }
                        | Error::UnknownDefinition { .. }
                        | Error::CentralFileServed { .. }
                );
            let verified = status.verified && !fenced && !error.is_lost_connection();
            *status = IngestStatus { connected, leading: false, problem: Some(problem.clone()), verified };
        });
        if news {
            let database = self.database.as_str();
            tracing::warn!(database, problem, "ingest stopped, trying again");
        }
    }
}

/// Takes a turn to its end, which it may be about to reach by itself when shutdown is asked for: a leader gets
/// `end_max` for that, whoever waits for something gets none.
async fn until_ended(
    turn: impl Future<Output = Result<()>>,
    shutdown: &mut watch::Receiver<bool>,
    leads: impl Fn() -> bool,
    end_max: Duration,
) -> Result<()> {
    let cut_off = async {
        asked(shutdown).await;
        if leads() {
            tokio::time::sleep(end_max).await;
        }
    };
    tokio::select! {
        outcome = turn => outcome,
        () = cut_off => Ok(()),
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
    use crate::shutdown::Shutdown;

    /// Ends a turn that drains in so many steps; says whether it could.
    async fn end_turn(steps: Option<usize>, leads: bool, end_max: Duration) -> bool {
        let (shutdown, mut hears) = Shutdown::new();
        let mut ear = hears.clone();
        let mut drained = false;
        let turn = async {
            asked(&mut ear).await;
            match steps {
                Some(steps) => {
                    for _ in 0..steps {
                        tokio::task::yield_now().await;
                    }
                }
                None => std::future::pending().await,
            }
            drained = true;
            Ok(())
        };
        shutdown.ask();
        until_ended(turn, &mut hears, || leads, end_max).await.unwrap();
        drained
    }

    #[tokio::test]
    async fn a_leader_drains_at_shutdown_and_nobody_is_waited_for_without_end() {
        for _ in 0..50 {
            assert!(end_turn(Some(20), true, Duration::from_secs(60)).await);
        }
        assert!(!end_turn(Some(20), false, Duration::from_secs(60)).await);
        assert!(!end_turn(None, true, Duration::from_millis(1)).await);
    }

    #[test]
    fn a_wait_stays_near_what_was_asked() {
        for _ in 0..100 {
            let wait = jittered(Duration::from_millis(100));
            assert!((75..=125).contains(&wait.as_millis()), "{wait:?}");
        }
    }
}
