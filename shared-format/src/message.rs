//! The body of one logical message of Postgres: who signed what, around a changeset.
//!
//! Leaves the signature itself to the shells, which hold the key.

use alloc::vec::Vec;

use crate::error::FormatError;
use crate::reader::Reader;

/// Prefix of every logical message that capture emits.
pub const MESSAGE_PREFIX: &str = "cloudsync";

/// Changeset as FlatBuffers; other numbers are for flavours without the library.
const FORMAT_FLATBUFFERS: u8 = 1;

/// A parsed message body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// Full id of the transaction that emitted it.
    pub xid: u64,
    /// HMAC-SHA-256 over [`signed_parts`].
    pub mac: [u8; 32],
    /// Bare payload bytes; nothing in them is trusted before the MAC was checked.
    pub changeset: &'a [u8],
}

impl<'a> Message<'a> {
    /// Splits a body into its parts.
    ///
    /// # Errors
    /// A body that ends early, or a format that this release does not read.
    pub fn parse(body: &'a [u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new("message", body);
        let format = reader.byte()?;
        if format != FORMAT_FLATBUFFERS {
            return Err(FormatError::UnknownCode { what: "message format", code: u64::from(format) });
        }
        let xid = u64::from_be_bytes(reader.array()?);
        Ok(Self { xid, mac: reader.array()?, changeset: reader.rest() })
    }
}

/// Joins a body: format byte, xid (8 bytes, big endian), MAC, changeset.
#[must_use]
pub fn encode_message(xid: u64, mac: &[u8; 32], changeset: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(changeset.len().saturating_add(41));
    body.push(FORMAT_FLATBUFFERS);
    body.extend_from_slice(&xid.to_be_bytes());
    body.extend_from_slice(mac);
    body.extend_from_slice(changeset);
    body
}

/// Hands `update` the bytes that the MAC covers, in order: prefix, format, xid, changeset.
pub fn signed_parts(xid: u64, changeset: &[u8], mut update: impl FnMut(&[u8])) {
    update(MESSAGE_PREFIX.as_bytes());
    update(&[FORMAT_FLATBUFFERS]);
    update(&xid.to_be_bytes());
    update(changeset);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_reads_back() {
        let body = encode_message(7, &[3; 32], b"rows");
        assert_eq!(Message::parse(&body), Ok(Message { xid: 7, mac: [3; 32], changeset: b"rows" }));
    }

    #[test]
    fn a_short_or_foreign_message_is_refused() {
        assert_eq!(
            Message::parse(&[1, 0]),
            Err(FormatError::Truncated { part: "message", found: 1, wanted: 8 })
        );
        assert_eq!(Message::parse(&[2]), Err(FormatError::UnknownCode { what: "message format", code: 2 }));
    }
}
