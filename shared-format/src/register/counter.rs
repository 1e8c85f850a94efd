//! Counters: what every writer added, as one running sum each.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::{OwnEntries, Written};
use crate::clock::{Hlc, Stamp};
use crate::value::{Value, ValueRef};

/// One writer's running sum, by the stamp of the write that began it; the greater clock stays.
///
/// A writer goes on with a sum only while it knows that the sum is its newest, else it begins another: so a file
/// that lost its metadata, or that came back from a backup, never takes back what it added before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts(pub(super) BTreeMap<Stamp, (Hlc, i64)>);

impl Counts {
    pub(super) fn greatest(&self) -> Option<Stamp> {
        self.stamps().into_iter().max()
    }

    pub(super) fn stamps(&self) -> Vec<Stamp> {
        self.0.iter().map(|(origin, (hlc, _))| Stamp { hlc: *hlc, site: origin.site }).collect()
    }

    pub(super) fn retain(&mut self, keeps: &dyn Fn(Stamp) -> bool) {
        self.0.retain(|origin, (hlc, _)| keeps(Stamp { hlc: *hlc, site: origin.site }));
    }

    pub(super) fn join(&mut self, other: &Self) {
        for (origin, theirs) in &other.0 {
            let ours = self.0.entry(*origin).or_insert(*theirs);
            *ours = (*ours).max(*theirs);
        }
    }

    /// The sum wraps at 64 bits: only a sum that never stops does not depend on the order.
    pub(super) fn total(&self, start: ValueRef<'_>) -> i64 {
        let start = number(start).unwrap_or(0);
        self.0.values().fold(start, |total, (_, delta)| total.wrapping_add(*delta))
    }

    /// Adds the difference between what was there and what a user wrote.
    pub(super) fn write(
        &mut self,
        visible: &Value,
        value: ValueRef<'_>,
        stamp: Stamp,
        own: &mut Option<Stamp>,
    ) -> Written {
        let Some(wanted) = number(value) else { return Written::PutBack };
        let delta = wanted.wrapping_sub(number(visible.as_ref()).unwrap_or(0));
        let origin = own.filter(|origin| self.0.contains_key(origin)).unwrap_or(stamp);
        let held = self.0.entry(origin).or_insert((stamp.hlc, 0));
        *held = (stamp.hlc, held.1.wrapping_add(delta));
        *own = Some(origin);
        Written::Changed
    }

    pub(super) fn restamp(
        &mut self,
        unsent: &dyn Fn(Stamp) -> bool,
        to: &dyn Fn(Stamp) -> Stamp,
        own: &mut OwnEntries,
    ) {
        for (origin, (hlc, delta)) in core::mem::take(&mut self.0) {
            let stamp = Stamp { hlc, site: origin.site };
            if own.origin != Some(origin) || !unsent(stamp) {
                self.0.insert(origin, (hlc, delta));
                continue;
            }
            let later = to(stamp);
            if later.site == origin.site {
                // The sum goes on under its name; only its clock moves.
                self.0.insert(origin, (later.hlc, delta));
                continue;
            }
            if own.sent_hlc != Hlc::ZERO {
                self.0.insert(origin, (own.sent_hlc, own.sent_delta));
            }
            self.0.insert(later, (later.hlc, delta.wrapping_sub(own.sent_delta)));
            *own = OwnEntries { origin: Some(later), seq: own.seq, ..OwnEntries::default() };
        }
    }
}

fn number(value: ValueRef<'_>) -> Option<i64> {
    match value {
        ValueRef::Integer(number) => Some(number),
        _other => None,
    }
}
