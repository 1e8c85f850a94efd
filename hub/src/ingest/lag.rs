//! When the oldest transaction was committed that is decoded and not stored yet.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use crate::position::Lsn;

/// The Postgres epoch, 2000-01-01, on the Unix clock.
const POSTGRES_EPOCH: Duration = Duration::from_secs(946_684_800);

/// Commits within this time of each other are told apart no further, so that a million of them cost nothing.
const APART: Duration = Duration::from_millis(100);

/// The commits that wait for the store, thinned out.
#[derive(Debug, Default)]
pub(super) struct Unstored(VecDeque<Commit>);

/// One commit that speaks for those that follow closely.
#[derive(Clone, Copy, Debug)]
struct Commit {
    time: SystemTime,
    /// The end of the last that it speaks for.
    end: Lsn,
}

impl Unstored {
    /// Adds a transaction that was decoded.
    pub(super) fn push(&mut self, end: Lsn, time: SystemTime) {
        match self.0.back_mut() {
            Some(last) if time.duration_since(last.time).is_ok_and(|apart| apart < APART) => last.end = end,
            Some(_) | None => self.0.push_back(Commit { time, end }),
        }
    }

    /// Forgets what is stored; gives the time of the oldest commit that is left.
    pub(super) fn stored_up_to(&mut self, stored: Lsn) -> Option<SystemTime> {
        while self.0.front().is_some_and(|commit| commit.end <= stored) {
            self.0.pop_front();
        }
        self.0.front().map(|commit| commit.time)
    }
}

/// The time that Postgres counts in microseconds since 2000; none for one that no clock can show.
pub(super) fn postgres_time(microseconds: i64) -> Option<SystemTime> {
    let epoch = SystemTime::UNIX_EPOCH.checked_add(POSTGRES_EPOCH)?;
    let distance = Duration::from_micros(microseconds.unsigned_abs());
    if microseconds < 0 { epoch.checked_sub(distance) } else { epoch.checked_add(distance) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(milliseconds)
    }

    #[test]
    fn the_oldest_commit_that_is_left_is_told() {
        let mut unstored = Unstored::default();
        for (end, time) in [(10, 0), (20, 500), (30, 550), (40, 700)] {
            unstored.push(Lsn::new(end), at(time));
        }
        assert_eq!(unstored.0.len(), 3);
        assert_eq!(unstored.stored_up_to(Lsn::new(9)), Some(at(0)));
        assert_eq!(unstored.stored_up_to(Lsn::new(10)), Some(at(500)));
        assert_eq!(unstored.stored_up_to(Lsn::new(20)), Some(at(500)));
        assert_eq!(unstored.stored_up_to(Lsn::new(30)), Some(at(700)));
        assert_eq!(unstored.stored_up_to(Lsn::new(40)), None);
    }

    #[test]
    fn the_clock_of_postgres_is_read() {
        assert_eq!(postgres_time(0), Some(at(946_684_800_000)));
        assert_eq!(postgres_time(-1_000), Some(at(946_684_799_999)));
        assert_eq!(postgres_time(2_500_000), Some(at(946_684_802_500)));
    }
}
