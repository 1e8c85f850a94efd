//! Which segments of one epoch there are, and which of them a reader needs next.
//!
//! Segments of two leaders may overlap: both hold the same log, so that any that covers a place will do. What
//! is never done is to go on behind a place that no segment covers.

use std::collections::BTreeSet;

use crate::keys::SegmentName;
use crate::position::{Lsn, Position};

/// The known segments of one epoch.
#[derive(Clone, Debug)]
pub struct SegmentIndex {
    start: Position,
    last: Position,
    names: BTreeSet<SegmentName>,
}

/// What there is for a reader at some place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// This segment goes on from there.
    Segment(SegmentName),
    /// Nothing later is known.
    Nothing,
    /// Later segments are known, but none that goes on from there.
    Gap,
    /// The place lies before the oldest segment that is kept.
    Behind,
}

impl SegmentIndex {
    /// The index of an epoch that has no segments yet.
    #[must_use]
    pub const fn new(start: Position) -> SegmentIndex {
        SegmentIndex { start, last: start, names: BTreeSet::new() }
    }

    /// Adds a segment; says whether it was not known.
    pub fn add(&mut self, name: SegmentName) -> bool {
        self.last = self.last.max(name.last);
        self.names.insert(name)
    }

    /// Adds all segments of another index of the same epoch.
    pub fn add_all(&mut self, other: &SegmentIndex) {
        for name in &other.names {
            self.add(*name);
        }
    }

    /// Takes what a listing shows in place of what was known, but for segments behind its end: those may have been
    /// written since it began.
    pub fn replace(&mut self, listed: &SegmentIndex) {
        self.names.retain(|name| name.last > listed.last);
        self.add_all(listed);
    }

    /// The oldest place from which the log can be read.
    #[must_use]
    pub fn oldest(&self) -> Position {
        self.names.first().map_or(self.start, |name| name.previous)
    }

    /// The greatest position that a segment covers, or the start of the epoch.
    #[must_use]
    pub const fn last(&self) -> Position {
        self.last
    }

    /// The last segment of the chain from the oldest on that has no hole: what is missing comes behind it.
    ///
    /// A directory that is listed while segments are written may show a later one without an earlier.
    #[must_use]
    pub fn unbroken(&self) -> Option<&SegmentName> {
        let mut end = self.names.first()?.previous;
        let mut found = None;
        for name in &self.names {
            if name.previous > end {
                break;
            }
            if name.last > end {
                end = name.last;
                found = Some(name);
            }
        }
        found
    }

    /// Whether no segment is missing between the oldest and the farthest.
    #[must_use]
    pub fn is_unbroken(&self) -> bool {
        self.unbroken().map_or(self.start, |name| name.last) == self.last
    }

    /// The segment that covers the greatest position.
    #[must_use]
    pub fn newest(&self) -> Option<&SegmentName> {
        self.names.iter().rev().find(|name| name.last == self.last)
    }

    /// The segment that a reader at `place` needs next.
    #[must_use]
    pub fn find(&self, place: Position) -> Found {
        if place < self.oldest() {
            return Found::Behind;
        }
        if place >= self.last {
            return Found::Nothing;
        }
        let bound = SegmentName { previous: place, last: Position::after(Lsn::MAX), fence: u64::MAX };
        let covering = self.names.range(..=bound).rev().find(|name| name.last > place);
        covering.map_or(Found::Gap, |name| Found::Segment(*name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(commit_end: u64) -> Position {
        Position::new(Lsn::new(commit_end), Lsn::new(1))
    }

    fn name(previous: u64, last: u64, fence: u64) -> SegmentName {
        SegmentName { previous: at(previous), last: at(last), fence }
    }

    fn check(segments: &[SegmentName], place: u64, wanted: Found) {
        let mut index = SegmentIndex::new(at(10));
        for segment in segments {
            index.add(*segment);
        }
        assert_eq!(index.find(at(place)), wanted, "{place} in {segments:?}");
    }

    #[test]
    fn a_reader_takes_the_segment_that_goes_on_from_its_place() {
        let chain = [name(10, 20, 1), name(20, 30, 1), name(30, 40, 2)];
        check(&chain, 10, Found::Segment(chain[0]));
        check(&chain, 15, Found::Segment(chain[0]));
        check(&chain, 20, Found::Segment(chain[1]));
        check(&chain, 39, Found::Segment(chain[2]));
        check(&chain, 40, Found::Nothing);
        check(&chain, 99, Found::Nothing);
    }

    #[test]
    fn a_missing_link_is_a_gap_and_never_a_skip() {
        check(&[name(10, 20, 1), name(30, 40, 1)], 20, Found::Gap);
        check(&[name(10, 20, 1), name(30, 40, 1)], 25, Found::Gap);
        check(&[name(10, 20, 1), name(30, 40, 1)], 30, Found::Segment(name(30, 40, 1)));
    }

    #[test]
    fn a_place_before_the_oldest_segment_needs_a_snapshot() {
        check(&[name(20, 30, 1)], 19, Found::Behind);
        check(&[], 9, Found::Behind);
        check(&[], 10, Found::Nothing);
    }

    #[test]
    fn segments_of_two_leaders_may_overlap() {
        let both = [name(10, 50, 1), name(10, 20, 2), name(20, 30, 2), name(30, 60, 2)];
        check(&both, 20, Found::Segment(both[2]));
        check(&both, 55, Found::Segment(both[3]));
        let late = [name(10, 50, 1), name(10, 20, 2), name(20, 30, 2)];
        check(&late, 30, Found::Segment(late[0]));
    }

    #[test]
    fn the_end_of_the_log_is_its_farthest_segment() {
        let mut index = SegmentIndex::new(at(10));
        assert_eq!((index.last(), index.newest()), (at(10), None));
        assert!(index.add(name(10, 50, 1)));
        assert!(index.add(name(20, 30, 2)));
        assert!(!index.add(name(20, 30, 2)));
        assert_eq!((index.last(), index.newest()), (at(50), Some(&name(10, 50, 1))));
    }

    #[test]
    fn a_new_listing_forgets_what_is_gone_but_nothing_that_was_written_since() {
        let mut index = SegmentIndex::new(at(10));
        for segment in [name(10, 20, 1), name(20, 30, 1), name(30, 40, 1), name(40, 50, 1), name(50, 60, 1)] {
            index.add(segment);
        }
        let mut listed = SegmentIndex::new(at(10));
        listed.add(name(20, 40, 1));
        listed.add(name(40, 50, 1));
        index.replace(&listed);
        assert_eq!((index.oldest(), index.last(), index.names.len()), (at(20), at(60), 3));
        assert_eq!(index.find(at(20)), Found::Segment(name(20, 40, 1)));
        assert_eq!(index.find(at(50)), Found::Segment(name(50, 60, 1)));
        assert_eq!(index.find(at(10)), Found::Behind);
    }

    #[test]
    fn what_is_missing_is_looked_for_behind_the_unbroken_chain() {
        let mut index = SegmentIndex::new(at(10));
        assert!(index.is_unbroken());
        assert_eq!(index.unbroken(), None);
        for segment in [name(10, 20, 1), name(10, 15, 2), name(15, 30, 2), name(40, 50, 2)] {
            index.add(segment);
        }
        assert!(!index.is_unbroken());
        assert_eq!(index.unbroken(), Some(&name(15, 30, 2)));
        index.add(name(30, 40, 2));
        assert!(index.is_unbroken());
        assert_eq!(index.unbroken(), Some(&name(40, 50, 2)));
    }
}
