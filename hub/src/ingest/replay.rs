//! Brings back what Postgres lacks: the segments of an epoch that ends are merged into it again.
//!
//! Merging twice changes nothing, so more than is missing may be merged, and again after a failure. One segment is
//! held at a time and one of its frames merged in a statement; after each segment the store has how far it went, and
//! whoever leads next goes on from there, as long as the server is the one that was merged into. Rows that Postgres
//! refuses are counted and left: one of them must not keep the others out for good.

use shared_format::payload::{Limits, decode_frame};

use super::Ingest;
use super::control::Control;
use crate::epoch::Epoch;
use crate::error::{Error, Result};
use crate::ground::Replay;
use crate::keys::SegmentName;
use crate::position::Position;
use crate::segment::{Found, SegmentIndex};

/// What has to be merged again, and into which server.
#[derive(Clone, Debug)]
pub(super) struct Replaying {
    pub(super) what: Replay,
    /// When the server was started: one that was started since may lack again what was merged.
    pub(super) started: String,
}

impl Replaying {
    /// What is noted of a place up to which all is merged.
    fn mark(&self, place: Position) -> String {
        format!("{}{}", self.head(), place.to_hex())
    }

    /// The place of a mark, if it was made for the same work.
    fn place(&self, mark: &str) -> Option<Position> {
        mark.strip_prefix(&self.head()).and_then(Position::from_hex)
    }

    fn head(&self) -> String {
        let what = match self.what {
            Replay::Nothing => "nothing".to_owned(),
            Replay::Behind(fork) => format!("behind {fork}"),
            Replay::All => "all".to_owned(),
        };
        format!("{what}, server of {}: ", self.started)
    }
}

/// What was merged again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Replayed {
    pub(super) frames: u64,
    /// Rows that Postgres did not have like this.
    pub(super) changed: i64,
    /// Rows that Postgres refused.
    pub(super) refused: i64,
}

impl Replayed {
    fn add(&mut self, more: Replayed) {
        self.frames = self.frames.saturating_add(more.frames);
        self.changed = self.changed.saturating_add(more.changed);
        self.refused = self.refused.saturating_add(more.refused);
    }
}

impl Ingest {
    /// Merges what has to be brought back.
    pub(super) async fn replay(
        &self,
        control: &Control,
        epoch: &Epoch,
        index: &SegmentIndex,
        replaying: &Replaying,
    ) -> Result<Replayed> {
        let mut replayed = Replayed::default();
        let from = match replaying.what {
            Replay::Nothing => return Ok(replayed),
            Replay::Behind(fork) => Position::after(fork),
            Replay::All => epoch.start_position(),
        };
        let mark = self.archive.replayed(epoch.id).await?;
        let gone_on = mark.and_then(|mark| replaying.place(&mark));
        if let Some(place) = gone_on {
            let database = self.database.as_str();
            tracing::info!(database, %place, "stored changes are merged on from where that was left");
        } else if replaying.what == Replay::All {
            // On another timeline Postgres notices by itself that sites may be ahead of it.
            control.begin_generation().await?;
        }
        // What has expired was read from a snapshot by whoever needed it, and is older than what a server loses.
        let mut place = gone_on.unwrap_or(from).max(index.oldest());
        while let Some(name) = next_segment(index, place)? {
            replayed.add(self.replay_segment(control, epoch, name, place).await?);
            place = name.last;
            self.archive.put_replayed(epoch.id, replaying.mark(place)).await?;
        }
        Ok(replayed)
    }

    /// Merges the frames of a segment that end behind a place.
    async fn replay_segment(
        &self,
        control: &Control,
        epoch: &Epoch,
        name: SegmentName,
        behind: Position,
    ) -> Result<Replayed> {
        let segment = self.archive.segment(epoch.id.number(), name).await?;
        let segment = segment.ok_or(Error::LogGap { after: name.previous })?;
        let mut replayed = Replayed::default();
        for (position, frame) in segment.row_frames()?.into_iter().filter(|(last, _)| *last > behind) {
            let (payload, _length) = decode_frame(&frame, &Limits::default())?;
            let (changed, refused) = match control.replay(&payload).await {
                Ok(merged) => merged,
                Err(error) if error.mends_by_itself() => return Err(error),
                Err(error) => {
                    let database = self.database.as_str();
                    let problem = error.logged();
                    tracing::warn!(database, %position, problem, "changes of one frame cannot be brought back");
                    (0, 1)
                }
            };
            replayed.add(Replayed { frames: 1, changed, refused });
        }
        self.metrics.count_replayed(replayed.changed, replayed.refused);
        Ok(replayed)
    }
}

/// The segment that goes on from a place.
fn next_segment(index: &SegmentIndex, place: Position) -> Result<Option<SegmentName>> {
    match index.find(place) {
        Found::Segment(name) => Ok(Some(name)),
        Found::Nothing => Ok(None),
        Found::Behind | Found::Gap => Err(Error::LogGap { after: place }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::Lsn;

    fn replaying(what: Replay, started: &str) -> Replaying {
        Replaying { what, started: started.to_owned() }
    }

    #[test]
    fn a_mark_counts_only_for_the_same_work_on_the_same_server() {
        let place = Position::new(Lsn::new(90), Lsn::new(80));
        let behind = replaying(Replay::Behind(Lsn::new(7)), "5.25");
        let mark = behind.mark(place);
        assert_eq!(behind.place(&mark), Some(place));
        for other in [
            replaying(Replay::Behind(Lsn::new(8)), "5.25"),
            replaying(Replay::Behind(Lsn::new(7)), "6.5"),
            replaying(Replay::All, "5.25"),
        ] {
            assert_eq!(other.place(&mark), None, "{other:?}");
        }
        assert_eq!(behind.place(&format!("{mark}0")), None);
    }
}
