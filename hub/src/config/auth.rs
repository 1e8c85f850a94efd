//! How a database takes tokens: whose signatures count, and what a token has to say.
//!
//! | key of `[database.jwt]` | what it holds |
//! |---|---|
//! | `secret` | the secret of tokens signed by HS256, at least 32 bytes; also `CLOUDSYNC_DATABASE_MY_APP_JWT_SECRET` |
//! | `jwks_url` | where the keys of tokens signed by RS256, ES256 or EdDSA are published |
//! | `issuer`, `audience` | what `iss` and `aud` have to be; both are needed beside a `jwks_url` |
//! | `roles` | the database roles that a token may ask for; never empty |
//! | `role_claim` | the claim that names the role; default `role` |
//! | `scopes_interval_ms` | how often it is looked up whether a token that waits for changes reads more or less by now; default 10,000, at least 1,000 |
//!
//! A service publishes its keys for everybody who trusts it, so without issuer and audience a token meant for
//! another program would count here.

use std::fmt;
use std::time::Duration;

use warp::http::Uri;

use super::tree::Node;
use super::{Environment, Sourced, overridden, wrong};
use crate::auth::api_key::role_problem;
use crate::error::Result;

/// Fewest bytes of a secret: RFC 7518 asks for as many as HMAC-SHA-256 gives.
const SECRET_BYTES_MIN: usize = 32;

/// The claim that names the role unless the configuration says otherwise, as Supabase and PostgREST have it.
const ROLE_CLAIM: &str = "role";

/// How often the scopes of a token that waits are looked up unless told otherwise.
pub(crate) const SCOPES_INTERVAL: Duration = Duration::from_secs(10);

/// Shortest interval of that: each time is a question to the database for every set of claims that waits.
const SCOPES_INTERVAL_MS_MIN: usize = 1_000;

/// The secret of tokens signed by HS256; printing it shows nothing.
#[derive(Clone)]
pub struct TokenSecret(String);

impl TokenSecret {
    /// The secret's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for TokenSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenSecret(..)")
    }
}

/// Where keys are published.
///
/// Invariant: https, or http on this machine, without user and password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySetUrl(Uri);

impl KeySetUrl {
    /// Takes an address that keeps the rule.
    #[must_use]
    pub fn new(text: &str) -> Option<KeySetUrl> {
        let uri: Uri = text.parse().ok()?;
        let authority = uri.authority()?;
        if authority.as_str().contains('@') || authority.host().is_empty() {
            return None;
        }
        let here = matches!(authority.host(), "localhost" | "127.0.0.1" | "[::1]");
        let sound = uri.scheme_str() == Some("https") || (uri.scheme_str() == Some("http") && here);
        sound.then_some(KeySetUrl(uri))
    }

    /// The address.
    #[must_use]
    pub fn uri(&self) -> &Uri {
        &self.0
    }
}

/// How a database takes tokens.
///
/// Invariant: there is a secret or a key set, and at least one role.
#[derive(Clone, Debug)]
pub struct TokenConfig {
    /// The secret of tokens signed by HS256.
    pub secret: Option<TokenSecret>,
    /// Where the keys of other tokens are published.
    pub key_set: Option<KeySetUrl>,
    /// What `iss` has to be, if anything.
    pub issuer: Option<String>,
    /// What `aud` has to be or hold, if anything.
    pub audience: Option<String>,
    /// The claim that names the role.
    pub role_claim: String,
    /// The roles that a token may ask for.
    pub roles: Vec<String>,
    /// How often the scopes of a token that waits are looked up.
    pub scopes_interval: Duration,
}

