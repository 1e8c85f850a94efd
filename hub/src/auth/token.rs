//! Tokens (JWT): who signed one, whether it counts here and now, and whose role it asks for.
//!
//! The key decides the algorithm, never the token: HS256 goes with the configured secret only, RS256, ES256 and EdDSA
//! with a published key of that kind only. Before a signature is right a caller is told nothing; afterwards, why the
//! token does not count. A token that was right is remembered by its hash until it expires or the keys change.

use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::{Map, Value};

use super::bounded::Bounded;
use super::key_set::KeySet;
use super::{Caller, CallerKind, signatures};
use crate::config::TokenConfig;
use crate::error::Error;
use crate::http::problem::{Problem, ProblemKind};
use crate::metrics::DatabaseMetrics;

/// How far the clock of the service that signs may be off, in seconds.
const LEEWAY_SECONDS: u64 = 30;

/// Tokens of one database that are remembered, in each of two generations: at most 8 KiB each, mostly below 1.
const VERIFIED: usize = 4_096;

/// Why a token does not count.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// No key of this database signed it.
    NotOurs,
    /// Its time is over.
    Expired,
    /// A claim is missing or is not what it has to be.
    Claim {
        /// The claim.
        name: String,
    },
    /// It asks for a role that tokens may not have.
    Role {
        /// The role.
        role: String,
    },
    /// The keys are not to be had now.
    Keys(Error),
}

impl Refusal {
    /// The word that failures are counted under.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Refusal::NotOurs => "credential",
            Refusal::Expired => "expired",
            Refusal::Claim { .. } => "claim",
            Refusal::Role { .. } => "role",
            Refusal::Keys(_) => "key_set",
        }
    }

    /// What the caller is told.
    pub(super) fn problem(self) -> Problem {
        match self {
            Refusal::NotOurs => super::unknown_credential(),
            Refusal::Expired => Problem::new(ProblemKind::TokenExpired, "claim exp is in the past"),
            Refusal::Claim { name } => {
                let detail = format!("claim {name} of the token is not what this database takes");
                Problem::new(ProblemKind::Unauthorized, detail)
            }
            Refusal::Role { role } => {
                let detail = format!("role {role:?} is none that tokens may have in this database");
                Problem::new(ProblemKind::Forbidden, detail)
            }
            Refusal::Keys(error) => Problem::from(error),
        }
    }
}

/// A token that was right.
struct Verified {
    caller: Caller,
    /// The last second, of Unix time, at which it counts.
    until: u64,
    /// The keys that it was checked against; none for a secret, which stays.
    generation: Option<u64>,
}

/// The tokens that one database takes.
pub(crate) struct Tokens {
    secret: Option<DecodingKey>,
    key_set: Option<KeySet>,
    validation: Validation,
    role_claim: String,
    roles: Vec<String>,
    verified: Mutex<Bounded<[u8; 32], Verified>>,
}

impl Tokens {
    /// Takes tokens as configured.
    pub(crate) fn new(config: &TokenConfig, metrics: &DatabaseMetrics) -> Tokens {
        signatures::install();
        let mut validation = Validation {
            leeway: LEEWAY_SECONDS,
            validate_nbf: true,
            // Without a configured audience the claim says nothing about this database.
            validate_aud: config.audience.is_some(),
            ..Validation::default()
        };
        let mut required = vec!["exp"];
        if let Some(issuer) = &config.issuer {
            validation.set_issuer(&[issuer]);
            required.push("iss");
        }
        if let Some(audience) = &config.audience {
            validation.set_audience(&[audience]);
            required.push("aud");
        }
        validation.set_required_spec_claims(&required);
        Tokens {
            secret: config.secret.as_ref().map(|secret| DecodingKey::from_secret(secret.as_bytes())),
            key_set: config.key_set.clone().map(|url| KeySet::new(url, metrics.clone())),
            validation,
            role_claim: config.role_claim.clone(),
            roles: config.roles.clone(),
            verified: Mutex::new(Bounded::new(VERIFIED)),
        }
    }

    /// Whether a token may have this role.
    pub(crate) fn allows(&self, role: &str) -> bool {
        self.roles.iter().any(|allowed| allowed == role)
    }

