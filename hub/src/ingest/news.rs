//! What a leader tells the other nodes by NOTIFY: which segments it has stored.
//!
//! Anybody who can log in may send a notification, so that ours carry an HMAC by the key of the database. One that
//! is repeated later names segments that were there: it misleads nobody.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::epoch::EpochId;
use crate::keys::SegmentName;

/// The channel of the notifications.
pub(super) const CHANNEL: &str = "cloudsync_segments";

/// Most segments in one notification: Postgres takes less than 8,000 bytes.
pub(super) const SEGMENTS_MAX: usize = 64;

/// What the HMAC is for, so that it fits nothing else that the key signs.
const PURPOSE: &[u8] = b"cloudsync segments\n";

/// News of one epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct News {
    /// The epoch that is led.
    pub(super) epoch: EpochId,
    /// Segments that are in the store now.
    pub(super) segments: Vec<SegmentName>,
}

impl News {
    /// The text of a notification.
    pub(super) fn sign(&self, key: &[u8]) -> String {
        let mut text = self.epoch.to_string();
        for name in &self.segments {
            text.push(' ');
            text.push_str(&name.to_string());
        }
        let sum = mac(key, &text).finalize().into_bytes();
        let hex = crate::hex::encode(&sum);
        format!("{text} {hex}")
    }

    /// Reads a notification; None if it is not one of ours.
    pub(super) fn verify(key: &[u8], notification: &str) -> Option<News> {
        let (text, hex) = notification.rsplit_once(' ')?;
        let mut sum = [0_u8; 32];
        if hex.len() != sum.len() * 2 {
            return None;
        }
        for (byte, digits) in sum.iter_mut().zip(hex.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        }
        mac(key, text).verify_slice(&sum).ok()?;
        let mut words = text.split(' ');
        let epoch = EpochId::parse(words.next()?)?;
        let segments = words.map(SegmentName::parse).collect::<Option<Vec<_>>>()?;
        Some(News { epoch, segments })
    }
}

fn mac(key: &[u8], text: &str) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(PURPOSE);
    mac.update(text.as_bytes());
    mac
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::{Lsn, Position};

    fn news(segments: u64) -> News {
        let at = |commit_end| Position::new(Lsn::new(commit_end), Lsn::MAX);
        let name = |n| SegmentName { previous: at(n), last: at(n + 1), fence: u64::MAX };
        News { epoch: EpochId::new(u32::MAX, u32::MAX), segments: (0..segments).map(name).collect() }
    }

    #[test]
    fn news_read_back_and_fit_into_a_notification() {
        for count in [0, 1, 64] {
            let text = news(count).sign(b"key");
            assert!(text.len() < 8_000, "{} bytes for {count}", text.len());
            assert_eq!(News::verify(b"key", &text), Some(news(count)));
        }
    }

    #[test]
    fn news_of_somebody_else_are_not_heard() {
        let text = news(1).sign(b"key");
        assert_eq!(News::verify(b"another key", &text), None);
        let mut changed = text.clone().into_bytes();
        changed[0] = b'9';
        let changed = String::from_utf8(changed).unwrap();
        for text in ["", "x", changed.as_str(), &text[..text.len() - 1], "1-00000001", "ä ä"] {
            assert_eq!(News::verify(b"key", text), None, "{text:?}");
        }
    }
}
