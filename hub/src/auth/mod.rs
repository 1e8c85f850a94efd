//! Who is asking: from the `Authorization` header, by an API key or a token, to a database and a role.
//!
//! Which databases there are is told only to a caller who holds a key for one of them: to everybody else an
//! unknown database and a wrong key look alike.

pub mod api_key;
pub(crate) mod bounded;
pub(crate) mod failures;
mod key_set;
mod signatures;
mod token;

use crate::auth::api_key::{ApiKey, PresentedKey};
use crate::config::{DatabaseName, KeySetUrl};
use crate::error;
use crate::http::problem::{Problem, ProblemKind};
use crate::metrics::DatabaseMetrics;
use token::Refusal;

pub(crate) use token::Tokens;

/// Longest `Authorization` header that is read, in bytes: room for every key and token in use.
const AUTHORIZATION_BYTES_MAX: usize = 8_192;

/// How a caller showed who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallerKind {
    /// By an API key: a program that the operator trusts with every table.
    Key,
    /// By a token: a person, who reads what the token's scopes hold.
    Token,
}

/// Who is asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// How the caller showed it.
    pub kind: CallerKind,
    /// The database role to act as; `None` is the role that the hub logs in with.
    pub role: Option<String>,
    /// What row-level security reads as `request.jwt.claims`: a JSON object.
    pub claims: String,
}

impl Caller {
    fn of_key(role: Option<&str>) -> Caller {
        let claims = match role {
            Some(role) => serde_json::json!({ "role": role }),
            None => serde_json::json!({}),
        };
        Caller { kind: CallerKind::Key, role: role.map(str::to_owned), claims: claims.to_string() }
    }
}

/// What a request shows: a key or a token, and its hash.
pub(crate) struct Credential {
    text: String,
    hash: [u8; 32],
}

impl Credential {
    /// Hashes what a request shows.
    pub(crate) fn new(text: &str) -> Credential {
        Credential { text: text.to_owned(), hash: *PresentedKey::new(text).hash() }
    }

    /// It as a key.
    pub(crate) fn presented(&self) -> PresentedKey {
        PresentedKey::of_hash(self.hash)
    }

    /// What it is remembered by.
    pub(crate) fn hash(&self) -> &[u8; 32] {
        &self.hash
    }
}

/// Takes the key or token out of an `Authorization: Bearer` header.
pub(crate) fn read_bearer(header: Option<&[u8]>) -> Result<Credential, Problem> {
    let missing = || unauthorized("header Authorization: found none, wanted Bearer with an API key or token");
    let header = header.ok_or_else(missing)?;
    if header.len() > AUTHORIZATION_BYTES_MAX {
        return Err(unauthorized("header Authorization is too long"));
    }
    let wrong = || unauthorized("header Authorization: wanted Bearer with an API key or token");
    let (scheme, text) =
        std::str::from_utf8(header).ok().and_then(|text| text.split_once(' ')).ok_or_else(wrong)?;
    if !scheme.eq_ignore_ascii_case("bearer") || text.trim().is_empty() {
        return Err(wrong());
    }
    Ok(Credential::new(text.trim()))
}

/// Why a caller is not let in: the word that it is counted under, and what the caller is told.
pub(crate) struct Denied {
    /// The word.
    pub(crate) reason: &'static str,
    /// What the caller is told.
    pub(crate) problem: Problem,
}

impl Denied {
    /// Whether it may have been a guess: then it counts against the address.
    pub(crate) fn is_guess(&self) -> bool {
        self.reason == GUESS
    }
}

/// The word for a credential that nothing is known of.
const GUESS: &str = "credential";

/// Decides who shows a credential to the database of this name, among all databases of the hub.
pub(crate) async fn authenticate<'a, D: Door + 'a>(
    asked: &str,
    shown: &Credential,
    databases: impl Iterator<Item = (&'a DatabaseName, &'a D)>,
) -> Result<(&'a D, Caller), Denied> {
    let presented = shown.presented();
    let mut known_somewhere = false;
    let mut found = None;
    for (name, database) in databases {
        let key = database.find_key(&presented);
        known_somewhere |= key.is_some();
        if name.as_str() == asked {
            found = Some((database, key));
        }
    }
    let unknown = || Denied { reason: GUESS, problem: unknown_credential() };
    match found {
        Some((database, Some(key))) => Ok((database, Caller::of_key(key.role()))),
        Some((database, None)) => {
            let tokens = database.tokens().ok_or_else(unknown)?;
            let verified = Box::pin(tokens.verify(&shown.text, shown.hash)).await;
            let denied = |refusal: Refusal| Denied { reason: refusal.reason(), problem: refusal.problem() };
            verified.map(|caller| (database, caller)).map_err(denied)
        }
        None if known_somewhere => {
            let detail = format!("database {asked:?} is not one of this hub");
            Err(Denied { reason: "database", problem: Problem::new(ProblemKind::UnknownDatabase, detail) })
        }
        None => Err(unknown()),
    }
}

