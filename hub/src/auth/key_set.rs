//! The published keys of a service that signs tokens (a JWKS): fetched when needed, kept for a while.
//!
//! Keys are asked for again when they are ten minutes old, and when a token names one that is not there, which is at
//! most every half a minute: nobody can make the hub ask by sending names. While the service does not answer, what it
//! said last counts for six hours more. Redirects are not followed and other algorithms than the three are left out.

use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::Mutex;
use warp::http::{Request, header};

use crate::config::KeySetUrl;
use crate::error::{Error, Result};
use crate::metrics::DatabaseMetrics;

/// How old keys may be before they are asked for again.
const FRESH: Duration = Duration::from_secs(600);

/// How old keys may be that still count while the service does not answer.
const KEPT_MAX: Duration = Duration::from_secs(6 * 3_600);

/// Least time between two questions when the first was answered.
const ASK_AGAIN: Duration = Duration::from_secs(30);

/// Least time between two questions when the first was not answered.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// Longest wait for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Longest answer: a hundred RSA keys with their certificates.
const ANSWER_BYTES_MAX: usize = 512 * 1024;

/// Most keys that are kept of one set.
const KEYS_MAX: usize = 100;

type HttpClient = Client<HttpsConnector<HttpConnector>, Empty<Bytes>>;

/// One key of a set.
#[derive(Clone)]
struct PublishedKey {
    name: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

/// The keys as they were told last.
#[derive(Clone, Default)]
struct Keys {
    list: Arc<Vec<PublishedKey>>,
    told: Option<Instant>,
    /// Counts up whenever the keys are others than before.
    generation: u64,
    /// The answer, to see whether the next one is another.
    answer: Bytes,
}

impl Keys {
    fn is_younger_than(&self, age: Duration) -> bool {
        self.told.is_some_and(|told| told.elapsed() < age)
    }

    /// The key of this name; a token without one may use the only key for its algorithm.
    fn find(&self, name: Option<&str>, algorithm: Algorithm) -> Option<DecodingKey> {
        let mut fitting = self.list.iter().filter(|key| key.algorithm == algorithm);
        match name {
            Some(name) => fitting.find(|key| key.name.as_deref() == Some(name)).map(|key| key.key.clone()),
            None => {
                let only = fitting.next()?;
                fitting.next().is_none().then(|| only.key.clone())
            }
        }
    }
}

/// When the service was asked last, and whether it answered.
#[derive(Default)]
struct Asked(Option<(Instant, bool)>);

impl Asked {
    fn may_ask(&self) -> bool {
        self.0.is_none_or(|(at, answered)| at.elapsed() >= if answered { ASK_AGAIN } else { TRY_AGAIN })
    }
}

/// The keys that one service publishes.
pub(super) struct KeySet {
    url: KeySetUrl,
    client: OnceLock<HttpClient>,
    keys: RwLock<Keys>,
    asked: Mutex<Asked>,
    metrics: DatabaseMetrics,
}

impl KeySet {
    /// Nothing is asked before the first token.
    pub(super) fn new(url: KeySetUrl, metrics: DatabaseMetrics) -> KeySet {
        KeySet { url, client: OnceLock::new(), keys: RwLock::default(), asked: Mutex::default(), metrics }
    }

    /// The keys that count now, if they need not be asked for again.
    pub(super) fn generation(&self) -> Option<u64> {
        let keys = self.keys();
        keys.is_younger_than(FRESH).then_some(keys.generation)
    }

