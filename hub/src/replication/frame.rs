//! The frames of the output plugin `pg_sync`: the messages of one transaction, or some of them.
//!
//! Invariant: a frame is taken whole or refused. It holds no message beyond its end, and nothing behind its last.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
#![cfg_attr(test, allow(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::position::{Lsn, Position};

/// Largest frame that the plugin sends, but for one with a single larger message.
pub const FRAME_BYTES_MAX: usize = 1024 * 1024;

/// The frame format that this hub reads, and asks the plugin for.
pub(super) const FRAME_FORMAT: u8 = 1;

/// Set in the last frame of a transaction; no other flag is known.
const FLAG_LAST: u8 = 1;

/// Some messages of one transaction, in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionFrame {
    /// No more frames of this transaction follow.
    pub last: bool,
    /// Where the transaction's commit ends.
    pub commit_end: Lsn,
    /// When it committed, in microseconds since 2000.
    pub commit_time_us: i64,
    /// The low half of the transaction's id.
    pub top_xid: u32,
    /// The messages.
    pub messages: Vec<FrameMessage>,
}

/// One logical message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameMessage {
    /// Where it lies.
    pub lsn: Lsn,
    /// Its body.
    pub body: Bytes,
}

impl TransactionFrame {
    /// The position of one of its messages.
    #[must_use]
    pub const fn position(&self, message: &FrameMessage) -> Position {
        Position::new(self.commit_end, message.lsn)
    }

    /// Reads a frame.
    pub fn decode(mut bytes: Bytes) -> Result<TransactionFrame> {
        let [format] = take(&mut bytes, "format")?;
        if format != FRAME_FORMAT {
            return Err(Error::PluginFrame { part: "format" });
        }
        let [flags] = take(&mut bytes, "flags")?;
        if flags & !FLAG_LAST != 0 {
            return Err(Error::PluginFrame { part: "flags" });
        }
        let commit_end = Lsn::new(u64::from_be_bytes(take(&mut bytes, "commit end")?));
        let commit_time_us = i64::from_be_bytes(take(&mut bytes, "commit time")?);
        let top_xid = u32::from_be_bytes(take(&mut bytes, "xid")?);
        let count = u32::from_be_bytes(take(&mut bytes, "message count")?);
        let mut messages = Vec::new();
        for _ in 0..count {
            let lsn = Lsn::new(u64::from_be_bytes(take(&mut bytes, "message lsn")?));
            let length = u32::from_be_bytes(take(&mut bytes, "message length")?);
            let length =
                usize::try_from(length).map_err(|_wide| Error::PluginFrame { part: "message length" })?;
            if length > bytes.len() {
                return Err(Error::PluginFrame { part: "message length" });
            }
            messages.push(FrameMessage { lsn, body: bytes.split_to(length) });
        }
        if !bytes.is_empty() {
            return Err(Error::PluginFrame { part: "end" });
        }
        let frame =
            TransactionFrame { last: flags & FLAG_LAST != 0, commit_end, commit_time_us, top_xid, messages };
        frame.check_order()?;
        Ok(frame)
    }

    /// Refuses messages that are not in the order of their LSNs, or do not lie before the commit.
    fn check_order(&self) -> Result<()> {
        let mut previous = Lsn::ZERO;
        for message in &self.messages {
            if message.lsn <= previous || message.lsn >= self.commit_end {
                return Err(Error::PluginFrame { part: "message lsn" });
            }
            previous = message.lsn;
        }
        Ok(())
    }
}

fn take<const N: usize>(bytes: &mut Bytes, part: &'static str) -> Result<[u8; N]> {
    let found = *bytes.first_chunk::<N>().ok_or(Error::PluginFrame { part })?;
    drop(bytes.split_to(N));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(flags: u8, commit_end: u64, messages: &[(u64, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![FRAME_FORMAT, flags];
        bytes.extend_from_slice(&commit_end.to_be_bytes());
        bytes.extend_from_slice(&(-5_i64).to_be_bytes());
        bytes.extend_from_slice(&741_u32.to_be_bytes());
        bytes.extend_from_slice(&u32::try_from(messages.len()).unwrap().to_be_bytes());
        for (lsn, body) in messages {
            bytes.extend_from_slice(&lsn.to_be_bytes());
            bytes.extend_from_slice(&u32::try_from(body.len()).unwrap().to_be_bytes());
            bytes.extend_from_slice(body);
        }
        bytes
    }

    fn refused(bytes: Vec<u8>) -> &'static str {
        match TransactionFrame::decode(Bytes::from(bytes)) {
            Err(Error::PluginFrame { part }) => part,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_frame_reads_back() {
        let bytes = encode(FLAG_LAST, 100, &[(10, b"one"), (20, b"")]);
        let frame = TransactionFrame::decode(Bytes::from(bytes)).unwrap();
        assert!(frame.last);
        assert_eq!(frame.commit_time_us, -5);
        assert_eq!(frame.top_xid, 741);
        let found: Vec<(u64, &[u8])> =
            frame.messages.iter().map(|message| (message.lsn.raw(), message.body.as_ref())).collect();
        assert_eq!(found, [(10, b"one".as_slice()), (20, b"".as_slice())]);
        assert_eq!(frame.position(&frame.messages[0]), Position::new(Lsn::new(100), Lsn::new(10)));
    }

    #[test]
    fn a_frame_cut_anywhere_is_refused() {
        let bytes = encode(0, 100, &[(10, b"one"), (20, b"two")]);
        for length in 0..bytes.len() {
            refused(bytes[..length].to_vec());
        }
    }

    #[test]
    fn a_frame_with_wrong_numbers_is_refused() {
        let sound = encode(0, 100, &[(10, b"one")]);
        let with = |at: usize, byte: u8| {
            let mut bytes = sound.clone();
            bytes[at] = byte;
            refused(bytes)
        };
        assert_eq!(with(0, 2), "format");
        assert_eq!(with(1, 2), "flags");
        assert_eq!(with(22, 0xff), "message lsn");
        assert_eq!(with(25, 0), "end");
        assert_eq!(with(34, 0xff), "message length");
        assert_eq!(with(37, 2), "end");
        assert_eq!(refused(encode(0, 100, &[(10, b""), (10, b"")])), "message lsn");
        assert_eq!(refused(encode(0, 100, &[(100, b"")])), "message lsn");
    }
}
