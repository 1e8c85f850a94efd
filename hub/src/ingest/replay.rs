//! Brings back what Postgres lacks: the segments of an epoch that ends are merged into it again.
//!
//! Merging twice changes nothing, so more than is missing may be merged, and again after a failure. Rows that
//! Postgres refuses are counted and left: one of them must not keep the others out for good.

use shared_format::payload::{Limits, decode_frame};

use super::Ingest;
use super::control::Control;
use crate::epoch::Epoch;
use crate::error::{Error, Result};
use crate::ground::Replay;
use crate::keys::SegmentName;
use crate::position::Position;
use crate::segment::{Found, SegmentIndex};

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
        what: Replay,
    ) -> Result<Replayed> {
        let mut replayed = Replayed::default();
        let from = match what {
            Replay::Nothing => return Ok(replayed),
            Replay::Behind(fork) => Position::after(fork),
            Replay::All => {
                // On another timeline Postgres notices by itself that sites may be ahead of it.
                control.begin_generation().await?;
                epoch.start_position()
            }
        };
        // What has expired was read from a snapshot by whoever needed it, and is older than what a server loses.
        let mut place = from.max(index.oldest());
        while let Some(name) = next_segment(index, place)? {
            replayed.add(self.replay_segment(control, epoch, name, place).await?);
            place = name.last;
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
