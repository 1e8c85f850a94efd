//! When each recurring job is due, where there is no queue that knows it.
//!
//! Invariant: of a job that is seldom done, the time is kept in the database. So it comes when the clock says so, also
//! to a hub that never runs for long; one that was put off for years by a wrong clock comes within its interval.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use super::work::Kind;

/// How soon a job that failed is tried again.
const RETRY: Duration = Duration::from_secs(60);

/// When each kind is due.
#[derive(Debug)]
pub(super) struct Agenda([(SystemTime, Kind); 6]);

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// A job is due.
    Due(Kind),
    /// None is, for so long.
    After(Duration),
}

impl Agenda {
    /// Goes on with what was kept by the names of the kinds.
    pub(super) fn new(kept: &BTreeMap<String, SystemTime>, now: SystemTime) -> Agenda {
        let due = |kind: Kind| match kept.get(kind.name()) {
            Some(at) if kind.is_kept() => (*at).min(now + kind.every()),
            Some(_) | None => now + kind.first_after(),
        };
        Agenda(Kind::ALL.map(|kind| (due(kind), kind)))
    }

    /// What is to be kept.
    pub(super) fn kept(&self) -> impl Iterator<Item = (SystemTime, Kind)> {
        self.0.iter().copied().filter(|(_, kind)| kind.is_kept())
    }

    /// The job that waited longest of those that are due. A clock that was set back puts none off for longer than its
    /// interval.
    pub(super) fn next(&mut self, now: SystemTime) -> Next {
        for (at, kind) in &mut self.0 {
            *at = (*at).min(now + kind.every());
        }
        self.0.sort_by_key(|(at, _)| *at);
        let [(at, kind), ..] = self.0;
        at.duration_since(now)
            .map_or(Next::Due(kind), |wait| if wait.is_zero() { Next::Due(kind) } else { Next::After(wait) })
    }

    /// Notes how a job ended; gives when it is due again.
    pub(super) fn end(&mut self, kind: Kind, is_done: bool, now: SystemTime) -> SystemTime {
        let wait = if is_done { kind.every() } else { kind.every().min(RETRY) };
        for (at, _) in self.0.iter_mut().filter(|(_, found)| *found == kind) {
            *at = now + wait;
        }
        now + wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);
    const DAY: Duration = Duration::from_secs(86_400);

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + 20_000 * DAY
    }

    fn due(agenda: &Agenda, kind: Kind) -> SystemTime {
        agenda.0.iter().find(|(_, found)| *found == kind).map(|(at, _)| *at).unwrap()
    }

    #[test]
    fn a_hub_that_restarts_each_hour_comes_to_the_daily_jobs() {
        let mut kept = BTreeMap::new();
        let mut done = Vec::new();
        for hour in 0..50 {
            let begun = now() + hour * HOUR;
            let mut agenda = Agenda::new(&kept, begun);
            kept.extend(agenda.kept().map(|(at, kind)| (kind.name().to_owned(), at)));
            let mut clock = begun;
            while clock < begun + HOUR {
                match agenda.next(clock) {
                    Next::After(wait) => clock += wait,
                    Next::Due(kind) => {
                        let at = agenda.end(kind, true, clock);
                        if kind.is_kept() {
                            kept.insert(kind.name().to_owned(), at);
                            done.push((kind, hour));
                        }
                    }
                }
            }
        }
        let wanted =
            [(Kind::Snapshot, 1), (Kind::Tombstones, 2), (Kind::Snapshot, 25), (Kind::Tombstones, 26)];
        assert_eq!(done, [wanted.as_slice(), &[(Kind::Snapshot, 49)]].concat());
    }

    #[test]
    fn what_was_missed_while_no_hub_ran_comes_at_once_and_longest_waiting_first() {
        let kept = [("tombstones", 3), ("snapshot", 5), ("inbox", 9)];
        let kept = kept.map(|(name, days)| (name.to_owned(), now() - days * DAY)).into();
        let mut agenda = Agenda::new(&kept, now());
        for wanted in [Kind::Snapshot, Kind::Tombstones, Kind::Inbox] {
            assert_eq!(agenda.next(now()), Next::Due(wanted));
            agenda.end(wanted, true, now());
        }
        assert_eq!(agenda.next(now()), Next::After(Duration::from_secs(60)));
    }

    #[test]
    fn a_time_that_a_wrong_clock_wrote_comes_within_the_interval() {
        let kept = [("snapshot".to_owned(), now() + 9_000 * DAY)].into();
        let mut agenda = Agenda::new(&kept, now());
        assert_eq!(due(&agenda, Kind::Snapshot), now() + DAY);
        // The clock is set back while the hub runs.
        agenda.next(now() - 4_000 * DAY);
        assert_eq!(due(&agenda, Kind::Snapshot), now() - 3_999 * DAY);
    }

    #[test]
    fn what_failed_is_tried_again_soon() {
        let mut agenda = Agenda::new(&BTreeMap::new(), now());
        assert_eq!(agenda.end(Kind::Tombstones, false, now()), now() + RETRY);
        assert_eq!(agenda.end(Kind::Tombstones, true, now()), now() + DAY);
    }
}
