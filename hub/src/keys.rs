//! Names of the objects of one database: what lies where in the store.
//!
//! Invariant: fixed width for every number, so that a LIST comes in the order of the numbers.

use std::fmt;

use shared_format::SiteId;

use crate::cursor::SnapshotId;
use crate::position::{Lsn, Position};

/// Number of a leader's reign, from a sequence in Postgres: of two leaders, the later has the greater.
pub type Fence = u64;

/// Names of the objects of one database.
#[derive(Clone, Debug)]
pub struct Keys {
    root: String,
}

/// What a segment's name says: which positions it covers, and who wrote it.
///
/// Sorted by where it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentName {
    /// The position before the first message.
    pub previous: Position,
    /// The position of the last message.
    pub last: Position,
    /// The leader that wrote it.
    pub fence: Fence,
}

/// What an inbox entry's name says: whose upload it is, and of which numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InboxName {
    /// The site that sent it.
    pub site: SiteId,
    /// The first number that it speaks for.
    pub first: i64,
    /// The last number that it speaks for.
    pub last: i64,
    /// Its random id.
    pub upload: [u8; 16],
}

impl fmt::Display for InboxName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let upload = u128::from_be_bytes(self.upload);
        write!(f, "{}/{:020}-{:020}-{upload:032x}", self.site, self.first, self.last)
    }
}

impl InboxName {
    /// Reads the last two parts of an entry's key.
    #[must_use]
    pub fn parse(name: &str) -> Option<InboxName> {
        let (site, name) = name.split_once('/')?;
        let mut parts = name.split('-');
        let first = parts.next()?.parse().ok()?;
        let last = parts.next()?.parse().ok()?;
        let upload = u128::from_str_radix(parts.next()?, 16).ok()?.to_be_bytes();
        let read = InboxName { site: site.parse().ok()?, first, last, upload };
        (parts.next().is_none() && name.len() == 20 + 1 + 20 + 1 + 32).then_some(read)
    }
}

impl Keys {
    /// Folder of the uploads that wait for Postgres: of no epoch, since they are in no log yet.
    #[must_use]
    pub fn inbox(&self) -> String {
        format!("{}/inbox/", self.root)
    }

    /// Folder of those of one site.
    #[must_use]
    pub fn inbox_of(&self, site: SiteId) -> String {
        format!("{}/inbox/{site}/", self.root)
    }

    /// An upload that waits.
    #[must_use]
    pub fn inbox_entry(&self, name: &InboxName) -> String {
        format!("{}/inbox/{name}", self.root)
    }

    /// Folder of the chunks of uploads whose last chunk was not taken yet, or waits in the inbox.
    #[must_use]
    pub fn chunks(&self) -> String {
        format!("{}/chunks/", self.root)
    }

    /// Folder of those of one site.
    #[must_use]
    pub fn chunks_of_site(&self, site: SiteId) -> String {
        format!("{}/chunks/{site}/", self.root)
    }

    /// Folder of the chunks of one upload.
    #[must_use]
    pub fn chunks_of(&self, name: &InboxName) -> String {
        format!("{}/chunks/{name}/", self.root)
    }

    /// Folder of the uploads that can never be applied.
    #[must_use]
    pub fn buried(&self) -> String {
        format!("{}/buried/", self.root)
    }

    /// Folder of those of one site.
    #[must_use]
    pub fn buried_of(&self, site: SiteId) -> String {
        format!("{}/buried/{site}/", self.root)
    }

    /// An upload that can never be applied.
    #[must_use]
    pub fn buried_entry(&self, name: &InboxName) -> String {
        format!("{}/buried/{name}", self.root)
    }

    /// The names for the database of this name in the configuration.
    #[must_use]
    pub fn new(database: &str) -> Keys {
        Keys { root: format!("v1/{database}") }
    }

    /// Folder of the epoch objects.
    #[must_use]
    pub fn epochs(&self) -> String {
        format!("{}/epoch/", self.root)
    }

    /// The object of one epoch.
    #[must_use]
    pub fn epoch(&self, number: u32) -> String {
        format!("{}/epoch/{number:010}", self.root)
    }

    /// Folder of all that one epoch has, but for the object that opens it.
    #[must_use]
    pub fn folder(&self, epoch: u32) -> String {
        format!("{}/{epoch:010}/", self.root)
    }

    /// Folder of one epoch's segments.
    #[must_use]
    pub fn segments(&self, epoch: u32) -> String {
        format!("{}/{epoch:010}/log/", self.root)
    }

    /// One segment.
    #[must_use]
    pub fn segment(&self, epoch: u32, name: &SegmentName) -> String {
        format!("{}{name}", self.segments(epoch))
    }

    /// Folder of one epoch's idle markers.
    #[must_use]
    pub fn idle_markers(&self, epoch: u32) -> String {
        format!("{}/{epoch:010}/idle/", self.root)
    }

    /// The idle marker of one leader.
    #[must_use]
    pub fn idle_marker(&self, epoch: u32, fence: Fence) -> String {
        format!("{}{fence:016x}", self.idle_markers(epoch))
    }

    /// When the server was started that an epoch was last led on.
    #[must_use]
    pub fn server_start(&self, epoch: u32) -> String {
        format!("{}/{epoch:010}/server-start", self.root)
    }

    /// How far what is stored of an epoch that ends was merged into Postgres again.
    #[must_use]
    pub fn replayed(&self, epoch: u32) -> String {
        format!("{}/{epoch:010}/replayed", self.root)
    }

