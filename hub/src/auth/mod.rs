//! Who is asking: from the `Authorization` header to a database and a role.
//!
//! Which databases there are is told only to a caller who holds a key for one of them: to everybody else an
//! unknown database and a wrong key look alike.

pub mod api_key;

use std::sync::Arc;

use crate::auth::api_key::{ApiKeys, PresentedKey};
use crate::config::DatabaseName;
use crate::http::problem::{Problem, ProblemKind};

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

/// Takes the key out of an `Authorization: Bearer` header.
pub(crate) fn read_bearer(header: Option<&[u8]>) -> Result<PresentedKey, Problem> {
    let missing = || unauthorized("header Authorization: found none, wanted Bearer with an API key");
    let header = header.ok_or_else(missing)?;
    if header.len() > AUTHORIZATION_BYTES_MAX {
        return Err(unauthorized("header Authorization is too long"));
    }
    let wrong = || unauthorized("header Authorization: wanted Bearer with an API key");
    let (scheme, key) =
        std::str::from_utf8(header).ok().and_then(|text| text.split_once(' ')).ok_or_else(wrong)?;
    if !scheme.eq_ignore_ascii_case("bearer") || key.trim().is_empty() {
        return Err(wrong());
    }
    Ok(PresentedKey::new(key.trim()))
}

/// Decides who is asking for the database of this name, among all databases of the hub.
pub(crate) fn authenticate<'a, T>(
    asked: &str,
    presented: &PresentedKey,
    databases: impl Iterator<Item = (&'a DatabaseName, Arc<ApiKeys>, T)>,
) -> Result<(T, Caller), Problem> {
    let mut known_somewhere = false;
    let mut found = None;
    let mut database_exists = false;
    for (name, keys, database) in databases {
        let key = keys.find(presented);
        known_somewhere |= key.is_some();
        if name.as_str() == asked {
            database_exists = true;
            found = key.map(|key| (database, Caller::of_key(key.role())));
        }
    }
    match found {
        Some(found) => Ok(found),
        None if known_somewhere && !database_exists => Err(Problem::new(
            ProblemKind::UnknownDatabase,
            format!("database {asked:?} is not one of this hub"),
        )),
        None => Err(unauthorized("API key is not one for this database")),
    }
}

fn unauthorized(detail: &str) -> Problem {
    Problem::new(ProblemKind::Unauthorized, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::api_key::ApiKey;

    const FIRST: &str = "first-0123456789abcdef0123456789";
    const SECOND: &str = "second-0123456789abcdef0123456789";

    fn ask(asked: &str, key: &str) -> Result<(u8, Caller), ProblemKind> {
        let name = |name| DatabaseName::new(name).unwrap();
        let keys = |key, role| Arc::new(ApiKeys::new(vec![ApiKey::new(key, role).unwrap()]).unwrap());
        let (one, two) = (name("one"), name("two"));
        let (first, second) = (keys(FIRST, Some("app")), keys(SECOND, None));
        let all = [(&one, first, 1), (&two, second, 2)];
        authenticate(asked, &PresentedKey::new(key), all.into_iter()).map_err(|problem| problem.kind())
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