impl TokenConfig {
    /// Reads the table `jwt` of a database; `variable` is the environment variable that overrides the secret.
    pub(super) fn read(
        database: &Node<'_>,
        variable: &str,
        environment: &Environment,
    ) -> Result<Option<TokenConfig>> {
        let Some(node) = database.optional_table("jwt")? else {
            return match environment.get(variable) {
                Some(_) => {
                    Err(wrong(variable, "a secret for a database without jwt", "a table database.jwt"))
                }
                None => Ok(None),
            };
        };
        node.only(&[
            "secret",
            "jwks_url",
            "issuer",
            "audience",
            "role_claim",
            "roles",
            "scopes_interval_ms",
        ])?;
        let secret = read_secret(&node, variable, environment)?;
        let key_set = node.optional_text("jwks_url")?.map(|url| read_key_set(&url)).transpose()?;
        if secret.is_none() && key_set.is_none() {
            return Err(wrong(&node.place("secret"), "nothing", "a secret, or a jwks_url"));
        }
        let claim = |key| -> Result<Option<String>> {
            let text = node.optional_text(key)?;
            text.map(|text| not_empty(&text)).transpose()
        };
        let (issuer, audience) = (claim("issuer")?, claim("audience")?);
        for (key, value) in [("issuer", &issuer), ("audience", &audience)] {
            if key_set.is_some() && value.is_none() {
                return Err(wrong(&node.place(key), "nothing", "a text, since there is a jwks_url"));
            }
        }
        let role_claim = claim("role_claim")?.unwrap_or_else(|| ROLE_CLAIM.to_owned());
        let roles = node.texts("roles")?.iter().map(read_role).collect::<Result<Vec<_>>>()?;
        if roles.is_empty() {
            return Err(wrong(
                &node.place("roles"),
                "no role",
                "the database roles that a token may ask for",
            ));
        }
        let scopes_interval = read_scopes_interval(&node)?;
        Ok(Some(TokenConfig { secret, key_set, issuer, audience, role_claim, roles, scopes_interval }))
    }
}

fn read_secret(node: &Node<'_>, variable: &str, environment: &Environment) -> Result<Option<TokenSecret>> {
    let secret = match environment.contains_key(variable) {
        true => Some(overridden(environment, variable, || node.text("secret"))?),
        false => node.optional_text("secret")?,
    };
    let Some(secret) = secret else { return Ok(None) };
    if secret.text.len() < SECRET_BYTES_MIN {
        let found = format!("{} bytes", secret.text.len());
        return Err(wrong(&secret.key, found, format!("at least {SECRET_BYTES_MIN} bytes")));
    }
    Ok(Some(TokenSecret(secret.text)))
}

fn read_key_set(url: &Sourced) -> Result<KeySetUrl> {
    let wanted = "an https:// address without user and password; http:// only on this machine";
    KeySetUrl::new(&url.text).ok_or_else(|| wrong(&url.key, "something else", wanted))
}

fn read_scopes_interval(node: &Node<'_>) -> Result<Duration> {
    let Some(interval_ms) = node.optional_count("scopes_interval_ms")? else { return Ok(SCOPES_INTERVAL) };
    if interval_ms < SCOPES_INTERVAL_MS_MIN {
        let wanted = format!("at least {SCOPES_INTERVAL_MS_MIN}");
        return Err(wrong(&node.place("scopes_interval_ms"), interval_ms.to_string(), wanted));
    }
    Ok(Duration::from_millis(u64::try_from(interval_ms).unwrap_or(u64::MAX)))
}

fn not_empty(text: &Sourced) -> Result<String> {
    if text.text.is_empty() {
        Err(wrong(&text.key, "an empty text", "a text"))
    } else {
        Ok(text.text.clone())
    }
}

