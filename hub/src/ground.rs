//! The ground that a leader stands on: whether server, slot and store still belong together, and what follows
//! when they do not.
//!
//! Invariant: a log goes on only where nothing can be missing or be another's. Whatever else is found ends the
//! epoch, with a cause that says what has to be brought back; only a server that was never ours is left to an
//! operator. The rules are pure; ingest asks them at every connect, before anything is skipped.

use std::fmt;

use crate::epoch::{Epoch, EpochReason, ServerIdentity};
use crate::error::Result;
use crate::lineage::Fork;
use crate::position::Lsn;

/// The output plugin that a slot of ours uses.
pub const PLUGIN: &str = "pg_sync";

/// What Postgres says about our slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its output plugin.
    pub plugin: String,
    /// Up to where it never sends again.
    pub confirmed: Lsn,
    /// Postgres removed WAL that the slot needs.
    pub lost: bool,
}

/// What a leader finds in Postgres.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Who the server is.
    pub server: ServerIdentity,
    /// How far its WAL is flushed.
    pub flushed: Lsn,
    /// The slot of our name.
    pub slot: Option<Slot>,
    /// An operator restored the database on purpose since the newest epoch was opened.
    pub is_restored: bool,
}

/// What the store holds.
#[derive(Clone, Copy, Debug)]
pub struct Kept<'a> {
    /// The newest epoch.
    pub epoch: &'a Epoch,
    /// Where its log ends.
    pub stored: Lsn,
    /// Decoding fails again and again at one place.
    pub is_stuck: bool,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing is stored yet: open the first epoch where a new slot begins.
    First,
    /// The slot is there, but the hub died before it opened an epoch: open the first where the slot stands.
    FirstAt(Lsn),
    /// Go on.
    Continue,
    /// Make a new slot, and open an epoch where it begins.
    NewEpoch(Cause),
}

/// Why an epoch ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The slot is gone.
    SlotMissing,
    /// Postgres removed WAL that the slot had not sent.
    SlotLost,
    /// The slot uses another plugin, or stands behind the end of the store: somebody else made or moved it.
    SlotForeign,
    /// Decoding fails again and again at one place.
    Stuck,
    /// The server's log parted from the epoch's at this place.
    Failover {
        /// Up to where both have the same log.
        fork: Lsn,
    },
    /// The server has less WAL than the store: an older state of it came back on the same timeline.
    RanBack,
    /// An operator set the database back on purpose.
    Restored,
}

/// What has to be brought back into Postgres before the new epoch opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// Nothing.
    Nothing,
    /// All that is stored behind this place.
    Behind(Lsn),
    /// All of the epoch: nobody knows where it was cut off.
    All,
}

impl Cause {
    /// The label of the metric.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Cause::SlotMissing => "slot_missing",
            Cause::SlotLost => "slot_lost",
            Cause::SlotForeign => "slot_foreign",
            Cause::Stuck => "stuck",
            Cause::Failover { .. } => "failover",
            Cause::RanBack => "ran_back",
            Cause::Restored => "restored",
        }
    }

    /// Every label.
    pub const LABELS: [&'static str; 7] =
        ["slot_missing", "slot_lost", "slot_foreign", "stuck", "failover", "ran_back", "restored"];

    /// What the epoch object says.
    #[must_use]
    pub const fn reason(self) -> EpochReason {
        match self {
            Cause::SlotMissing | Cause::SlotLost | Cause::SlotForeign | Cause::Stuck => EpochReason::Slot,
            Cause::Failover { .. } | Cause::RanBack => EpochReason::Failover,
            Cause::Restored => EpochReason::Restore,
        }
    }

    /// What has to be brought back, to a server that may have been started again since the log was followed.
    #[must_use]
    pub const fn replay(self, is_restarted: bool) -> Replay {
        match self {
            Cause::Failover { fork } => Replay::Behind(fork),
            Cause::RanBack => Replay::All,
            // A base backup holds no slots: a server that was started without ours may be an older state of itself,
            // also where its WAL has grown beyond the store since.
            Cause::SlotMissing | Cause::SlotForeign if is_restarted => Replay::All,
            Cause::SlotMissing | Cause::SlotForeign => Replay::Nothing,
            Cause::SlotLost | Cause::Stuck | Cause::Restored => Replay::Nothing,
        }
    }
}

/// In words for the log.
impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::SlotMissing => write!(f, "the slot is gone"),
            Cause::SlotLost => write!(f, "postgres removed WAL that the slot had not sent"),
            Cause::SlotForeign => write!(f, "the slot was made or moved by somebody else"),
            Cause::Stuck => write!(f, "decoding fails again and again at one place"),
            Cause::Failover { fork } => write!(f, "another server leads the timeline since {fork}"),
            Cause::RanBack => write!(f, "the server has less WAL than the store"),
            Cause::Restored => write!(f, "the database was restored on purpose"),
        }
    }
}

