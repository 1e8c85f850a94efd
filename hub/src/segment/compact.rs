//! Compaction: small segments of one epoch are joined, and what a larger one covers is removed.
//!
//! Invariant: a segment goes only after another that covers its whole range was read back. Until then both are
//! there, and any that covers a place serves it. So it does no harm when two nodes compact at once, or one dies
//! in between.

use std::ops::Range;
use std::time::{Duration, SystemTime};

use super::{Found, ScopeBlock, Segment, SegmentIndex};
use crate::error::{Error, Result};
use crate::ingest::archive::{Archive, StoredSegment};
use crate::keys::SegmentName;
use crate::position::Lsn;

/// Segments younger than this are left alone: readers who wait are just taking them.
const SETTLED: Duration = Duration::from_secs(60);

/// What a larger segment covers stays for so long after that one was written: nodes that listed before still
/// know the old names only.
const GRACE: Duration = Duration::from_secs(300);

/// Bytes of a joined segment, footers included.
const JOINED_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Fewest segments that are worth a write.
const RUN_MIN: usize = 8;

/// Most segments that are written by one call, so that a job can be told to end.
const RUNS_MAX: usize = 64;

/// What one call did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compacted {
    /// Segments that were written in place of smaller ones.
    pub written: usize,
    /// Segments that were removed because another covers them.
    pub removed: usize,
    /// There may be more to do at once.
    pub more: bool,
}

/// Joins small segments of an epoch, and removes those that were joined by an earlier call.
pub(crate) async fn run(archive: &Archive, epoch: u32, now: SystemTime) -> Result<Compacted> {
    let stored = archive.stored_segments(epoch).await?;
    let removed = remove_covered(archive, epoch, &stored, now).await?;
    let settled: Vec<StoredSegment> =
        stored.into_iter().filter(|segment| is_older(segment.modified, SETTLED, now)).collect();
    let mut written = 0;
    for chain in chains(&settled) {
        let sizes: Vec<u64> = chain.iter().map(|segment| segment.bytes).collect();
        for run in plan(&sizes) {
            if written >= RUNS_MAX {
                return Ok(Compacted { written, removed, more: true });
            }
            let names: Vec<SegmentName> =
                chain.get(run).unwrap_or_default().iter().map(|segment| segment.name).collect();
            if write_joined(archive, epoch, &names).await? {
                written += 1;
            }
        }
    }
    Ok(Compacted { written, removed, more: false })
}

fn is_older(modified: SystemTime, age: Duration, now: SystemTime) -> bool {
    now.duration_since(modified).is_ok_and(|found| found >= age)
}

/// Reads segments and writes one that covers all of them; false if one of them is gone meanwhile.
async fn write_joined(archive: &Archive, epoch: u32, names: &[SegmentName]) -> Result<bool> {
    let mut parts = Vec::with_capacity(names.len());
    for name in names {
        match archive.segment(epoch, *name).await? {
            Some(part) => parts.push(part),
            None => return Ok(false),
        }
    }
    let Some(joined) = join(parts) else { return Ok(false) };
    archive.put_segment(epoch, &joined).await?;
    Ok(true)
}

/// Joins segments that follow one another. What two of them hold is taken once.
fn join(parts: Vec<Segment>) -> Option<Segment> {
    let (first, last) = (parts.first()?, parts.last()?);
    let fence = parts.iter().map(|part| part.name.fence).max()?;
    let mut joined = Segment {
        name: SegmentName { previous: first.name.previous, last: last.name.last, fence },
        transaction_end: last.transaction_end,
        scopes: Vec::new(),
        transactions: Vec::new(),
        definitions: last.definitions.clone(),
    };
    let mut place = joined.name.previous;
    let mut committed = Lsn::ZERO;
    for part in parts {
        for block in part.scopes {
            let frames = block.frames.into_iter().filter(|frame| frame.last > place);
            match joined.scopes.iter_mut().find(|found| found.scope == block.scope) {
                Some(found) => found.frames.extend(frames),
                None => joined.scopes.push(ScopeBlock { scope: block.scope, frames: frames.collect() }),
            }
        }
        place = part.name.last;
        let transactions = part.transactions.into_iter().filter(|found| found.commit_end > committed);
        joined.transactions.extend(transactions);
        committed = joined.transactions.last().map_or(committed, |transaction| transaction.commit_end);
    }
    Some(joined)
}