fn read_role(role: &Sourced) -> Result<String> {
    match role_problem(&role.text) {
        Some((found, wanted)) => Err(wrong(&role.key, found, wanted)),
        None => Ok(role.text.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "secret-0123456789abcdef0123456789";
    const VARIABLE: &str = "CLOUDSYNC_DATABASE_DEMO_JWT_SECRET";

    fn read(jwt: &str, environment: &[(&str, &str)]) -> Result<Option<TokenConfig>> {
        let environment =
            environment.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        TokenConfig::read(&Node::parse(jwt).unwrap(), VARIABLE, &environment)
    }

    fn check_refused(jwt: &str, environment: &[(&str, &str)], words: &[&str]) {
        let error = read(jwt, environment).expect_err(jwt).to_string();
        for word in words {
            assert!(error.contains(word), "{word:?} in {error:?} for {jwt}");
        }
        assert!(!error.contains("0123456789"), "{error}");
    }

    #[test]
    fn a_sound_table_is_read() {
        assert!(read("", &[]).unwrap().is_none());
        let jwt = format!("[jwt]\nsecret = \"{SECRET}\"\nroles = [\"app\"]");
        let found = read(&jwt, &[]).unwrap().unwrap();
        assert_eq!(found.secret.as_ref().unwrap().as_bytes(), SECRET.as_bytes());
        assert_eq!((found.role_claim.as_str(), found.roles.as_slice()), ("role", &["app".to_owned()][..]));
        assert_eq!(found.scopes_interval, SCOPES_INTERVAL);
        assert!(!format!("{found:?}").contains(SECRET));
        let often = read(&format!("{jwt}\nscopes_interval_ms = 1000"), &[]).unwrap().unwrap();
        assert_eq!(often.scopes_interval, Duration::from_secs(1));
        let jwt = "[jwt]\njwks_url = \"https://id.example/keys\"\nissuer = \"i\"\naudience = \"a\"\n\
                   roles = [\"app\", \"guest\"]\nrole_claim = \"https://id.example/role\"";
        let found = read(jwt, &[]).unwrap().unwrap();
        assert_eq!(found.key_set.unwrap().uri().host(), Some("id.example"));
        assert_eq!((found.issuer.as_deref(), found.audience.as_deref()), (Some("i"), Some("a")));
        let found = read("[jwt]\nroles = [\"app\"]", &[(VARIABLE, SECRET)]).unwrap().unwrap();
        assert!(found.secret.is_some());
    }

    #[test]
    fn what_would_let_strangers_in_is_refused() {
        let keys = "jwks_url = \"https://id.example/keys\"\nissuer = \"i\"\naudience = \"a\"";
        check_refused("[jwt]\nroles = [\"app\"]", &[], &["jwt.secret", "jwks_url"]);
        check_refused(&format!("[jwt]\n{keys}"), &[], &["jwt.roles", "no role"]);
        check_refused(&format!("[jwt]\n{keys}\nroles = [\"\"]"), &[], &["jwt.roles[0]", "0 bytes"]);
        check_refused("[jwt]\nsecret = \"0123456789\"\nroles = [\"app\"]", &[], &["jwt.secret", "10 bytes"]);
        let too_often = format!("[jwt]\nsecret = \"{SECRET}\"\nroles = [\"app\"]\nscopes_interval_ms = 999");
        check_refused(&too_often, &[], &["jwt.scopes_interval_ms", "999", "at least 1000"]);
        check_refused("jwt = 1", &[], &["jwt", "integer", "table"]);
        check_refused(&format!("[jwt]\n{keys}\nrole = \"app\""), &[], &["jwt.role", "unknown"]);
        for key in ["issuer", "audience"] {
            let without = keys.lines().filter(|line| !line.starts_with(key)).collect::<Vec<_>>().join("\n");
            check_refused(&format!("[jwt]\n{without}\nroles = [\"app\"]"), &[], &[key, "nothing"]);
        }
        check_refused("", &[(VARIABLE, SECRET)], &[VARIABLE, "database.jwt"]);
        check_refused("[jwt]\nroles = [\"app\"]", &[(VARIABLE, "short")], &[VARIABLE, "5 bytes"]);
    }

    #[test]
    fn keys_are_fetched_in_the_open_only_from_this_machine() {
        for url in ["https://id.example/k", "http://127.0.0.1:80/k", "http://localhost/k", "http://[::1]:1/k"]
        {
            assert!(KeySetUrl::new(url).is_some(), "{url}");
        }
        for url in
            ["http://id.example/k", "https://u:p@id.example/k", "ftp://id.example/k", "/k", "", "https://"]
        {
            assert!(KeySetUrl::new(url).is_none(), "{url}");
        }
    }
}
