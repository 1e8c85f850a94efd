//! Timelines: the line of histories that a server's log comes from, and where two servers part.
//!
//! Each promotion of a standby, and each recovery to a point in time, begins a timeline. A server keeps the list of
//! those it comes from with the LSN at which each ended for it; by that list it is known what two servers share.

use serde::{Deserialize, Serialize};

use crate::position::Lsn;

/// The timelines of one server, from the first to the one that it writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lineage {
    ended: Vec<Ended>,
    current: u32,
}

/// A timeline that a server comes from, and where it left it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// The timeline.
    pub timeline: u32,
    /// The raw LSN of its end.
    pub end: u64,
}

/// How a server's log relates to an older one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fork {
    /// It is the same log.
    Same,
    /// Both have the same log up to here; the server then wrote another.
    At(Lsn),
    /// The server stayed on a timeline that the older log had left.
    Behind,
    /// They share nothing.
    Unrelated,
}

impl Lineage {
    /// A server that was never promoted.
    #[must_use]
    pub const fn first(timeline: u32) -> Lineage {
        Lineage { ended: Vec::new(), current: timeline }
    }

    /// A server with a past.
    #[must_use]
    pub const fn new(ended: Vec<Ended>, current: u32) -> Lineage {
        Lineage { ended, current }
    }

    /// Reads a timeline history file: lines of a timeline, the LSN of its end and a reason.
    #[must_use]
    pub fn parse(current: u32, history: &str) -> Option<Lineage> {
        let lines = history.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let ended = lines.map(|line| {
            let mut words = line.split_whitespace();
            let timeline = words.next()?.parse().ok()?;
            let end: Lsn = words.next()?.parse().ok()?;
            Some(Ended { timeline, end: end.raw() })
        });
        Some(Lineage { ended: ended.collect::<Option<_>>()?, current })
    }

    /// The timeline that the server writes.
    #[must_use]
    pub const fn current(&self) -> u32 {
        self.current
    }

    /// The timelines that it left.
    #[must_use]
    pub fn ended(&self) -> &[Ended] {
        &self.ended
    }

    /// How this server's log relates to the one that an epoch came from.
    #[must_use]
    pub fn fork_from(&self, older: &Lineage) -> Fork {
        let mut shared = None;
        let mut theirs = older.spans();
        for ours in self.spans() {
            let Some(their) = theirs.next().filter(|their| their.timeline == ours.timeline) else { break };
            if their != ours {
                if ours.end == u64::MAX {
                    return Fork::Behind;
                }
                return Fork::At(Lsn::new(ours.end.min(their.end)));
            }
            if ours.end == u64::MAX {
                return Fork::Same;
            }
            shared = Some(Lsn::new(ours.end));
        }
        shared.map_or(Fork::Unrelated, Fork::At)
    }

    /// All timelines; the current one has no end.
    fn spans(&self) -> impl Iterator<Item = Ended> + '_ {
        let current = Ended { timeline: self.current, end: u64::MAX };
        self.ended.iter().copied().chain([current])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lineage(ended: &[(u32, u64)], current: u32) -> Lineage {
        let ended = ended.iter().map(|(timeline, end)| Ended { timeline: *timeline, end: *end });
        Lineage::new(ended.collect(), current)
    }

    fn check(ours: &Lineage, older: &Lineage, wanted: Fork) {
        assert_eq!(ours.fork_from(older), wanted, "{ours:?} from {older:?}");
    }

    #[test]
    fn a_history_file_is_read() {
        let text = "1\t0/3000148\tno recovery target specified\n\n# comment\n2\t1/A0\tbefore 2026-11-22\n";
        assert_eq!(Lineage::parse(3, text), Some(lineage(&[(1, 0x300_0148), (2, 0x1_0000_00A0)], 3)));
        assert_eq!(Lineage::parse(1, ""), Some(Lineage::first(1)));
        for text in ["1", "x 0/1", "1 0-1"] {
            assert_eq!(Lineage::parse(2, text), None, "{text}");
        }
    }

    #[test]
    fn a_promoted_standby_parts_where_the_old_timeline_ended_for_it() {
        check(&lineage(&[(1, 10)], 2), &Lineage::first(1), Fork::At(Lsn::new(10)));
        check(&lineage(&[(1, 10), (2, 20)], 3), &Lineage::first(1), Fork::At(Lsn::new(10)));
        check(&lineage(&[(1, 10), (2, 20)], 3), &lineage(&[(1, 10)], 2), Fork::At(Lsn::new(20)));
    }

    #[test]
    fn two_promoted_standbys_part_where_the_first_of_them_did() {
        check(&lineage(&[(1, 15)], 2), &lineage(&[(1, 10)], 2), Fork::At(Lsn::new(10)));
        check(&lineage(&[(1, 5)], 2), &lineage(&[(1, 10)], 2), Fork::At(Lsn::new(5)));
        check(&lineage(&[(1, 10)], 3), &lineage(&[(1, 10)], 2), Fork::At(Lsn::new(10)));
        check(&lineage(&[(1, 10), (2, 30)], 3), &lineage(&[(1, 15)], 2), Fork::At(Lsn::new(10)));
    }

    #[test]
    fn an_old_primary_is_behind() {
        check(&Lineage::first(1), &lineage(&[(1, 10)], 2), Fork::Behind);
        check(&lineage(&[(1, 10)], 2), &lineage(&[(1, 10), (2, 20)], 3), Fork::Behind);
    }

    #[test]
    fn the_same_log_is_the_same_and_another_is_unrelated() {
        check(&lineage(&[(1, 10)], 2), &lineage(&[(1, 10)], 2), Fork::Same);
        check(&Lineage::first(4), &Lineage::first(1), Fork::Unrelated);
    }
}