/// The ways through segments that a reader takes; a new one begins behind each hole.
fn chains(stored: &[StoredSegment]) -> Vec<Vec<StoredSegment>> {
    let Some(first) = stored.first() else { return Vec::new() };
    let mut index = SegmentIndex::new(first.name.previous);
    for segment in stored {
        index.add(segment.name);
    }
    let mut chains = vec![Vec::new()];
    let mut place = first.name.previous;
    loop {
        match index.find(place) {
            Found::Segment(name) => {
                let found = stored.binary_search_by_key(&name, |segment| segment.name);
                let segment = found.ok().and_then(|at| stored.get(at));
                if let (Some(chain), Some(segment)) = (chains.last_mut(), segment) {
                    chain.push(*segment);
                }
                place = name.last;
            }
            Found::Gap => {
                let next = stored.iter().find(|segment| segment.name.previous > place);
                let Some(next) = next else { return chains };
                chains.push(Vec::new());
                place = next.name.previous;
            }
            Found::Nothing | Found::Behind => return chains,
        }
    }
}

/// Which neighbours to join, by their sizes.
///
/// A run is worth a write when the result has at least twice the bytes of the largest that goes into it: so no
/// byte is written again more often than a segment can double.
fn plan(sizes: &[u64]) -> Vec<Range<usize>> {
    let mut runs = Vec::new();
    let mut from = 0;
    while from < sizes.len() {
        let (mut to, mut total, mut largest) = (from, 0_u64, 0_u64);
        for size in sizes.iter().skip(from) {
            if total.saturating_add(*size) > JOINED_BYTES_MAX {
                break;
            }
            total = total.saturating_add(*size);
            largest = largest.max(*size);
            to += 1;
        }
        if to.saturating_sub(from) >= RUN_MIN && total >= largest.saturating_mul(2) {
            runs.push(from..to);
            from = to;
        } else {
            from += 1;
        }
    }
    runs
}

/// Removes segments whose range another has that is old enough, once that one was read back.
async fn remove_covered(
    archive: &Archive,
    epoch: u32,
    stored: &[StoredSegment],
    now: SystemTime,
) -> Result<usize> {
    let mut removed = 0;
    let mut read: Option<SegmentName> = None;
    for (name, cover) in covered(stored, now) {
        if read != Some(cover) {
            match archive.segment(epoch, cover).await {
                Ok(Some(_whole)) => read = Some(cover),
                // Gone meanwhile, or broken: what it should cover is needed.
                Ok(None) => continue,
                Err(error @ Error::Segment { .. }) => {
                    tracing::error!(last = %cover.last, problem = error.logged(), "segment is broken");
                    continue;
                }
                Err(error) => return Err(error),
            }
        }
        archive.remove_segment(epoch, &name).await?;
        removed += 1;
    }
    Ok(removed)
}