    /// Folder of one epoch's snapshots.
    #[must_use]
    pub fn snapshots(&self, epoch: u32) -> String {
        format!("{}/{epoch:010}/snap/", self.root)
    }

    /// One part of a snapshot.
    #[must_use]
    pub fn snapshot_part(&self, epoch: u32, snapshot: SnapshotId, scope: &str, part: u32) -> String {
        let SnapshotId { lsn, build } = snapshot;
        format!("{}{}/{scope}/{build:016x}-{part:06}", self.snapshots(epoch), lsn.to_hex())
    }

    /// The manifest of a snapshot, written when all its parts are.
    #[must_use]
    pub fn snapshot_manifest(&self, epoch: u32, snapshot: SnapshotId, scope: &str) -> String {
        let SnapshotId { lsn, build } = snapshot;
        format!("{}{}/{scope}/{build:016x}-manifest", self.snapshots(epoch), lsn.to_hex())
    }
}

/// The last part of the segment's key.
impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SegmentName { previous, last, fence } = self;
        write!(f, "{}-{}-{fence:016x}.seg", previous.to_hex(), last.to_hex())
    }
}

impl SegmentName {
    /// Reads what `Display` writes.
    #[must_use]
    pub fn parse(name: &str) -> Option<SegmentName> {
        let mut parts = name.strip_suffix(".seg")?.split('-');
        let previous = Position::from_hex(parts.next()?)?;
        let last = Position::from_hex(parts.next()?)?;
        let fence = Lsn::from_hex(parts.next()?)?.raw();
        (parts.next().is_none() && previous < last).then_some(SegmentName { previous, last, fence })
    }
}

/// Reads which build of a snapshot an object below the folder of snapshots belongs to, and whether it is the
/// manifest that closes it.
#[must_use]
pub fn parse_snapshot_key(folder: &str, key: &str) -> Option<(SnapshotId, bool)> {
    let (lsn, rest) = key.strip_prefix(folder)?.split_once('/')?;
    let (build, what) = rest.rsplit('/').next()?.split_once('-')?;
    let id = SnapshotId { lsn: Lsn::from_hex(lsn)?, build: Lsn::from_hex(build)?.raw() };
    Some((id, what == "manifest"))
}

/// Reads the key of a manifest back into the snapshot that it closes.
#[must_use]
pub fn parse_manifest_key(folder: &str, scope: &str, key: &str) -> Option<SnapshotId> {
    let (lsn, rest) = key.strip_prefix(folder)?.split_once('/')?;
    let (found, name) = rest.split_once('/')?;
    let build = Lsn::from_hex(name.strip_suffix("-manifest")?)?.raw();
    (found == scope).then_some(SnapshotId { lsn: Lsn::from_hex(lsn)?, build })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(commit_end: u64, message: u64) -> Position {
        Position::new(Lsn::new(commit_end), Lsn::new(message))
    }

    #[test]
    fn the_name_of_an_inbox_entry_reads_back_and_sorts_by_its_range() {
        let name =
            |first| InboxName { site: SiteId::from_bytes([7; 16]), first, last: first + 5, upload: [9; 16] };
        let keys = Keys::new("demo");
        let key = keys.inbox_entry(&name(1));
        assert_eq!(InboxName::parse(key.strip_prefix(&keys.inbox()).unwrap()), Some(name(1)));
        assert!(
            key < keys.inbox_entry(&name(20)) && keys.inbox_entry(&name(3)) < keys.inbox_entry(&name(20))
        );
        for other in ["", "x/1-2-3", &format!("{}-1", name(1)), "1-2-3"] {
            assert_eq!(InboxName::parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_segment_name_reads_back() {
        let keys = Keys::new("demo");
        let name = SegmentName { previous: position(1, 2), last: position(0x3_0000_0000, 4), fence: 5 };
        let key = keys.segment(7, &name);
        let file = key.strip_prefix(&keys.segments(7)).unwrap();
        assert_eq!(SegmentName::parse(file), Some(name));
    }

    #[test]
    fn a_segment_that_covers_nothing_has_no_name() {
        let name = SegmentName { previous: position(1, 2), last: position(1, 2), fence: 5 };
        let key = Keys::new("demo").segment(7, &name);
        assert_eq!(SegmentName::parse(key.rsplit('/').next().unwrap()), None);
        for text in ["", ".seg", "a-b-c.seg", "00-01-2"] {
            assert_eq!(SegmentName::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_manifest_key_reads_back_and_a_part_is_none() {
        let keys = Keys::new("demo");
        let snapshot = SnapshotId { lsn: Lsn::new(99), build: 0xfeed };
        let folder = keys.snapshots(1);
        let manifest = keys.snapshot_manifest(1, snapshot, "all");
        assert_eq!(parse_manifest_key(&folder, "all", &manifest), Some(snapshot));
        assert_eq!(parse_manifest_key(&folder, "other", &manifest), None);
        let part = keys.snapshot_part(1, snapshot, "all", 0);
        assert_eq!(parse_manifest_key(&folder, "all", &part), None);
        assert_eq!(parse_snapshot_key(&folder, &manifest), Some((snapshot, true)));
        assert_eq!(parse_snapshot_key(&folder, &part), Some((snapshot, false)));
        for key in [format!("{folder}x"), format!("{folder}00/all/x-1"), "elsewhere".to_owned()] {
            assert_eq!(parse_snapshot_key(&folder, &key), None, "{key}");
        }
    }
}
