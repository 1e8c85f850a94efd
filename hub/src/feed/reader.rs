//! Reads the log from a client's place on: segments from the store, then the tail.

use std::sync::Arc;

use super::cache::{Kept, ReadSegment};
use super::log::{Log, Step};
use super::tail::LogRead;
use crate::audience::Readership;
use crate::epoch::EpochId;
use crate::error::{Error, Result};
use crate::ingest::archive::Archive;
use crate::keys::SegmentName;
use crate::memory::Memory;
use crate::position::Position;

/// Bytes of frames in one answer; one frame may exceed it.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Reads the log of one database.
pub(super) struct Reader {
    log: Arc<Log>,
    archive: Archive,
    memory: Arc<Memory>,
}

impl Reader {
    pub(super) fn new(log: Arc<Log>, archive: Archive, memory: Arc<Memory>) -> Reader {
        Reader { log, archive, memory }
    }

    /// Reads on from a place, and says whether there is more; None if the place is too old.
    pub(super) async fn read(
        &self,
        reader: &Arc<Readership>,
        epoch: EpochId,
        place: Position,
        transaction_end: bool,
    ) -> Result<Option<(LogRead, bool)>> {
        let mut read = LogRead::new(Arc::clone(reader), place, transaction_end, ANSWER_BYTES_MAX);
        let mut is_relisted = false;
        loop {
            match self.log.read(epoch, &mut read) {
                Step::End => return Ok(Some((read, false))),
                Step::Full => return Ok(Some((read, true))),
                Step::TooOld => return Ok(None),
                Step::Gap => Box::pin(self.relist(epoch, read.place, &mut is_relisted)).await?,
                Step::Segment(name) => {
                    // Boxed, since those who wait at the end of the log would hold room for it.
                    let Some(segment) = Box::pin(self.segment(epoch, name)).await? else {
                        // It was joined with others, or has expired.
                        Box::pin(self.relist(epoch, read.place, &mut is_relisted)).await?;
                        continue;
                    };
                    if !read.take(&segment.frames) {
                        return Ok(Some((read, true)));
                    }
                    read.move_to(name.last, segment.transaction_end);
                }
            }
        }
    }

    /// Looks anew which segments there are, once: what is missing then is lost.
    async fn relist(&self, epoch: EpochId, place: Position, is_relisted: &mut bool) -> Result<()> {
        if std::mem::replace(is_relisted, true) {
            return Err(Error::LogGap { after: place });
        }
        if let Some(known) = self.log.epoch().filter(|known| known.id == epoch) {
            self.log.relist(epoch, &self.archive.segments(&known).await?);
        }
        Ok(())
    }

