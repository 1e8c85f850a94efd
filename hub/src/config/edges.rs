//! The edges of the server: who stands before it, how many come in, who may look at its insides, TLS.
//!
//! | key | environment variable | what it holds |
//! |---|---|---|
//! | `trusted_proxies` | | addresses and networks (`10.0.0.0/8`) whose `X-Forwarded-For` is believed |
//! | `head_timeout_ms` | | longest wait for the head of a request, also of the next one; default 30,000 |
//! | `body_idle_timeout_ms` | | longest wait for more of an upload's body; default 15,000 |
//! | `body_timeout_ms` | | longest time for the whole body of an upload; default 130,000 |
//! | `answer_idle_timeout_ms` | | longest wait for a reader to take more of an answer; default 60,000 |
//! | `idle_timeout_ms` | | longest life of a connection without a request; default 60,000 |
//! | `connections_max` | | most connections at once; default 20,000 |
//! | `monitoring_key` | `CLOUDSYNC_MONITORING_KEY` | the key that `/metrics` and `/readyz` then ask for |
//! | `tls.certificate`, `tls.key` | | PEM files; read again when they change |

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::tree::Node;
use super::{Environment, Sourced, make_key, overridden, wrong};
use crate::auth::api_key::ApiKeys;
use crate::error::Result;

/// Most connections at once unless told otherwise: 10,000 waiting clients took 290 MiB when measured.
const CONNECTIONS_MAX: usize = 20_000;

/// Longest wait for the head of a request unless told otherwise: above the 15 s that our client keeps an idle
/// connection, so that it never sends into one that is being closed.
const HEAD_TIMEOUT_MS: usize = 30_000;

/// Longest wait for more of a body unless told otherwise: a radio link that comes back within that loses nothing.
const BODY_IDLE_TIMEOUT_MS: usize = 15_000;

/// Longest time for a whole body unless told otherwise: 8 MiB at 64 kB/s.
const BODY_TIMEOUT_MS: usize = 130_000;

/// Longest wait for a reader to take more of an answer unless told otherwise: as long as a packet may be unanswered.
const ANSWER_IDLE_TIMEOUT_MS: usize = 60_000;

/// Longest life of a connection without a request unless told otherwise.
const IDLE_TIMEOUT_MS: usize = 60_000;

/// A network of addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Network {
    address: IpAddr,
    bits: u32,
}

impl Network {
    fn parse(text: &str) -> Option<Network> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse::<u32>().ok()?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let bits_max = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(bits_max);
        (bits <= bits_max).then_some(Network { address, bits })
    }

    fn contains(&self, address: IpAddr) -> bool {
        // The leading bits are equal when the others are shifted out.
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                (own.to_bits() ^ other.to_bits()).checked_shr(32 - self.bits).unwrap_or(0) == 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                (own.to_bits() ^ other.to_bits()).checked_shr(128 - self.bits).unwrap_or(0) == 0
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

/// The proxies whose word on where a request comes from is believed.
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies(Vec<Network>);

impl TrustedProxies {
    fn read(root: &Node<'_>) -> Result<TrustedProxies> {
        let read = |text: &Sourced| {
            let wanted = "an address or a network such as 10.0.0.0/8";
            Network::parse(&text.text).ok_or_else(|| wrong(&text.key, format!("{:?}", text.text), wanted))
        };
        Ok(TrustedProxies(root.texts("trusted_proxies")?.iter().map(read).collect::<Result<_>>()?))
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(address))
    }

    /// Where a request comes from: the last address that no trusted proxy stands at.
    ///
    /// `forwarded` is what `X-Forwarded-For` holds; each proxy adds the one it was called by at the end, and what
    /// stands before that may be made up.
    #[must_use]
    pub fn client(&self, peer: IpAddr, forwarded: Option<&str>) -> IpAddr {
        let mut client = peer.to_canonical();
        for hop in forwarded.unwrap_or_default().rsplit(',') {
            if !self.trusts(client) {
                break;
            }
            let hop = hop.trim();
            let address = hop.parse().or_else(|_| hop.parse().map(|hop: std::net::SocketAddr| hop.ip()));
            let Ok(address) = address else { break };
            client = address.to_canonical();
        }
        client
    }
}

