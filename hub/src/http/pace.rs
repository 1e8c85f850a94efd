//! How slowly an answer may be read before its connection ends.
//!
//! A reader that takes nothing for a while may be on a line that broke and comes back; one that goes on so slowly that
//! the whole would take for ever holds what the answer is made of, and is told by the same measure.

use std::time::Duration;

use tokio::time::Instant;

/// Bytes a second below which nobody is a reader: 8 MiB would take more than two hours.
const BYTES_PER_S_MIN: u64 = 1_024;

/// Until when a reader has to take more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    deadline: Instant,
    patience: Duration,
}

impl Pace {
    /// Begins with all the patience that there is.
    pub(super) fn begin(patience: Duration, now: Instant) -> Pace {
        Pace { deadline: now + patience, patience }
    }

    /// Notes that so many bytes were taken: the reader has as much more time as they are worth, but never more than at
    /// the start.
    pub(super) fn took(&mut self, bytes: usize, now: Instant) {
        let worth_us = u64::try_from(bytes).unwrap_or(u64::MAX).saturating_mul(1_000_000) / BYTES_PER_S_MIN;
        let later = self.deadline.checked_add(Duration::from_micros(worth_us));
        let latest = now + self.patience;
        self.deadline = later.map_or(latest, |later| later.min(latest));
    }

    /// Until when more has to be taken.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// Takes so many bytes again and again, each time after a pause; says after how many times it was too slow.
    fn read(bytes: usize, pause: Duration, times: u32) -> Option<u32> {
        let mut now = Instant::now();
        let mut pace = Pace::begin(PATIENCE, now);
        for time in 0..times {
            now += pause;
            if pace.deadline() <= now {
                return Some(time);
            }
            pace.took(bytes, now);
        }
        None
    }

    #[test]
    fn who_dribbles_is_ended_and_who_is_slow_is_not() {
        let seconds = Duration::from_secs;
        assert_eq!(read(1, seconds(30), 100), Some(2), "a byte now and then");
        assert_eq!(read(1_000, seconds(2), 1_000), Some(57), "half of what is wanted");
        assert_eq!(read(1_024, seconds(1), 10_000), None, "just as much");
        assert_eq!(read(32 * 1_024, seconds(31), 10_000), None, "in the steps that a socket is written to");
        assert_eq!(read(16 * 1_024, Duration::from_millis(1), 10_000), None, "everybody");
    }

    #[test]
    fn whoever_was_fast_has_no_more_patience_than_others() {
        let now = Instant::now();
        let mut pace = Pace::begin(PATIENCE, now);
        pace.took(1_000_000_000, now);
        assert_eq!(pace.deadline(), now + PATIENCE);
        pace.took(usize::MAX, now);
        assert_eq!(pace.deadline(), now + PATIENCE);
    }
}