    /// Reads a segment; None if the store has it no more.
    pub(super) async fn segment(
        &self,
        epoch: EpochId,
        name: SegmentName,
    ) -> Result<Option<Arc<ReadSegment>>> {
        let key = self.archive.keys().segment(epoch.number(), &name);
        let read = async {
            let Some(segment) = self.archive.segment(epoch.number(), name).await? else { return Ok(None) };
            let frames = segment.log_frames()?;
            let read = ReadSegment { transaction_end: segment.transaction_end, frames };
            Ok(Some(Kept::Segment(Arc::new(read))))
        };
        match self.memory.cache.get(&key, read).await? {
            Some(Kept::Segment(segment)) => Ok(Some(segment)),
            Some(Kept::Part(_) | Kept::SplitPart(_)) | None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use bytes::Bytes;

    use super::*;
    use crate::audience::Audience;
    use crate::auth::CallerKind;
    use crate::epoch::{Epoch, EpochReason, ServerIdentity};
    use crate::feed::scout::Scout;
    use crate::keys::Keys;
    use crate::lineage::Lineage;
    use crate::position::Lsn;
    use crate::segment::{LogFrame, Piece, Segment, SegmentIndex, into_blocks};
    use crate::store::directory::DirectoryStore;

    fn anybody() -> Arc<Readership> {
        Arc::new(Readership::unknown(CallerKind::Key))
    }

    fn at(commit_end: u64) -> Position {
        Position::new(Lsn::new(commit_end), Lsn::new(1))
    }

    fn epoch() -> Epoch {
        Epoch {
            id: EpochId::new(1, 7),
            server: ServerIdentity { system: "1".to_owned(), lineage: Lineage::first(1), database_oid: 5 },
            start: Lsn::new(10),
            definitions: Vec::new(),
            reason: EpochReason::First,
            restored: String::new(),
        }
    }

    fn segment(previous: Position, commit_ends: &[u64], length: usize) -> Segment {
        let frame = |commit_end: &u64| LogFrame {
            last: at(*commit_end),
            transaction_end: true,
            bytes: Bytes::from(vec![b'x'; length]),
            rows: 1,
            pieces: Vec::new(),
        };
        let frames: Vec<LogFrame> = commit_ends.iter().map(frame).collect();
        Segment {
            name: SegmentName { previous, last: frames.last().unwrap().last, fence: 1 },
            transaction_end: true,
            scopes: into_blocks(frames),
            transactions: Vec::new(),
            definitions: Bytes::new(),
        }
    }

    /// A follower that knows these segments of a real directory.
    async fn reader(segments: &[Segment]) -> (tempfile::TempDir, Reader) {
        let folder = tempfile::tempdir().unwrap();
        let store = DirectoryStore::open(folder.path().to_owned()).await.unwrap();
        let archive = Archive::new(Arc::new(store), Keys::new("demo"));
        for segment in segments {
            archive.put_segment(1, segment).await.unwrap();
        }
        let memory = crate::memory::plenty();
        let log = Arc::new(Log::new(memory.share()));
        let index: SegmentIndex = archive.segments(&epoch()).await.unwrap();
        log.open(epoch(), index);
        (folder, Reader::new(log, archive, memory))
    }

    #[tokio::test]
    async fn a_follower_reads_segment_after_segment() {
        let start = epoch().start_position();
        let (_folder, reader) = reader(&[segment(start, &[20, 30], 5), segment(at(30), &[40], 5)]).await;
        let (read, more) = reader.read(&anybody(), epoch().id, start, true).await.unwrap().unwrap();
        assert_eq!((read.frames.len(), read.place, more), (3, at(40), false));
        let (read, more) = reader.read(&anybody(), epoch().id, at(25), true).await.unwrap().unwrap();
        assert_eq!((read.frames.len(), read.place, more), (2, at(40), false));
        assert!(reader.read(&anybody(), epoch().id, at(5), true).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn an_answer_stays_below_its_limit() {
        let start = epoch().start_position();
        let half = ANSWER_BYTES_MAX / 2;
        let (_folder, reader) =
            reader(&[segment(start, &[20, 30], half), segment(at(30), &[40], half)]).await;
        let (read, more) = reader.read(&anybody(), epoch().id, start, true).await.unwrap().unwrap();
        assert_eq!((read.frames.len(), read.place, more), (2, at(30), true));
    }

    #[tokio::test]
    async fn a_missing_segment_is_an_error_and_never_a_skip() {
        let start = epoch().start_position();
        let (_folder, reader) = reader(&[segment(start, &[20], 5), segment(at(30), &[40], 5)]).await;
        let gap = reader.read(&anybody(), epoch().id, start, true).await;
        assert!(matches!(gap, Err(Error::LogGap { after }) if after == at(20)), "{gap:?}");
    }

    #[tokio::test]
    async fn a_reader_finds_what_was_joined_or_has_expired_since_it_was_listed() {
        let start = epoch().start_position();
        let parts = [segment(start, &[20], 5), segment(at(20), &[30], 5), segment(at(30), &[40], 5)];
        let (_folder, reader) = reader(&parts).await;
        reader.archive.remove_segment(1, &parts[0].name).await.unwrap();
        reader.archive.remove_segment(1, &parts[1].name).await.unwrap();
        let gap = reader.read(&anybody(), epoch().id, at(25), true).await.unwrap();
        assert!(gap.is_none(), "what has expired is taken from a snapshot");
        reader.archive.put_segment(1, &segment(start, &[20, 30], 5)).await.unwrap();
        reader.archive.remove_segment(1, &parts[2].name).await.unwrap();
        reader.archive.put_segment(1, &segment(at(30), &[40, 50], 5)).await.unwrap();
        let (read, more) = reader.read(&anybody(), epoch().id, at(30), true).await.unwrap().unwrap();
        assert_eq!((read.frames.len(), read.place, more), (2, at(50), false));
        let (read, _more) = reader.read(&anybody(), epoch().id, start, true).await.unwrap().unwrap();
        assert_eq!((read.frames.len(), read.place), (4, at(50)));
        reader.archive.remove_segment(1, &segment(at(30), &[40, 50], 5).name).await.unwrap();
        // What was read before is kept.
        assert!(reader.read(&anybody(), epoch().id, at(30), true).await.unwrap().is_some());
        let reader = Reader { memory: crate::memory::plenty(), ..reader };
        let lost = reader.read(&anybody(), epoch().id, at(30), true).await;
        assert!(matches!(lost, Err(Error::LogGap { after }) if after == at(30)), "{lost:?}");
    }

    #[tokio::test]
    async fn where_others_lead_a_segment_wakes_those_whom_it_concerns() {
        let start = epoch().start_position();
        let (_folder, reader) = reader(&[segment(start, &[20], 5)]).await;
        let (log, archive) = (Arc::clone(&reader.log), reader.archive.clone());
        let wait = |place, scope: &str| {
            let reader = Arc::new(Readership::new(CallerKind::Token, [scope.to_owned()]));
            log.wait_behind(epoch().id, (place, true), &reader).unwrap()
        };
        let (a, b) = (wait(at(20), "a"), wait(at(20), "b"));
        let (end, ending) = tokio::sync::watch::channel(false);
        let scout = Scout { log: Arc::clone(&log), reader: Arc::new(reader) };
        let scout = tokio::spawn(scout.run(ending));
        let audience = Arc::new(Audience::Scopes { now: ["a".to_owned()].into(), departed: BTreeSet::new() });
        let rows = Bytes::from_static(b"rows of a");
        let pieces = vec![Piece {
            round: 0,
            audience,
            rows,
            row_count: 1,
            evictions: Bytes::new(),
            eviction_count: 0,
        }];
        let frame = LogFrame { last: at(30), transaction_end: true, bytes: Bytes::new(), rows: 0, pieces };
        let new = Segment { scopes: into_blocks(vec![frame]), ..segment(at(20), &[30], 0) };
        archive.put_segment(1, &new).await.unwrap();
        log.hear(epoch().id, &[new.name]);
        let soon = std::time::Duration::from_secs(60);
        tokio::time::timeout(soon, a.told()).await.expect("it concerns the one");
        assert_eq!((a.end(), b.end()), (Some((at(20), true)), Some((at(30), true))));
        let b = wait(at(30), "b");
        log.hear(epoch().id, &[SegmentName { previous: at(30), last: at(40), fence: 1 }]);
        tokio::time::timeout(soon, b.told()).await.expect("nobody knows what is in a segment that is gone");
        assert_eq!(b.end(), Some((at(30), true)));
        end.send_replace(true);
        scout.await.unwrap();
    }
}
