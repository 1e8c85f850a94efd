//! What waits of one site, and how much more of it may.
//!
//! While Postgres is away a site sends one upload after the other, each behind the one before. What is beyond the limits
//! stays on the device, and goes as one upload when there is room again.

use super::{ENTRIES_MAX, Inbox};
use crate::error::{Error, Result};
use crate::keys::InboxName;
use shared_format::SiteId;

/// Most uploads of one site that wait: a device that syncs each minute is not held up for hours.
const UPLOADS_MAX: usize = 256;

/// Most bytes of one site that wait, with chunks: what is below lets one more in, which has 900 MiB at most.
const BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// What waits of one site.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    names: Vec<InboxName>,
    bytes: u64,
}

impl Waiting {
    /// How many uploads there are.
    pub(super) fn count(&self) -> usize {
        self.names.len()
    }

    /// Refuses an upload that overlaps with another one, or that there is no room for. One that waits already is always
    /// taken.
    pub(super) fn check(&self, name: &InboxName) -> Result<()> {
        let refuse = |reason: String| Err(Error::Unavailable { reason });
        if self.names.contains(name) {
            return Ok(());
        }
        if self.names.iter().any(|other| other.last >= name.first && other.first <= name.last) {
            return refuse("another upload of this site waits for postgres".to_owned());
        }
        if !self.has_room() {
            let (count, bytes) = (self.names.len(), self.bytes);
            return refuse(format!(
                "{count} uploads of {bytes} bytes of this site wait for postgres, \
                 limits are {UPLOADS_MAX} and {BYTES_MAX}"
            ));
        }
        Ok(())
    }

    /// Counts an upload that was taken.
    pub(super) fn add(&mut self, name: InboxName, bytes: u64) {
        if !self.names.contains(&name) {
            self.names.push(name);
            self.bytes = self.bytes.saturating_add(bytes);
        }
    }

    /// Whether one more may come.
    pub(super) fn has_room(&self) -> bool {
        self.names.len() < UPLOADS_MAX && self.bytes < BYTES_MAX
    }
}

impl Inbox {
    /// What waits of one site. The chunks of an upload whose last one is still to come count too.
    pub(super) async fn waiting(&self, site: SiteId) -> Result<Waiting> {
        let mut waiting = Waiting::default();
        for folder in [self.keys.inbox_of(site), self.keys.chunks_of_site(site)] {
            for entry in self.store.entries(&folder, None, ENTRIES_MAX).await? {
                waiting.bytes = waiting.bytes.saturating_add(entry.bytes);
                let name = entry.key.strip_prefix(&self.keys.inbox()).and_then(InboxName::parse);
                waiting.names.extend(name);
            }
        }
        Ok(waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(first: i64, last: i64) -> InboxName {
        InboxName { site: SiteId::from_bytes([1; 16]), first, last, upload: [2; 16] }
    }

    fn check(waiting: &Waiting, name: InboxName, wanted: Option<&str>) {
        match (waiting.check(&name), wanted) {
            (Ok(()), None) => {}
            (Err(error), Some(wanted)) => assert!(error.to_string().contains(wanted), "{error}"),
            (found, _) => panic!("{name}: found {found:?}, wanted {wanted:?}"),
        }
    }

    #[test]
    fn uploads_wait_side_by_side_and_each_once() {
        let mut waiting = Waiting::default();
        waiting.add(name(4, 6), 10);
        waiting.add(name(4, 6), 10);
        assert_eq!((waiting.count(), waiting.bytes), (1, 10));
        check(&waiting, name(4, 6), None);
        check(&waiting, name(7, 7), None);
        check(&waiting, name(1, 3), None);
        for (first, last) in [(6, 8), (1, 4), (5, 5), (1, 9)] {
            check(&waiting, name(first, last), Some("another upload"));
        }
        check(&waiting, InboxName { upload: [3; 16], ..name(4, 6) }, Some("another upload"));
    }

    #[test]
    fn one_site_fills_its_share_and_no_more() {
        let mut many = Waiting::default();
        for number in 1..=256 {
            check(&many, name(number, number), None);
            assert!(many.has_room());
            many.add(name(number, number), 1);
        }
        assert!(!many.has_room());
        check(&many, name(256, 256), None);
        check(&many, name(257, 257), Some("256 uploads of 256 bytes"));
        let mut large = Waiting::default();
        large.add(name(1, 1), BYTES_MAX);
        assert!(!large.has_room());
        check(&large, name(2, 2), Some("limits are 256 and 1073741824"));
    }
}