    /// Decides who shows a token; `hash` is the SHA-256 of its text.
    pub(crate) async fn verify(&self, text: &str, hash: [u8; 32]) -> Result<Caller, Refusal> {
        if let Some(caller) = self.remembered(&hash) {
            return Ok(caller);
        }
        let header = decode_header(text).map_err(|_| Refusal::NotOurs)?;
        // Extensions that have to be understood, of which none is.
        if header.crit.is_some() {
            return Err(Refusal::NotOurs);
        }
        let (key, generation) = self.key(header.kid.as_deref(), header.alg).await?;
        let mut validation = self.validation.clone();
        validation.algorithms = vec![header.alg];
        let token = decode::<Map<String, Value>>(text, &key, &validation);
        let claims = token.map_err(|error| refusal(error.kind()))?.claims;
        let until = expiry(&claims).ok_or_else(|| claim("exp"))?.saturating_add(LEEWAY_SECONDS);
        let caller = self.caller(&claims)?;
        let verified = Verified { caller: caller.clone(), until, generation };
        self.verified.lock().unwrap_or_else(PoisonError::into_inner).insert(hash, verified);
        Ok(caller)
    }

    fn remembered(&self, hash: &[u8; 32]) -> Option<Caller> {
        let mut verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        let found = verified.get(hash)?;
        let counts = unix_seconds() <= found.until
            && found.generation.is_none_or(|generation| {
                self.key_set.as_ref().and_then(KeySet::generation) == Some(generation)
            });
        counts.then(|| found.caller.clone())
    }

    async fn key(
        &self,
        name: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<(DecodingKey, Option<u64>), Refusal> {
        match (algorithm, &self.secret, &self.key_set) {
            (Algorithm::HS256, Some(secret), _) => Ok((secret.clone(), None)),
            (Algorithm::RS256 | Algorithm::ES256 | Algorithm::EdDSA, _, Some(key_set)) => {
                let found = key_set.find(name, algorithm).await.map_err(Refusal::Keys)?;
                let (key, generation) = found.ok_or(Refusal::NotOurs)?;
                Ok((key, Some(generation)))
            }
            _ => Err(Refusal::NotOurs),
        }
    }

    fn caller(&self, claims: &Map<String, Value>) -> Result<Caller, Refusal> {
        let role = claims.get(&self.role_claim).and_then(Value::as_str);
        let role = role.ok_or_else(|| claim(&self.role_claim))?;
        if !self.allows(role) {
            return Err(Refusal::Role { role: role.to_owned() });
        }
        // Postgres has no place for it in a text, so policies that read the claims would fail.
        if let Some((name, _)) = claims.iter().find(|(name, value)| name.contains('\0') || holds_nul(value)) {
            return Err(claim(&name.replace('\0', "?")));
        }
        let claims = Value::Object(claims.clone()).to_string();
        Ok(Caller { kind: CallerKind::Token, role: Some(role.to_owned()), claims })
    }
}

fn claim(name: &str) -> Refusal {
    Refusal::Claim { name: name.to_owned() }
}

fn holds_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(members) => members.iter().any(holds_nul),
        Value::Object(members) => members.iter().any(|(name, value)| name.contains('\0') || holds_nul(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// The time at which a token ends, in whole seconds; what comes after a point is left out.
fn expiry(claims: &Map<String, Value>) -> Option<u64> {
    let text = claims.get("exp")?.as_number()?.to_string();
    text.split('.').next()?.parse().ok()
}

/// What the library says, as far as anybody is told.
fn refusal(kind: &ErrorKind) -> Refusal {
    match kind {
        ErrorKind::ExpiredSignature => Refusal::Expired,
        ErrorKind::ImmatureSignature => claim("nbf"),
        ErrorKind::InvalidIssuer => claim("iss"),
        ErrorKind::InvalidAudience => claim("aud"),
        ErrorKind::MissingRequiredClaim(name) | ErrorKind::InvalidClaimFormat(name) => claim(name),
        // The enum may grow; whatever else is wrong is wrong before the signature is right.
        _ => Refusal::NotOurs,
    }
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