/// The files that TLS needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate with those between it and its root, in PEM.
    pub certificate: PathBuf,
    /// Its private key, in PEM.
    pub key: PathBuf,
}

/// The edges of the server.
#[derive(Clone, Debug)]
pub struct EdgesConfig {
    /// The proxies whose word is believed.
    pub trusted_proxies: TrustedProxies,
    /// Most connections at once.
    pub connections_max: usize,
    /// Longest wait for the head of a request, also of the next one on a connection that is kept.
    pub head_timeout: Duration,
    /// Longest wait for more of an upload's body.
    pub body_idle_timeout: Duration,
    /// Longest time for the whole body of an upload.
    pub body_timeout: Duration,
    /// Longest wait for a reader to take more of an answer.
    pub answer_idle_timeout: Duration,
    /// Longest life of a connection without a request, over HTTP/2 or without a word.
    pub idle_timeout: Duration,
    /// The key that metrics and readiness ask for; without one they are open.
    pub monitoring_key: Option<ApiKeys>,
    /// The files of TLS; without them the server speaks in the open.
    pub tls: Option<TlsFiles>,
}

impl EdgesConfig {
    /// The keys of the file's root that are read here.
    pub(super) const KEYS: [&'static str; 9] = [
        "trusted_proxies",
        "head_timeout_ms",
        "body_idle_timeout_ms",
        "body_timeout_ms",
        "answer_idle_timeout_ms",
        "idle_timeout_ms",
        "connections_max",
        "monitoring_key",
        "tls",
    ];

    /// Reads the edges from the root of the file.
    pub(super) fn read(root: &Node<'_>, environment: &Environment) -> Result<EdgesConfig> {
        let wait = |key, default| -> Result<Duration> {
            let wait_ms = root.optional_count(key)?.unwrap_or(default);
            Ok(Duration::from_millis(u64::try_from(wait_ms).unwrap_or(u64::MAX)))
        };
        Ok(EdgesConfig {
            head_timeout: wait("head_timeout_ms", HEAD_TIMEOUT_MS)?,
            body_idle_timeout: wait("body_idle_timeout_ms", BODY_IDLE_TIMEOUT_MS)?,
            body_timeout: wait("body_timeout_ms", BODY_TIMEOUT_MS)?,
            answer_idle_timeout: wait("answer_idle_timeout_ms", ANSWER_IDLE_TIMEOUT_MS)?,
            idle_timeout: wait("idle_timeout_ms", IDLE_TIMEOUT_MS)?,
            trusted_proxies: TrustedProxies::read(root)?,
            connections_max: root.optional_count("connections_max")?.unwrap_or(CONNECTIONS_MAX),
            monitoring_key: read_monitoring_key(root, environment)?,
            tls: read_tls(root)?,
        })
    }
}

fn read_monitoring_key(root: &Node<'_>, environment: &Environment) -> Result<Option<ApiKeys>> {
    let variable = "CLOUDSYNC_MONITORING_KEY";
    let key = match environment.contains_key(variable) {
        true => Some(overridden(environment, variable, || root.text("monitoring_key"))?),
        false => root.optional_text("monitoring_key")?,
    };
    let key = key.map(|key| make_key(&key, None)).transpose()?;
    Ok(key.and_then(|key| ApiKeys::new(vec![key])))
}

