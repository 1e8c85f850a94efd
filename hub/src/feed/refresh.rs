//! How a node that does not lead learns what it was not told of: by LIST, while a client waits.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::log::Log;
use crate::error::Result;
use crate::ingest::archive::{Archive, LIST_TRIES};

/// Time between two LISTs: it begins here after news, and doubles up to `INTERVAL_MAX`.
const INTERVAL_MIN: Duration = Duration::from_secs(2);
const INTERVAL_MAX: Duration = Duration::from_secs(30);

/// Looks for news in the store, for all waiting clients of one database together.
pub(super) struct Refresh {
    log: Arc<Log>,
    archive: Archive,
    pace: Mutex<Pace>,
}

/// When to look.
#[derive(Clone, Copy, Debug)]
struct Pace {
    last: Option<Instant>,
    interval: Duration,
}

impl Pace {
    fn due(&self, interval: Duration) -> Instant {
        self.last.map_or_else(Instant::now, |last| last + interval)
    }

    fn note(&mut self, news: bool) {
        self.last = Some(Instant::now());
        self.interval = if news { INTERVAL_MIN } else { self.interval.saturating_mul(2).min(INTERVAL_MAX) };
    }
}

impl Refresh {
    pub(super) fn new(log: Arc<Log>, archive: Archive) -> Refresh {
        Refresh { log, archive, pace: Mutex::new(Pace { last: None, interval: INTERVAL_MIN }) }
    }

    /// Waits until it is time to look.
    pub(super) async fn when_due(&self) {
        let pace = *self.pace.lock().await;
        if !self.log.is_in_doubt() {
            tokio::time::sleep_until(pace.due(self.interval(&pace))).await;
        }
    }

    /// Time between two looks: who is told of what is new need not look often.
    fn interval(&self, pace: &Pace) -> Duration {
        if self.log.is_told() { INTERVAL_MAX } else { pace.interval }
    }

    /// Looks, unless somebody just did.
    pub(super) async fn run(&self) -> Result<()> {
        let mut pace = self.pace.lock().await;
        if !self.log.is_in_doubt() && pace.due(self.interval(&pace)) > Instant::now() {
            return Ok(());
        }
        let news = self.look().await?;
        pace.note(news);
        Ok(())
    }

    /// Looks for a client that has just come, unless somebody did within the shortest interval.
    pub(super) async fn at_once(&self) -> Result<()> {
        let mut pace = self.pace.lock().await;
        let interval = if self.log.is_told() { INTERVAL_MAX } else { INTERVAL_MIN };
        if !self.log.is_in_doubt() && pace.due(interval) > Instant::now() {
            return Ok(());
        }
        let news = self.look().await?;
        pace.note(news);
        Ok(())
    }

    /// Takes what is new in the store; says whether there was anything.
    async fn look(&self) -> Result<bool> {
        // Before the LIST: what is told while it runs may not be in it.
        self.log.end_doubt();
        let looked = self.take_news().await;
        if looked.is_err() {
            self.log.doubt();
        }
        looked
    }

    async fn take_news(&self) -> Result<bool> {
        let Some(newest) = self.archive.newest_epoch().await? else { return Ok(false) };
        let mut news = false;
        for _ in 0..LIST_TRIES {
            let Some((epoch, after)) = self.log.unbroken().filter(|(epoch, _)| *epoch == newest.id) else {
                let index = self.archive.segments(&newest).await?;
                self.log.open(newest, index);
                return Ok(true);
            };
            for name in self.archive.segments_after(epoch.number(), after.as_ref()).await? {
                news |= self.log.add_segment(epoch, name);
            }
            if !self.log.is_broken() {
                break;
            }
        }
        if news {
            self.log.tell_news();
        }
        Ok(news)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_store_is_looked_at_less_and_less() {
        let mut pace = Pace { last: None, interval: INTERVAL_MIN };
        let mut intervals = Vec::new();
        for news in [false, false, false, false, false, true, false] {
            pace.note(news);
            intervals.push(pace.interval.as_secs());
        }
        assert_eq!(intervals, [4, 8, 16, 30, 30, 2, 4]);
    }
}
