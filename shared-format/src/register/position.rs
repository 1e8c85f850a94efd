//! Places of text blocks: between any two there is room, and no two writers ever make the same one.
//!
//! A position is a path. Blocks that one write puts between two others share a place and stand in the order of
//! their index, so two runs that were written at one place do not mix.

use alloc::vec;
use alloc::vec::Vec;

use crate::clock::Stamp;

/// First word of the first line of a row's first text; lines follow in steps of [`LINE_STEP`].
const FIRST_LINE: u32 = 0x8000_0001;

/// Room between two lines of a first text.
const LINE_STEP: u32 = 0x100;

/// How far a block is put from its neighbour where there is room: leaves as many again on either side.
const STEP: u64 = 0x1_0000;

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Step {
    /// Where, as a fraction in words; its last word is odd, so that there is room below it.
    pub(super) place: Vec<u32>,
    /// The write that made the block.
    pub(super) run: Stamp,
    /// Which block of that write.
    pub(super) index: u32,
}

/// Where a block stands, and its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position(pub(super) Vec<Step>);

impl Position {
    /// Line `index` of the text that the creation of a row carried.
    pub(super) fn of_line(base: Stamp, index: u32) -> Self {
        let word = FIRST_LINE.saturating_add(index.saturating_mul(LINE_STEP));
        Self(vec![Step { place: vec![word], run: base, index }])
    }

    /// A place after `left` and before `right`, for block `index` of the write `run`.
    pub(super) fn between(left: Option<&Self>, right: Option<&Self>, run: Stamp, index: u32) -> Self {
        let right = right.map(|right| right.0.as_slice());
        let first = right.and_then(|right| right.first()).map(|step| step.place.as_slice());
        let Some((last, parents)) = left.and_then(|left| left.0.split_last()) else {
            return Self(vec![Step { place: place_between(&[], first), run, index }]);
        };
        let beside = right.and_then(|right| right.strip_prefix(parents)).and_then(<[Step]>::split_first);
        let (mut path, place) = match beside {
            Some((step, below)) if step == last => {
                let high = below.first().map(|step| step.place.as_slice());
                (child_of(parents, last), place_between(&[], high))
            }
            Some((step, _)) if step.place == last.place => {
                (child_of(parents, last), place_between(&[], None))
            }
            Some((step, _)) => (parents.to_vec(), place_between(&last.place, Some(&step.place))),
            None => (parents.to_vec(), place_between(&last.place, None)),
        };
        path.push(Step { place, run, index });
        Self(path)
    }
}

fn child_of(parents: &[Step], last: &Step) -> Vec<Step> {
    let mut path = parents.to_vec();
    path.push(last.clone());
    path
}

/// A fraction above `low` and below `high`; words that came from outside in the wrong order still end.
fn place_between(low: &[u32], high: Option<&[u32]>) -> Vec<u32> {
    let mut out = Vec::new();
    let mut bound = high;
    let mut at = 0_usize;
    loop {
        let word = low.get(at).copied();
        let top = match bound {
            Some(high) => high.get(at).map_or(0, |word| u64::from(*word)),
            None => 1 << 32,
        };
        let from = word.map_or(0, u64::from);
        let step = STEP.min(top.saturating_sub(from) >> 1);
        let wanted = match (word, bound) {
            (Some(_), _) => from.saturating_add(step),
            (None, Some(_)) => top.saturating_sub(step),
            (None, None) => 1 << 31,
        } | 1;
        if let Some(fits) = u32::try_from(wanted).ok().filter(|_| from < wanted && wanted < top) {
            out.push(fits);
            return out;
        }
        out.push(word.unwrap_or(0));
        at = at.saturating_add(1);
        let is_spent = at >= low.len() && bound.is_none_or(|high| at >= high.len());
        if from < top || is_spent {
            bound = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Hlc, SiteId};

    fn stamp(hlc: u64) -> Stamp {
        Stamp { hlc: Hlc::from_raw(hlc), site: SiteId::from_bytes([7; 16]) }
    }

    /// Puts 2,000 blocks where `choose` says and returns the longest path in words.
    fn check(choose: impl Fn(usize, usize) -> usize) -> usize {
        let mut all: Vec<Position> = (0..3).map(|line| Position::of_line(stamp(1), line)).collect();
        for round in 0..2_000 {
            let at = choose(round, all.len());
            let left = at.checked_sub(1).and_then(|at| all.get(at));
            let new = Position::between(left, all.get(at), stamp(u64::try_from(round).unwrap() + 2), 0);
            all.insert(at, new);
        }
        assert!(all.is_sorted_by(|a, b| a < b));
        all.iter().map(|one| one.0.iter().map(|step| step.place.len()).sum()).max().unwrap_or(0)
    }

    #[test]
    fn there_is_room_between_any_two_blocks() {
        assert_eq!(check(|_, len| len), 1, "at the end");
        assert_eq!(check(|_, _| 0), 1, "at the beginning");
        assert!(check(|_, _| 1) <= 3, "always before the newest");
        assert!(check(|round, _| 2 + round) <= 3, "always behind the newest");
        assert!(check(|round, len| (round * 7919) % (len + 1)) <= 40, "anywhere");
    }

    #[test]
    fn runs_written_at_one_place_do_not_mix() {
        let (left, right) = (Position::of_line(stamp(1), 0), Position::of_line(stamp(1), 1));
        let run = |hlc: u64| (0..3).map(move |index| (hlc, index));
        let mut all: Vec<(Position, u64)> = run(5)
            .chain(run(9))
            .map(|(hlc, index)| (Position::between(Some(&left), Some(&right), stamp(hlc), index), hlc))
            .collect();
        all.sort();
        assert_eq!(all.iter().map(|(_, hlc)| *hlc).collect::<Vec<_>>(), vec![5, 5, 5, 9, 9, 9]);
        let inside = Position::between(Some(&all[0].0), Some(&all[1].0), stamp(11), 0);
        assert!(all[0].0 < inside && inside < all[1].0);
        let between_runs = Position::between(Some(&all[2].0), Some(&all[3].0), stamp(12), 0);
        assert!(all[2].0 < between_runs && between_runs < all[3].0);
    }

    #[test]
    fn places_in_the_wrong_order_still_end() {
        place_between(&[9, 9], Some(&[3]));
        place_between(&[0, 0], Some(&[0, 0]));
    }
}
