//! One upload as it lies in the store: who sent it and as whom, its body, and a signature over all of it.
//!
//! Whoever may write to the store could otherwise write to the database, as any role. So nothing of an object is
//! believed before its signature is right and it lies where it says.

use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

/// What an object begins with.
const MAGIC: &[u8; 4] = b"CSI1";

/// Bytes of the signature at the end.
const MAC_BYTES: usize = 32;

/// Bytes of a tag: two senders of one upload hardly ever share one, and what is signed decides.
const TAG_BYTES: usize = 8;

/// What keys are derived for: a message of the log is never a sound entry, nor the reverse.
const PURPOSE: &[u8] = b"cloudsync inbox entry";

/// The key that entries are signed with.
#[derive(Clone)]
pub(crate) struct SigningKey([u8; 32]);

impl SigningKey {
    /// Derives it from the key that a database signs its messages with.
    pub(crate) fn derive(message_key: &[u8]) -> SigningKey {
        let mut mac = Hmac::<Sha256>::new_from_slice(message_key).expect("HMAC takes a key of any length");
        mac.update(PURPOSE);
        SigningKey(mac.finalize().into_bytes().into())
    }

    /// A short name for some texts, which says nothing of them to whoever lacks the key.
    pub(crate) fn tag(&self, texts: &[Option<&str>]) -> String {
        let signed = serde_json::to_vec(texts).expect("texts can be written");
        let mac = self.mac(&signed).finalize().into_bytes();
        crate::hex::encode(mac.get(..TAG_BYTES).unwrap_or_default())
    }

    fn mac(&self, signed: &[u8]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes a key of any length");
        mac.update(signed);
        mac
    }
}

/// An upload that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// What is known of it beside its body.
    pub(crate) head: Head,
    /// The body as it was sent: one payload frame.
    pub(crate) body: Bytes,
}

/// What is known of an upload beside its body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Head {
    /// The database that it is for.
    pub(crate) database: String,
    /// Its site, range and id, as in the name of the object.
    pub(crate) name: String,
    /// The token that the site showed, in hexadecimal digits.
    pub(crate) token: Option<String>,
    /// The upload that it follows, in hexadecimal digits, if its site was not told the token of that one yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) follows: Option<String>,
    /// The role to act as.
    pub(crate) role: Option<String>,
    /// The claims of the caller: a JSON object.
    pub(crate) claims: String,
    /// The place up to which the site had received the log.
    #[serde(default)]
    pub(crate) cursor: Option<String>,
    /// How many chunks it has, of which its body is the last; none if it is whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) chunks: Option<u32>,
    /// When it was taken, in milliseconds since 1970.
    pub(crate) accepted_ms: u64,
}

/// Why an object is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Distrust {
    /// It is not laid out as an entry.
    Layout,
    /// Its signature is wrong.
    Signature,
    /// It was signed for another place.
    Place,
}

impl Distrust {
    /// The reason in words.
    pub(crate) const fn reason(self) -> &'static str {
        match self {
            Distrust::Layout => "object is not laid out as an inbox entry",
            Distrust::Signature => "signature is wrong",
            Distrust::Place => "object was signed for another place",
        }
    }
}

impl Entry {
    /// The object to store.
    pub(crate) fn encode(&self, key: &SigningKey) -> Vec<u8> {
        let head = serde_json::to_vec(&self.head).expect("a head is texts and numbers");
        let length = u32::try_from(head.len()).expect("headers of a request are short");
        let mut object = Vec::with_capacity(MAGIC.len() + 4 + head.len() + self.body.len() + MAC_BYTES);
        object.extend_from_slice(MAGIC);
        object.extend_from_slice(&length.to_be_bytes());
        object.extend_from_slice(&head);
        object.extend_from_slice(&self.body);
        let mac = key.mac(&object).finalize().into_bytes();
        object.extend_from_slice(&mac);
        object
    }

    /// Reads an object that was found under a name.
    pub(crate) fn decode(
        object: &Bytes,
        key: &SigningKey,
        database: &str,
        name: &str,
    ) -> Result<Entry, Distrust> {
        let signed = object.len().checked_sub(MAC_BYTES).ok_or(Distrust::Layout)?;
        let (text, mac) = object.split_at(signed);
        let head = text.strip_prefix(MAGIC).ok_or(Distrust::Layout)?;
        key.mac(text).verify_slice(mac).map_err(|_wrong| Distrust::Signature)?;
        let (length, rest) = head.split_first_chunk::<4>().ok_or(Distrust::Layout)?;
        let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_too_long| Distrust::Layout)?;
        let head = rest.get(..length).ok_or(Distrust::Layout)?;
        let head: Head = serde_json::from_slice(head).map_err(|_other| Distrust::Layout)?;
        if head.database != database || head.name != name {
            return Err(Distrust::Place);
        }
        Ok(Entry { head, body: object.slice(MAGIC.len() + 4 + length..signed) })
    }
}

#[cfg(test)]
mod tests {
    use shared_format::SiteId;

    use super::*;
    use crate::keys::InboxName;

    fn name(first: i64) -> InboxName {
        InboxName { site: SiteId::from_bytes([0xaa; 16]), first, last: 7, upload: [0xbb; 16] }
    }

    fn entry(body: &'static [u8]) -> Entry {
        let head = Head {
            database: "demo".to_owned(),
            name: name(1).to_string(),
            token: None,
            follows: None,
            role: Some("app".to_owned()),
            claims: "{}".to_owned(),
            cursor: None,
            chunks: None,
            accepted_ms: 5,
        };
        Entry { head, body: Bytes::from_static(body) }
    }

    fn check(object: Vec<u8>, database: &str, name: &InboxName, wanted: Result<Entry, Distrust>) {
        let key = SigningKey::derive(b"key");
        assert_eq!(Entry::decode(&Bytes::from(object), &key, database, &name.to_string()), wanted);
    }

    #[test]
    fn an_entry_reads_back_at_its_own_place_only() {
        let key = SigningKey::derive(b"key");
        for body in [&b"a payload frame"[..], b""] {
            let sound = entry(body);
            check(sound.encode(&key), "demo", &name(1), Ok(sound.clone()));
            check(sound.encode(&key), "other", &name(1), Err(Distrust::Place));
            check(sound.encode(&key), "demo", &name(2), Err(Distrust::Place));
        }
    }

    #[test]
    fn an_entry_that_somebody_else_wrote_or_changed_is_not_believed() {
        let key = SigningKey::derive(b"key");
        let sound = entry(b"a payload frame").encode(&key);
        check(entry(b"x").encode(&SigningKey::derive(b"other")), "demo", &name(1), Err(Distrust::Signature));
        for at in 0..sound.len() {
            let mut changed = sound.clone();
            changed[at] ^= 1;
            let wanted = if at < 4 { Distrust::Layout } else { Distrust::Signature };
            check(changed, "demo", &name(1), Err(wanted));
        }
        for length in 0..sound.len() {
            let cut = sound[..length].to_vec();
            let found = Entry::decode(&Bytes::from(cut), &key, "demo", &name(1).to_string());
            assert!(matches!(found, Err(Distrust::Layout | Distrust::Signature)), "{length}");
        }
    }
}
