//! API keys: hashed as soon as they are read, compared in constant time.
//!
//! The text of a key is never kept, logged or shown.

use std::fmt;
use std::time::SystemTime;

use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

/// Fewest characters of a key: below that, guessing becomes thinkable.
pub const KEY_CHARACTERS_MIN: usize = 32;

/// Longest name of a Postgres role, in bytes.
const ROLE_BYTES_MAX: usize = 63;

/// One API key as its SHA-256, with the role that it stands for.
#[derive(Clone)]
pub struct ApiKey {
    hash: [u8; 32],
    role: Option<String>,
    expires: Option<SystemTime>,
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKey").field("role", &self.role).finish_non_exhaustive()
    }
}

/// Why a text cannot be an API key; never the text itself.
#[derive(Debug)]
pub(crate) struct KeyProblem {
    /// Whether it is about the role.
    pub(crate) in_role: bool,
    /// What was found, described.
    pub(crate) found: String,
    /// What would have been taken.
    pub(crate) wanted: &'static str,
}

/// Why a text cannot be the name of a role, if it cannot: what was found and what was wanted.
pub(crate) fn role_problem(role: &str) -> Option<(String, &'static str)> {
    let wrong = role.is_empty() || role.len() > ROLE_BYTES_MAX || role.contains('\0');
    wrong.then(|| (format!("{} bytes", role.len()), "a role's name of 1 to 63 bytes without NUL"))
}

impl ApiKey {
    /// Hashes a key; without a role it stands for the role that the hub logs in with.
    pub(crate) fn new(key: &str, role: Option<&str>) -> Result<ApiKey, KeyProblem> {
        let problem = |in_role, found: String, wanted| Err(KeyProblem { in_role, found, wanted });
        let characters = key.chars().count();
        if characters < KEY_CHARACTERS_MIN {
            return problem(false, format!("{characters} characters"), "at least 32 characters");
        }
        if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return problem(false, "characters that no header can carry".to_owned(), "visible ASCII only");
        }
        match role.and_then(role_problem) {
            Some((found, wanted)) => problem(true, found, wanted),
            None => Ok(ApiKey { hash: hash(key), role: role.map(str::to_owned), expires: None }),
        }
    }

    /// A key that was hashed before, as it is kept in the control database.
    pub(crate) fn stored(hash: [u8; 32], role: Option<String>, expires: Option<SystemTime>) -> ApiKey {
        ApiKey { hash, role, expires }
    }

    /// The SHA-256 of the key.
    pub(crate) fn hash(&self) -> &[u8; 32] {
        &self.hash
    }

    fn is_expired(&self) -> bool {
        self.expires.is_some_and(|expires| expires <= SystemTime::now())
    }

    /// The database role that the key stands for; `None` is the role that the hub logs in with.
    #[must_use]
    pub fn role(&self) -> Option<&str> {
        self.role.as_deref()
    }
}

/// A key as a request presents it, hashed.
pub struct PresentedKey([u8; 32]);

impl PresentedKey {
    /// Hashes what a request presents.
    #[must_use]
    pub fn new(text: &str) -> PresentedKey {
        PresentedKey(hash(text))
    }

    /// Takes what was hashed before.
    pub(crate) fn of_hash(hash: [u8; 32]) -> PresentedKey {
        PresentedKey(hash)
    }

    /// The SHA-256 of it.
    pub(crate) fn hash(&self) -> &[u8; 32] {
        &self.0
    }
}

/// The API keys of one database.
///
/// Invariant: no two are equal.
#[derive(Clone, Debug)]
pub struct ApiKeys(Vec<ApiKey>);

impl ApiKeys {
    /// Takes keys of which no two are equal.
    pub(crate) fn new(keys: Vec<ApiKey>) -> Option<ApiKeys> {
        let distinct = keys
            .iter()
            .enumerate()
            .all(|(index, key)| keys.iter().take(index).all(|earlier| earlier.hash != key.hash));
        distinct.then_some(ApiKeys(keys))
    }

    /// Whether one of the keys stands for this role.
    pub(crate) fn allow_role(&self, role: Option<&str>) -> bool {
        self.0.iter().any(|key| key.role() == role)
    }

    /// Finds the key that was presented, in a time that tells nothing about any key.
    ///
    /// Every key is compared, whichever matches.
    #[must_use]
    pub fn find(&self, presented: &PresentedKey) -> Option<&ApiKey> {
        let mut place = u32::MAX;
        for (index, key) in (0_u32..).zip(&self.0) {
            let equal: Choice = key.hash.ct_eq(&presented.0);
            place.conditional_assign(&index, equal);
        }
        usize::try_from(place).ok().and_then(|place| self.0.get(place)).filter(|key| !key.is_expired())
    }

    /// These keys and others; one that is here already counts as it is here.
    pub(crate) fn and(&self, others: impl IntoIterator<Item = ApiKey>) -> ApiKeys {
        let mut keys = self.0.clone();
        for other in others {
            if keys.iter().all(|key| key.hash != other.hash) {
                keys.push(other);
            }
        }
        ApiKeys(keys)
    }

    /// The roles that they stand for.
    pub(crate) fn roles(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(ApiKey::role)
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }
}

fn hash(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &str = "first-0123456789abcdef0123456789";
    const SECOND: &str = "second-0123456789abcdef0123456789";

    #[test]
    fn the_presented_key_is_found_whatever_its_place() {
        let keys =
            ApiKeys::new(vec![ApiKey::new(FIRST, Some("app")).unwrap(), ApiKey::new(SECOND, None).unwrap()])
                .unwrap();
        assert_eq!(keys.find(&PresentedKey::new(FIRST)).unwrap().role(), Some("app"));
        assert_eq!(keys.find(&PresentedKey::new(SECOND)).unwrap().role(), None);
        for wrong in ["", "first", &FIRST[1..], &FIRST.to_uppercase()] {
            assert!(keys.find(&PresentedKey::new(wrong)).is_none(), "{wrong:?}");
        }
    }

    #[test]
    fn a_key_that_has_expired_opens_nothing() {
        let hash = *ApiKey::new(FIRST, None).unwrap().hash();
        let keys =
            |expires| ApiKeys::new(Vec::new()).unwrap().and([ApiKey::stored(hash, None, Some(expires))]);
        let presented = PresentedKey::new(FIRST);
        let hour = std::time::Duration::from_secs(3_600);
        assert!(keys(SystemTime::now() + hour).find(&presented).is_some());
        assert!(keys(SystemTime::now() - hour).find(&presented).is_none());
        let of_file = ApiKeys::new(vec![ApiKey::new(FIRST, Some("app")).unwrap()]).unwrap();
        let both = of_file.and([ApiKey::stored(hash, None, Some(SystemTime::now() - hour))]);
        assert_eq!((both.count(), both.find(&presented).unwrap().role()), (1, Some("app")));
    }

    #[test]
    fn a_key_is_not_printed() {
        let key = ApiKey::new(FIRST, None).unwrap();
        assert!(!format!("{key:?}").contains(FIRST));
    }
}
