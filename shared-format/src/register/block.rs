//! Text by blocks: each block is a register of its own, in which the later write stays.
//!
//! The blocks of the text that a creation carried are not listed: they follow from it. An entry is a block that
//! was rewritten, removed or put in since. No block at all is NULL; an empty text is one empty block.

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::diff::{Edit, diff};
use super::position::Position;
use super::{LostEntry, Written};
use crate::clock::Stamp;
use crate::value::{Value, ValueRef};

/// A block as somebody wrote it; None when it was removed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Block {
    pub(super) stamp: Stamp,
    pub(super) text: Option<String>,
}

/// Blocks that were written since the creation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Blocks(pub(super) BTreeMap<Position, Block>);

/// A text's first form: the stamp of the creation, and what it carried.
type First<'a> = Option<(Stamp, &'a str)>;

impl Blocks {
    pub(super) fn greatest(&self) -> Option<Stamp> {
        self.0.values().map(|block| block.stamp).max()
    }

    pub(super) fn stamps(&self) -> Vec<Stamp> {
        self.0.values().map(|block| block.stamp).collect()
    }

    pub(super) fn retain(&mut self, keeps: &dyn Fn(Stamp) -> bool) {
        self.0.retain(|_, block| keeps(block.stamp));
    }

    pub(super) fn join(&mut self, other: &Self) -> Vec<LostEntry> {
        let mut lost = Vec::new();
        for (position, theirs) in &other.0 {
            match self.0.get_mut(position) {
                Some(ours) if *ours < *theirs => {
                    lost.push(LostEntry {
                        stamp: ours.stamp,
                        value: value_of(ours),
                        won_stamp: theirs.stamp,
                        won_value: value_of(theirs),
                    });
                    ours.clone_from(theirs);
                }
                Some(_later) => {}
                None => drop(self.0.insert(position.clone(), theirs.clone())),
            }
        }
        lost
    }

    /// The blocks that stand, in order.
    fn standing<'a>(&'a self, first: First<'a>, delimiter: &'a str) -> Vec<(Position, &'a str)> {
        let mut blocks: Vec<(Position, &str)> = self
            .0
            .iter()
            .filter_map(|(position, block)| Some((position.clone(), block.text.as_deref()?)))
            .collect();
        if let Some((base, text)) = first {
            let lines = text.split(delimiter).zip(0_u32..);
            let lines = lines.map(|(line, index)| (Position::of_line(base, index), line));
            blocks.extend(lines.filter(|(position, _)| !self.0.contains_key(position)));
            blocks.sort_unstable();
        }
        blocks
    }

    pub(super) fn text(&self, first: First<'_>, delimiter: &str) -> Value {
        let blocks: Vec<&str> = self.standing(first, delimiter).into_iter().map(|(_, text)| text).collect();
        if blocks.is_empty() { Value::Null } else { Value::Text(blocks.join(delimiter)) }
    }

    pub(super) fn write(
        &mut self,
        first: First<'_>,
        value: ValueRef<'_>,
        delimiter: &str,
        stamp: Stamp,
    ) -> Written {
        let new: Vec<&str> = match value {
            ValueRef::Null => Vec::new(),
            ValueRef::Text(text) => text.split(delimiter).collect(),
            _other => return Written::PutBack,
        };
        let written = self.compare(first, &new, delimiter, stamp);
        if written.is_empty() {
            return Written::PutBack;
        }
        for (position, text) in written {
            self.0.insert(position, Block { stamp, text });
        }
        Written::Changed
    }

    /// The blocks that make the new text of the one that stands.
    fn compare(
        &self,
        first: First<'_>,
        new: &[&str],
        delimiter: &str,
        stamp: Stamp,
    ) -> Vec<(Position, Option<String>)> {
        let standing = self.standing(first, delimiter);
        let old: Vec<&str> = standing.iter().map(|(_, text)| *text).collect();
        let edits = diff(&old, new);
        let place = |at: usize| standing.get(at).map(|(position, _)| position);
        let kept = |edit: &Edit| match edit {
            Edit::Both(at, _) => Some(*at),
            Edit::Gone(_) | Edit::Came(_) => None,
        };
        let mut written = Vec::new();
        // Blocks that come together stand between the same neighbours, in the order of their index.
        let mut left: Option<usize> = None;
        let mut index = 0_u32;
        for (nth, edit) in edits.iter().enumerate() {
            match *edit {
                Edit::Both(at, new_at) => {
                    left = Some(at);
                    let text = new.get(new_at).copied().unwrap_or_default();
                    if old.get(at).copied() != Some(text) {
                        written.extend(place(at).map(|place| (place.clone(), Some(text.to_string()))));
                    }
                }
                Edit::Gone(at) => written.extend(place(at).map(|place| (place.clone(), None))),
                Edit::Came(new_at) => {
                    let right = edits.get(nth..).unwrap_or_default().iter().find_map(kept);
                    let (left, right) = (left.and_then(place), right.and_then(place));
                    let text = new.get(new_at).copied().unwrap_or_default().to_string();
                    written.push((Position::between(left, right, stamp, index), Some(text)));
                    index = index.saturating_add(1);
                }
            }
        }
        written
    }

    pub(super) fn restamp(&mut self, unsent: &dyn Fn(Stamp) -> bool, to: &dyn Fn(Stamp) -> Stamp) {
        for (mut position, mut block) in core::mem::take(&mut self.0) {
            for step in &mut position.0 {
                // Under one site the names stay: another order would look like a write.
                let later = to(step.run);
                if unsent(step.run) && later.site != step.run.site {
                    step.run = later;
                }
            }
            if unsent(block.stamp) {
                block.stamp = to(block.stamp);
            }
            self.0.insert(position, block);
        }
    }

    pub(super) fn rebase(&mut self, from: Stamp, to: Stamp) {
        for (mut position, block) in core::mem::take(&mut self.0) {
            position.0.iter_mut().filter(|step| step.run == from).for_each(|step| step.run = to);
            self.0.insert(position, block);
        }
    }
}

fn value_of(block: &Block) -> Value {
    block.text.as_ref().map_or(Value::Null, |text| Value::Text(text.clone()))
}