/// Segments that are covered, each with the one that covers it.
fn covered(stored: &[StoredSegment], now: SystemTime) -> Vec<(SegmentName, SegmentName)> {
    let mut ordered: Vec<&StoredSegment> = stored.iter().collect();
    // The wider comes first, and of two leaders' the later.
    ordered.sort_unstable_by_key(|segment| {
        let SegmentName { previous, last, fence } = segment.name;
        (previous, std::cmp::Reverse((last, fence)))
    });
    let mut widest: Option<&StoredSegment> = None;
    let mut found = Vec::new();
    for segment in ordered {
        match widest {
            Some(cover) if segment.name.last <= cover.name.last => {
                if is_older(cover.modified, GRACE, now) {
                    found.push((segment.name, cover.name));
                }
            }
            Some(_) | None => widest = Some(segment),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::keys::Keys;
    use crate::position::Position;
    use crate::segment::{LogFrame, SCOPE_EVERYBODY, Transaction};
    use crate::store::directory::DirectoryStore;

    fn at(commit_end: u64) -> Position {
        Position::new(Lsn::new(commit_end), Lsn::new(1))
    }

    fn name(previous: u64, last: u64, fence: u64) -> SegmentName {
        SegmentName { previous: at(previous), last: at(last), fence }
    }

    /// A segment with a frame at each of these places; its name is as wide as they are.
    fn segment(previous: u64, ends: &[u64], fence: u64, scope: &str) -> Segment {
        let frame = |end: &u64| LogFrame {
            last: at(*end),
            transaction_end: true,
            bytes: Bytes::from(format!("{end}{scope}")),
            rows: 1,
            pieces: Vec::new(),
        };
        Segment {
            name: name(previous, *ends.last().unwrap(), fence),
            transaction_end: true,
            scopes: vec![ScopeBlock { scope: scope.to_owned(), frames: ends.iter().map(frame).collect() }],
            transactions: ends
                .iter()
                .map(|end| Transaction { xid: *end, commit_end: Lsn::new(*end) })
                .collect(),
            definitions: Bytes::from(format!("definitions at {}", ends.last().unwrap())),
        }
    }

    fn stored(name: SegmentName, bytes: u64, age: Duration) -> StoredSegment {
        StoredSegment { name, bytes, modified: now() - age }
    }

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000)
    }

    #[test]
    fn a_joined_segment_serves_every_place_of_its_parts_once() {
        let parts = vec![
            segment(10, &[20, 30], 1, SCOPE_EVERYBODY),
            segment(30, &[40], 1, "team"),
            segment(20, &[30, 45, 50], 2, SCOPE_EVERYBODY),
        ];
        let joined = join(parts).unwrap();
        assert_eq!(joined.name, name(10, 50, 2));
        let ends =
            |scope: &str| -> Vec<Position> { joined.frames(scope).iter().map(|frame| frame.last).collect() };
        assert_eq!(ends(SCOPE_EVERYBODY), [20, 30, 45, 50].map(at));
        assert_eq!(ends("team"), [at(40)]);
        let xids: Vec<u64> = joined.transactions.iter().map(|transaction| transaction.xid).collect();
        assert_eq!(xids, [20, 30, 40, 45, 50]);
        assert_eq!(joined.definitions, "definitions at 50");
        assert_eq!(Segment::decode(joined.name, joined.encode().unwrap()).unwrap(), joined);
    }

    #[test]
    fn only_what_has_twice_the_bytes_of_its_largest_part_is_written() {
        let check = |sizes: &[u64], wanted: &[(usize, usize)]| {
            let found: Vec<(usize, usize)> = plan(sizes).iter().map(|run| (run.start, run.end)).collect();
            assert_eq!(found, wanted, "{sizes:?}");
        };
        check(&[], &[]);
        check(&[10; 7], &[]);
        check(&[10; 8], &[(0, 8)]);
        check(&[10; 30], &[(0, 30)]);
        let grown = [vec![1_000], vec![10; 8]].concat();
        check(&grown, &[(1, 9)]);
        let doubled = [vec![70], vec![10; 8]].concat();
        check(&doubled, &[(0, 9)]);
        let half = JOINED_BYTES_MAX / 2;
        check(&[half, half, half, half], &[]);
        let tenth = JOINED_BYTES_MAX / 10;
        check(&[tenth; 25], &[(0, 10), (10, 20)]);
        check(&[&[10; 9][..], &[JOINED_BYTES_MAX + 1], &[10; 9]].concat(), &[(0, 9), (10, 19)]);
    }

    #[test]
    fn a_chain_ends_where_a_segment_is_missing() {
        let names = [name(10, 20, 1), name(20, 30, 1), name(40, 50, 1), name(40, 45, 2), name(50, 60, 2)];
        let mut all: Vec<StoredSegment> = names.iter().map(|name| stored(*name, 1, Duration::ZERO)).collect();
        all.sort_unstable_by_key(|segment| segment.name);
        let found: Vec<Vec<SegmentName>> =
            chains(&all).iter().map(|chain| chain.iter().map(|segment| segment.name).collect()).collect();
        assert_eq!(found, [vec![names[0], names[1]], vec![names[2], names[4]]]);
        assert!(chains(&[]).is_empty());
    }

    #[test]
    fn a_segment_is_covered_by_one_that_is_old_enough() {
        let (old, young) = (GRACE, GRACE - Duration::from_secs(1));
        let wide = name(10, 40, 2);
        let parts = [name(10, 20, 1), name(20, 40, 1), name(30, 50, 1)];
        let list = |age| {
            let mut list = vec![stored(wide, 9, age)];
            list.extend(parts.iter().map(|part| stored(*part, 3, old)));
            list
        };
        assert_eq!(covered(&list(young), now()), []);
        assert_eq!(covered(&list(old), now()), [(parts[0], wide), (parts[1], wide)]);
        // Of two with one range exactly one stays.
        let twins = [stored(name(10, 20, 1), 1, old), stored(name(10, 20, 2), 1, old)];
        assert_eq!(covered(&twins, now()), [(twins[0].name, twins[1].name)]);
    }

    /// An archive in a real directory.
    async fn archive() -> (tempfile::TempDir, Archive) {
        let folder = tempfile::tempdir().unwrap();
        let store = DirectoryStore::open(folder.path().to_owned()).await.unwrap();
        (folder, Archive::new(Arc::new(store), Keys::new("demo")))
    }

    async fn names(archive: &Archive) -> Vec<SegmentName> {
        archive.stored_segments(1).await.unwrap().iter().map(|segment| segment.name).collect()
    }

    #[tokio::test]
    async fn small_segments_become_one_and_go_later() {
        let (_folder, archive) = archive().await;
        for end in 1..=10 {
            let part = segment(end * 10, &[end * 10 + 10], 3, SCOPE_EVERYBODY);
            archive.put_segment(1, &part).await.unwrap();
        }
        let now = SystemTime::now();
        assert_eq!(run(&archive, 1, now).await.unwrap(), Compacted::default(), "they are too young");
        let settled = now + SETTLED;
        let joined = run(&archive, 1, settled).await.unwrap();
        assert_eq!(joined, Compacted { written: 1, removed: 0, more: false });
        assert_eq!(names(&archive).await.len(), 11);
        let done = run(&archive, 1, now + GRACE + SETTLED).await.unwrap();
        assert_eq!(done, Compacted { written: 0, removed: 10, more: false });
        assert_eq!(names(&archive).await, [name(10, 110, 3)]);
        let whole = archive.segment(1, name(10, 110, 3)).await.unwrap().unwrap();
        assert_eq!(whole.frames(SCOPE_EVERYBODY).len(), 10);
    }

    #[tokio::test]
    async fn nothing_goes_for_a_segment_that_cannot_be_read() {
        let (folder, archive) = archive().await;
        let part = segment(10, &[20], 3, SCOPE_EVERYBODY);
        archive.put_segment(1, &part).await.unwrap();
        let broken = Keys::new("demo").segment(1, &name(10, 40, 4));
        std::fs::write(folder.path().join(broken), "no segment").unwrap();
        let done = run(&archive, 1, SystemTime::now() + GRACE + SETTLED).await.unwrap();
        assert_eq!(done, Compacted::default());
        assert_eq!(names(&archive).await.len(), 2);
    }
}