    /// Finds a key, with the generation of the set; fails when the service has to be heard first and is silent.
    pub(super) async fn find(
        &self,
        name: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<Option<(DecodingKey, u64)>> {
        let keys = self.keys();
        let found = keys.find(name, algorithm);
        match found {
            Some(key) if keys.is_younger_than(FRESH) => return Ok(Some((key, keys.generation))),
            // One request asks for the keys again; the others do not wait for it.
            Some(_) => {
                if let Ok(mut asked) = self.asked.try_lock() {
                    self.ask(&mut asked).await;
                }
            }
            None => {
                let mut asked = self.asked.lock().await;
                // Whoever asked meanwhile may have got it.
                if self.keys().find(name, algorithm).is_none() {
                    self.ask(&mut asked).await;
                }
            }
        }
        let keys = self.keys();
        if !keys.is_younger_than(KEPT_MAX) {
            return Err(Error::KeySet {
                url: self.url.uri().to_string(),
                reason: "no answer yet".to_owned(),
            });
        }
        Ok(keys.find(name, algorithm).map(|key| (key, keys.generation)))
    }

    fn keys(&self) -> Keys {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks the service once, and gives the number of keys that tokens can be checked by.
    pub(super) async fn count(&self) -> Result<usize> {
        Ok(self.fetch().await?.1.len())
    }

    /// Asks the service, unless it was asked just now.
    async fn ask(&self, asked: &mut Asked) {
        if !asked.may_ask() {
            return;
        }
        let answer = self.fetch().await;
        asked.0 = Some((Instant::now(), answer.is_ok()));
        self.metrics.count_key_set(if answer.is_ok() { "answered" } else { "failed" });
        match answer {
            Ok((answer, list)) => {
                let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
                if keys.answer != answer {
                    let generation = keys.generation.wrapping_add(1);
                    *keys = Keys { list: Arc::new(list), told: None, generation, answer };
                }
                keys.told = Some(Instant::now());
            }
            Err(error) => tracing::warn!(error = error.logged(), "keys of tokens are not to be had"),
        }
    }

    async fn fetch(&self) -> Result<(Bytes, Vec<PublishedKey>)> {
        let wrong = |reason: String| Error::KeySet { url: self.url.uri().to_string(), reason };
        let client = match self.client.get() {
            Some(client) => client,
            None => {
                let made = make_client(&self.url)?;
                self.client.get_or_init(|| made)
            }
        };
        let request = Request::get(self.url.uri())
            .header(header::ACCEPT, "application/json")
            .body(Empty::new())
            .map_err(|error| wrong(error.to_string()))?;
        let answered = async {
            let response = client.request(request).await.map_err(|error| wrong(told(&error)))?;
            if response.status() != 200 {
                return Err(wrong(format!("status {}", response.status().as_u16())));
            }
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
            Ok(body.map_err(|error| wrong(error.to_string()))?.to_bytes())
        };
        let silent = || wrong("no answer in time".to_owned());
        let answer = tokio::time::timeout(ANSWER_MAX, answered).await.map_err(|_elapsed| silent())??;
        let list = read(&answer).ok_or_else(|| wrong("no object with a list `keys`".to_owned()))?;
        Ok((answer, list))
    }
}

/// An error with its causes: what went wrong with TLS stands in the last one.
fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

fn make_client(url: &KeySetUrl) -> Result<HttpClient> {
    let mut roots = RootCertStore::empty();
    // A certificate of the system that rustls cannot read is no reason to trust none of the others.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(Error::TlsSetup)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let builder = hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(config);
    let builder =
        if url.uri().scheme_str() == Some("https") { builder.https_only() } else { builder.https_or_http() };
    let connector = builder.enable_http1().build();
    Ok(Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector))
}

/// Reads a set; a key that is not understood, or not for signatures, is left out.
fn read(answer: &[u8]) -> Option<Vec<PublishedKey>> {
    let answer: serde_json::Value = serde_json::from_slice(answer).ok()?;
    let keys = answer.get("keys")?.as_array()?;
    let read = |key: &serde_json::Value| read_key(&serde_json::from_value(key.clone()).ok()?);
    Some(keys.iter().filter_map(read).take(KEYS_MAX).collect())
}

fn read_key(key: &Jwk) -> Option<PublishedKey> {
    let (algorithm, named) = match &key.algorithm {
        AlgorithmParameters::RSA(_) => (Algorithm::RS256, KeyAlgorithm::RS256),
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
            (Algorithm::ES256, KeyAlgorithm::ES256)
        }
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
            (Algorithm::EdDSA, KeyAlgorithm::EdDSA)
        }
        // A secret that is published is none, and the rest is not spoken here.
        _ => return None,
    };
    let common = &key.common;
    let is_for_it = common.key_algorithm.is_none_or(|found| found == named)
        && common.public_key_use.as_ref().is_none_or(|found| *found == PublicKeyUse::Signature)
        && common.key_operations.as_ref().is_none_or(|found| found.contains(&KeyOperations::Verify));
    if !is_for_it {
        return None;
    }
    let name = common.key_id.clone();
    DecodingKey::from_jwk(key).ok().map(|key| PublishedKey { name, algorithm, key })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_keys_for_signatures_are_read() {
        let ed = |more: serde_json::Value| {
            let mut key =
                json!({ "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" });
            key.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            key
        };
        let set = json!({ "keys": [
            ed(json!({ "kid": "plain" })),
            ed(json!({ "kid": "all", "alg": "EdDSA", "use": "sig", "key_ops": ["verify"] })),
            ed(json!({ "kid": "encrypts", "use": "enc" })),
            ed(json!({ "kid": "signs", "key_ops": ["sign"] })),
            ed(json!({ "kid": "other", "alg": "ES256" })),
            { "kty": "oct", "k": "c2VjcmV0", "kid": "secret" },
            { "kty": "EC", "crv": "P-384", "x": "AA", "y": "AA", "kid": "curve" },
            { "kty": "what", "kid": "unknown" },
            "nonsense",
        ]});
        let read = read(set.to_string().as_bytes()).unwrap();
        let names: Vec<&str> = read.iter().filter_map(|key| key.name.as_deref()).collect();
        assert_eq!(names, ["plain", "all"]);
        for nonsense in ["", "[]", "{}", "{\"keys\":{}}"] {
            assert!(super::read(nonsense.as_bytes()).is_none(), "{nonsense}");
        }
    }

    #[test]
    fn a_token_without_a_name_uses_the_only_key() {
        let key = |name: &str, algorithm| PublishedKey {
            name: Some(name.to_owned()),
            algorithm,
            key: DecodingKey::from_ed_der(&[1; 32]),
        };
        let list = vec![key("a", Algorithm::EdDSA), key("b", Algorithm::ES256), key("c", Algorithm::ES256)];
        let keys = Keys { list: Arc::new(list), ..Keys::default() };
        for (name, algorithm, found) in [
            (None, Algorithm::EdDSA, true),
            (None, Algorithm::ES256, false),
            (Some("c"), Algorithm::ES256, true),
            (Some("a"), Algorithm::ES256, false),
            (Some("d"), Algorithm::ES256, false),
        ] {
            assert_eq!(keys.find(name, algorithm).is_some(), found, "{name:?} {algorithm:?}");
        }
    }
}
