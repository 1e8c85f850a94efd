//! The key that uploads in the store are signed with while Postgres is away.
//!
//! Without one, a node derives it from the key that Postgres signs its messages with, which it knows from the first time
//! on that it reached Postgres. It is not kept in the store: whoever can write there could then write to the database.

use std::fmt;

use super::tree::Node;
use super::{Environment, overridden, wrong};
use crate::error::Result;

/// Fewest bytes: as many as HMAC-SHA-256 gives.
const BYTES_MIN: usize = 32;

/// A key of the hub's file; printing it shows nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct InboxKey(String);

impl InboxKey {
    /// The key of the file's root that is read here.
    pub(super) const KEY: &'static str = "inbox_key";

    /// Reads it from the root of the file.
    pub(super) fn read(root: &Node<'_>, environment: &Environment) -> Result<Option<InboxKey>> {
        let variable = "CLOUDSYNC_INBOX_KEY";
        let key = match environment.contains_key(variable) {
            true => Some(overridden(environment, variable, || root.text(Self::KEY))?),
            false => root.optional_text(Self::KEY)?,
        };
        let Some(key) = key else { return Ok(None) };
        if key.text.len() < BYTES_MIN {
            let found = format!("{} bytes", key.text.len());
            return Err(wrong(&key.key, found, format!("at least {BYTES_MIN} bytes")));
        }
        Ok(Some(InboxKey(key.text)))
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for InboxKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InboxKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "inbox-0123456789abcdef0123456789abcdef";

    fn read(text: &str, variable: Option<&str>) -> Result<Option<InboxKey>> {
        let variable = variable.map(|key| ("CLOUDSYNC_INBOX_KEY".to_owned(), key.to_owned()));
        InboxKey::read(&Node::parse(text)?, &variable.into_iter().collect())
    }

    #[test]
    fn the_key_comes_from_the_file_or_the_environment() {
        assert_eq!(read("", None).unwrap(), None);
        let found = read(&format!("inbox_key = \"{KEY}\""), None).unwrap().unwrap();
        assert_eq!((found.as_bytes(), format!("{found:?}").as_str()), (KEY.as_bytes(), "InboxKey(..)"));
        assert!(read("inbox_key = \"short\"", Some(KEY)).unwrap().is_some());
        let error = read("inbox_key = \"short\"", None).unwrap_err().to_string();
        assert!(
            error.contains("inbox_key") && error.contains("5 bytes") && !error.contains("short"),
            "{error}"
        );
    }
}