/// A database as seen by who wants in: this is all that authentication knows of it.
pub(crate) trait Door {
    /// The API key that was presented, if it is one of this database as of now.
    fn find_key(&self, presented: &PresentedKey) -> Option<ApiKey>;

    /// The tokens that it takes, if it takes any.
    fn tokens(&self) -> Option<&Tokens>;
}

/// What everybody is told whose key or token is not known here, whether the database is or not.
fn unknown_credential() -> Problem {
    unauthorized("API key or token is not one for this database")
}

fn unauthorized(detail: &str) -> Problem {
    Problem::new(ProblemKind::Unauthorized, detail)
}

/// Asks a service for the keys that it publishes, and gives the number of those that tokens can be checked by.
pub(crate) async fn published_keys(url: KeySetUrl, metrics: &DatabaseMetrics) -> error::Result<usize> {
    key_set::KeySet::new(url, metrics.clone()).count().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::api_key::ApiKeys;

    const FIRST: &str = "first-0123456789abcdef0123456789";
    const SECOND: &str = "second-0123456789abcdef0123456789";

    struct House(u8, ApiKeys);

    impl Door for House {
        fn find_key(&self, presented: &PresentedKey) -> Option<ApiKey> {
            self.1.find(presented).cloned()
        }

        fn tokens(&self) -> Option<&Tokens> {
            None
        }
    }

    fn ask(asked: &str, key: &str) -> Result<(u8, Caller), ProblemKind> {
        let name = |name| DatabaseName::new(name).unwrap();
        let keys = |key, role| ApiKeys::new(vec![ApiKey::new(key, role).unwrap()]).unwrap();
        let (one, two) = (name("one"), name("two"));
        let (first, second) = (House(1, keys(FIRST, Some("app"))), House(2, keys(SECOND, None)));
        let all = [(&one, &first), (&two, &second)];
        let shown = Credential::new(key);
        let asked = authenticate(asked, &shown, all.into_iter());
        let asked = futures_util::FutureExt::now_or_never(asked).expect("no key set is asked");
        asked.map(|(house, caller)| (house.0, caller)).map_err(|denied| denied.problem.kind())
    }

    #[test]
    fn a_key_opens_its_own_database_only() {
        let (database, caller) = ask("one", FIRST).unwrap();
        assert_eq!((database, caller.kind, caller.role.as_deref()), (1, CallerKind::Key, Some("app")));
        assert_eq!(caller.claims, r#"{"role":"app"}"#);
        let (database, caller) = ask("two", SECOND).unwrap();
        assert_eq!((database, caller.role, caller.claims.as_str()), (2, None, "{}"));
        assert_eq!(ask("two", FIRST), Err(ProblemKind::Unauthorized));
    }

    #[test]
    fn only_a_caller_with_a_key_is_told_that_a_database_is_unknown() {
        assert_eq!(ask("three", FIRST), Err(ProblemKind::UnknownDatabase));
        assert_eq!(ask("three", "guess"), Err(ProblemKind::Unauthorized));
        assert_eq!(ask("one", "guess"), Err(ProblemKind::Unauthorized));
    }

    #[test]
    fn only_a_bearer_is_read() {
        assert!(read_bearer(Some(b"Bearer key")).is_ok());
        assert!(read_bearer(Some(b"bearer key")).is_ok());
        let long = vec![b'a'; AUTHORIZATION_BYTES_MAX + 1];
        for header in
            [None, Some(&b""[..]), Some(b"Bearer"), Some(b"Bearer "), Some(b"Basic key"), Some(b"\xff x")]
        {
            assert!(read_bearer(header).is_err(), "{header:?}");
        }
        assert!(read_bearer(Some(&long)).is_err());
    }
}