fn read_tls(root: &Node<'_>) -> Result<Option<TlsFiles>> {
    let Some(node) = root.optional_table("tls")? else { return Ok(None) };
    node.only(&["certificate", "key"])?;
    let path = |key| -> Result<PathBuf> { Ok(PathBuf::from(node.text(key)?.text)) };
    Ok(Some(TlsFiles { certificate: path("certificate")?, key: path("key")? }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "0123456789abcdef0123456789abcdef";

    fn read(text: &str) -> Result<EdgesConfig> {
        EdgesConfig::read(&Node::parse(text).unwrap(), &Environment::new())
    }

    #[test]
    fn the_edges_are_open_and_plain_unless_told_otherwise() {
        let found = read("").unwrap();
        assert_eq!((found.connections_max, found.tls), (20_000, None));
        assert!(found.monitoring_key.is_none());
        let found = read(&format!(
            "connections_max = 7\nmonitoring_key = \"{KEY}\"\n[tls]\ncertificate = \"/c\"\nkey = \"/k\""
        ))
        .unwrap();
        assert_eq!(found.connections_max, 7);
        assert!(found.monitoring_key.is_some() && !format!("{found:?}").contains(KEY));
        assert_eq!(found.tls, Some(TlsFiles { certificate: "/c".into(), key: "/k".into() }));
    }

    #[test]
    fn a_wrong_edge_is_named() {
        for (text, words) in [
            ("connections_max = 0", ["connections_max", "from 1"]),
            ("connections_max = \"7\"", ["connections_max", "text"]),
            ("body_timeout_ms = 0", ["body_timeout_ms", "from 1"]),
            ("answer_idle_timeout_ms = 0", ["answer_idle_timeout_ms", "from 1"]),
            ("body_idle_timeout_ms = -1", ["body_idle_timeout_ms", "from 1"]),
            ("trusted_proxies = [\"10.0.0.0/33\"]", ["trusted_proxies[0]", "10.0.0.0/33"]),
            ("trusted_proxies = [\"proxy\"]", ["trusted_proxies[0]", "proxy"]),
            ("monitoring_key = \"short\"", ["monitoring_key", "5 characters"]),
            ("[tls]\nkey = \"/k\"", ["tls.certificate", "nothing"]),
            ("[tls]\nfile = \"/k\"", ["tls.file", "unknown"]),
        ] {
            let error = read(text).expect_err(text).to_string();
            assert!(words.iter().all(|word| error.contains(word)), "{words:?} in {error}");
        }
    }

    #[test]
    fn only_trusted_proxies_say_where_a_request_comes_from() {
        let proxies = read("trusted_proxies = [\"10.0.0.0/8\", \"2001:db8::1\", \"192.0.2.0/31\"]").unwrap();
        for (peer, forwarded, client) in [
            ("198.51.100.1", Some("203.0.113.9"), "198.51.100.1"),
            ("10.1.2.3", Some("203.0.113.9"), "203.0.113.9"),
            ("10.1.2.3", Some("made.up, 198.51.100.7, 203.0.113.9"), "203.0.113.9"),
            ("10.1.2.3", Some("203.0.113.9, 10.9.9.9"), "203.0.113.9"),
            ("10.1.2.3", Some("203.0.113.9:4711"), "203.0.113.9"),
            ("2001:db8::1", Some("[2001:db8::7]:4711"), "2001:db8::7"),
            ("2001:db8::2", Some("203.0.113.9"), "2001:db8::2"),
            ("192.0.2.2", Some("203.0.113.9"), "192.0.2.2"),
            ("::ffff:10.1.2.3", Some("203.0.113.9"), "203.0.113.9"),
            ("10.1.2.3", Some("nonsense"), "10.1.2.3"),
            ("10.1.2.3", None, "10.1.2.3"),
        ] {
            let found = proxies.trusted_proxies.client(peer.parse().unwrap(), forwarded);
            assert_eq!(found, client.parse::<IpAddr>().unwrap(), "{peer} {forwarded:?}");
        }
        let all = read("trusted_proxies = [\"0.0.0.0/0\"]").unwrap().trusted_proxies;
        assert_eq!(
            all.client("198.51.100.1".parse().unwrap(), Some("203.0.113.9")).to_string(),
            "203.0.113.9"
        );
    }
}