/// Decides how to go on with a server.
pub fn judge(kept: Option<Kept<'_>>, found: &Found) -> Result<Step> {
    let Some(Kept { epoch, stored, is_stuck }) = kept else {
        let usable = found.slot.as_ref().filter(|slot| slot.plugin == PLUGIN && !slot.lost);
        return Ok(usable.map_or(Step::First, |slot| Step::FirstAt(slot.confirmed)));
    };
    if found.is_restored {
        return Ok(Step::NewEpoch(Cause::Restored));
    }
    if let Fork::At(fork) = epoch.fork_of(&found.server)? {
        return Ok(Step::NewEpoch(Cause::Failover { fork }));
    }
    let cause = match &found.slot {
        _any if found.flushed < stored => Cause::RanBack,
        None => Cause::SlotMissing,
        Some(slot) if slot.plugin != PLUGIN => Cause::SlotForeign,
        Some(slot) if slot.lost => Cause::SlotLost,
        Some(slot) if slot.confirmed > stored => Cause::SlotForeign,
        Some(_) if is_stuck => Cause::Stuck,
        Some(_) => return Ok(Step::Continue),
    };
    Ok(Step::NewEpoch(cause))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::epoch::EpochId;
    use crate::error::Error;
    use crate::lineage::{Ended, Lineage};

    fn server(lineage: Lineage) -> ServerIdentity {
        ServerIdentity { system: "7412".to_owned(), lineage, database_oid: 5 }
    }

    fn epoch() -> Epoch {
        Epoch {
            id: EpochId::new(1, 7),
            server: server(Lineage::first(1)),
            start: Lsn::new(1),
            definitions: Vec::new(),
            reason: EpochReason::First,
            restored: String::new(),
        }
    }

    fn slot(confirmed: u64) -> Option<Slot> {
        Some(Slot { plugin: PLUGIN.to_owned(), confirmed: Lsn::new(confirmed), lost: false })
    }

    /// A server whose WAL ends at 100; the store ends at 50.
    fn found(slot: Option<Slot>) -> Found {
        Found { server: server(Lineage::first(1)), flushed: Lsn::new(100), slot, is_restored: false }
    }

    fn step(found: &Found) -> Result<Step> {
        let epoch = epoch();
        judge(Some(Kept { epoch: &epoch, stored: Lsn::new(50), is_stuck: false }), found)
    }

    fn check(found: &Found, wanted: Cause) {
        assert_eq!(step(found).unwrap(), Step::NewEpoch(wanted), "{found:?}");
    }

    #[test]
    fn a_slot_goes_on_only_where_the_store_ends() {
        assert_eq!(step(&found(slot(50))).unwrap(), Step::Continue);
        assert_eq!(step(&found(slot(49))).unwrap(), Step::Continue);
        check(&found(slot(51)), Cause::SlotForeign);
        check(&found(None), Cause::SlotMissing);
        let of_other_plugin = slot(50).map(|slot| Slot { plugin: "test_decoding".to_owned(), ..slot });
        check(&found(of_other_plugin), Cause::SlotForeign);
        check(&found(slot(50).map(|slot| Slot { lost: true, ..slot })), Cause::SlotLost);
    }

    #[test]
    fn an_empty_store_takes_a_slot_that_was_just_made_and_no_other() {
        assert_eq!(judge(None, &found(None)).unwrap(), Step::First);
        assert_eq!(judge(None, &found(slot(7))).unwrap(), Step::FirstAt(Lsn::new(7)));
        let lost = slot(7).map(|slot| Slot { lost: true, ..slot });
        assert_eq!(judge(None, &found(lost)).unwrap(), Step::First);
    }

    #[test]
    fn a_server_with_less_wal_than_the_store_is_an_older_state() {
        check(&Found { flushed: Lsn::new(49), ..found(slot(40)) }, Cause::RanBack);
        check(&Found { flushed: Lsn::new(49), ..found(None) }, Cause::RanBack);
    }

    #[test]
    fn a_promoted_standby_is_a_failover_whatever_its_slots_are() {
        let promoted = server(Lineage::new(vec![Ended { timeline: 1, end: 40 }], 2));
        for slot in [None, slot(45), slot(90)] {
            let found = Found { server: promoted.clone(), ..found(slot) };
            check(&found, Cause::Failover { fork: Lsn::new(40) });
        }
    }

    #[test]
    fn a_server_that_was_never_ours_waits_for_an_operator() {
        let other = ServerIdentity { system: "9".to_owned(), ..server(Lineage::first(1)) };
        let found = Found { server: other, ..found(None) };
        assert!(matches!(step(&found), Err(Error::EpochMismatch { what: "system identifier", .. })));
        check(&Found { is_restored: true, ..found }, Cause::Restored);
    }

    #[test]
    fn an_error_that_repeats_ends_the_epoch() {
        let epoch = epoch();
        let kept = Kept { epoch: &epoch, stored: Lsn::new(50), is_stuck: true };
        assert_eq!(judge(Some(kept), &found(slot(50))).unwrap(), Step::NewEpoch(Cause::Stuck));
    }

    #[test]
    fn a_slot_that_is_missing_after_a_start_may_mean_an_older_state() {
        for (cause, is_restarted, wanted) in [
            (Cause::SlotMissing, false, Replay::Nothing),
            (Cause::SlotMissing, true, Replay::All),
            (Cause::SlotForeign, true, Replay::All),
            (Cause::SlotLost, true, Replay::Nothing),
            (Cause::RanBack, false, Replay::All),
            (Cause::Restored, true, Replay::Nothing),
            (Cause::Failover { fork: Lsn::new(7) }, true, Replay::Behind(Lsn::new(7))),
        ] {
            assert_eq!(cause.replay(is_restarted), wanted, "{cause} {is_restarted}");
        }
    }

    #[test]
    fn every_cause_has_a_label_that_the_metrics_know() {
        for cause in [
            Cause::SlotMissing,
            Cause::SlotLost,
            Cause::SlotForeign,
            Cause::Stuck,
            Cause::Failover { fork: Lsn::ZERO },
            Cause::RanBack,
            Cause::Restored,
        ] {
            assert!(Cause::LABELS.contains(&cause.label()), "{cause}");
        }
    }
}
