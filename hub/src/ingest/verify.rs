//! Tells our own messages from forged ones.
//!
//! Anybody who may write a logical message can write one with our prefix. Only those count that are signed with
//! the key of the database, for the transaction that they lie in.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use shared_format::Message;

/// Why a message is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Skip {
    /// It is no message of a format that this hub reads.
    Format,
    /// Its signature is wrong.
    Mac,
    /// It was signed for another transaction.
    Xid,
    /// It is signed as it should be, and yet its changeset cannot be read: what it told is lost to the log.
    Changeset,
}

impl Skip {
    /// All of them.
    pub(crate) const ALL: [Skip; 4] = [Skip::Format, Skip::Mac, Skip::Xid, Skip::Changeset];

    /// The label of the metric.
    pub(crate) const fn reason(self) -> &'static str {
        match self {
            Skip::Format => "format",
            Skip::Mac => "mac",
            Skip::Xid => "xid",
            Skip::Changeset => "changeset",
        }
    }
}

/// The key of one database.
pub(crate) struct Verifier {
    key: Vec<u8>,
}

impl Verifier {
    pub(crate) const fn new(key: Vec<u8>) -> Verifier {
        Verifier { key }
    }

    /// Reads a message that lies in the transaction with this low half of an id.
    pub(crate) fn verify<'a>(&self, top_xid: u32, body: &'a [u8]) -> Result<Message<'a>, Skip> {
        let message = Message::parse(body).map_err(|_other| Skip::Format)?;
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).expect("HMAC takes a key of any length");
        shared_format::signed_parts(message.xid, message.changeset, |part| mac.update(part));
        mac.verify_slice(&message.mac).map_err(|_wrong| Skip::Mac)?;
        if message.xid & u64::from(u32::MAX) == u64::from(top_xid) { Ok(message) } else { Err(Skip::Xid) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const XID: u64 = (3 << 32) | 741;

    fn signed(key: &[u8], xid: u64, changeset: &[u8]) -> Vec<u8> {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
        shared_format::signed_parts(xid, changeset, |part| mac.update(part));
        shared_format::encode_message(xid, &mac.finalize().into_bytes().into(), changeset)
    }

    fn check(body: &[u8], top_xid: u32, wanted: Result<&[u8], Skip>) {
        let verifier = Verifier::new(b"key of the database".to_vec());
        assert_eq!(verifier.verify(top_xid, body).map(|message| message.changeset), wanted);
    }

    #[test]
    fn only_a_message_signed_for_its_own_transaction_is_taken() {
        let body = signed(b"key of the database", XID, b"rows");
        check(&body, 741, Ok(b"rows"));
        check(&body, 742, Err(Skip::Xid));
        check(&signed(b"another key", XID, b"rows"), 741, Err(Skip::Mac));
        check(b"\x02", 741, Err(Skip::Format));
        check(b"", 741, Err(Skip::Format));
    }

    #[test]
    fn a_changed_byte_is_a_wrong_signature() {
        let body = signed(b"key of the database", XID, b"rows");
        for at in 1..body.len() {
            let mut changed = body.clone();
            changed[at] ^= 1;
            check(&changed, 741, Err(Skip::Mac));
        }
    }
}
