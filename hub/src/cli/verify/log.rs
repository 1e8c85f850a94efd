//! What the log says behind a snapshot, up to the place that a view of the database stands for.

use std::collections::{BTreeSet, HashMap};

use shared_format::encode_key;
use shared_format::payload::{Changes, Limits, Payload, decode_frame};

use super::rows::{Digested, Source};
use crate::epoch::Epoch;
use crate::error::{Error, Result};
use crate::ingest::archive::Archive;
use crate::keys::SegmentName;
use crate::position::{Lsn, Position};
use crate::segment::{Found, SegmentIndex};

/// What names a row within its table: the incarnation of the table, and the row's key.
pub(super) type RowName = (u64, Vec<u8>);

/// What the log says.
#[derive(Default)]
pub(super) struct Written {
    tables: HashMap<u32, Vec<(RowName, Digested, Source)>>,
    /// Tables that clients take anew from a later snapshot.
    reloaded: BTreeSet<u32>,
}

impl Written {
    /// Reads what the log says between two places.
    pub(super) async fn read(
        archive: &Archive,
        epoch: &Epoch,
        index: &SegmentIndex,
        (from, up_to): (Lsn, Lsn),
    ) -> Result<Written> {
        let mut written = Written::default();
        let mut place = Position::after(from);
        while let Some(name) = next_segment(index, place)? {
            let segment = archive.segment(epoch.id.number(), name).await?;
            let segment = segment.ok_or(Error::LogGap { after: name.previous })?;
            // A frame may end behind the place and have begun before it.
            let mut before = name.previous.commit_end;
            for (last, frame) in segment.row_frames()? {
                let source = if last.commit_end <= up_to { Source::Log } else { Source::Passing };
                if last.commit_end > from && (source == Source::Log || before < up_to) {
                    written.add(&frame, source)?;
                }
                before = last.commit_end.min(up_to).max(before);
            }
            place = name.last;
            if place.commit_end > up_to {
                break;
            }
        }
        Ok(written)
    }

    /// The changes of a table.
    pub(super) fn of(&self, table: u32) -> &[(RowName, Digested, Source)] {
        self.tables.get(&table).map_or(&[], Vec::as_slice)
    }

    /// Whether clients take the table anew from a later snapshot.
    pub(super) fn is_reloaded(&self, table: u32) -> bool {
        self.reloaded.contains(&table)
    }

    fn add(&mut self, frame: &[u8], source: Source) -> Result<()> {
        let (payload, _length) = decode_frame(frame, &Limits::default())?;
        let payload = Payload::parse(&payload)?;
        self.reloaded.extend(payload.reloads().iter().map(|reload| reload.table));
        for changes in payload.changes() {
            let rows = self.tables.entry(changes.table()).or_default();
            each_row(&changes, |name, row| rows.push((name, row, source)))?;
        }
        Ok(())
    }
}

/// Up to where the store holds all that was committed: of a transaction that it has in part it has nothing yet.
pub(super) async fn stored_up_to(archive: &Archive, epoch: &Epoch, index: &SegmentIndex) -> Result<Lsn> {
    let idle = archive.idle_up_to(epoch.id.number()).await?;
    let Some(name) = index.newest() else { return Ok(idle.max(epoch.start)) };
    let segment = archive.segment(epoch.id.number(), *name).await?;
    let segment = segment.ok_or(Error::LogGap { after: name.previous })?;
    let end = name.last.commit_end;
    Ok(idle.max(if segment.transaction_end { end } else { end.before() }))
}

fn next_segment(index: &SegmentIndex, place: Position) -> Result<Option<SegmentName>> {
    match index.find(place) {
        Found::Segment(name) => Ok(Some(name)),
        Found::Nothing => Ok(None),
        Found::Behind | Found::Gap => Err(Error::LogGap { after: place }),
    }
}

/// Gives each row of some changes.
pub(super) fn each_row(changes: &Changes<'_>, mut give: impl FnMut(RowName, Digested)) -> Result<()> {
    let columns = changes.columns();
    let mut rows = changes.rows();
    while let Some(row) = rows.next_row()? {
        give((changes.incarnation(), encode_key(row.key.iter().copied())), Digested::of(row, &columns));
    }
    Ok(())
}
