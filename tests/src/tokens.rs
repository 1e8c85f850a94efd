//! Services that sign tokens (JWT) and publish their keys, as the hub meets them.
//!
//! Signatures are made by ring from keys of this run, tokens are put together by hand: so every wrong one can be
//! made too.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
    RsaPublicKeyComponents,
};
use serde_json::{Value, json};

use crate::places;
use crate::process::{Launch, Process, Signal, new_log};

/// The secret of the tests' tokens signed by HS256.
pub const SECRET: &str = "secret-of-tokens-0123456789abcdef";

/// A key that signs tokens.
#[derive(Debug)]
pub enum Signer {
    /// A secret that both sides know.
    Hs256(Vec<u8>),
    /// An RSA key.
    Rs256(RsaKeyPair),
    /// A key on the curve P-256.
    Es256(EcdsaKeyPair),
    /// A key on the curve Ed25519.
    EdDsa(Ed25519KeyPair),
}

impl Signer {
    /// Takes the secret that [`crate::hub`] configures.
    pub fn secret() -> Self {
        Self::Hs256(SECRET.as_bytes().to_vec())
    }

    /// Makes an RSA key, by the openssl that Debian's Postgres packages bring: ring makes none.
    pub fn rs256() -> Self {
        let arguments = ["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"];
        let made = Command::new("openssl").args(arguments).output().expect("openssl can be started");
        assert!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr));
        let pem = String::from_utf8(made.stdout).expect("PEM is text");
        let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        let der = BASE64_STANDARD.decode(body).expect("PEM holds base64");
        Self::Rs256(RsaKeyPair::from_pkcs8(&der).expect("openssl makes sound keys"))
    }

    /// Makes a key on P-256.
    pub fn es256() -> Self {
        let (random, algorithm) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
        let made = EcdsaKeyPair::generate_pkcs8(algorithm, &random).expect("a key can be made");
        Self::Es256(EcdsaKeyPair::from_pkcs8(algorithm, made.as_ref(), &random).expect("it is sound"))
    }

    /// Makes a key on Ed25519.
    pub fn ed_dsa() -> Self {
        let made = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("a key can be made");
        Self::EdDsa(Ed25519KeyPair::from_pkcs8(made.as_ref()).expect("it is sound"))
    }

    /// Returns the algorithm as headers of tokens name it.
    pub fn algorithm(&self) -> &'static str {
        match self {
            Self::Hs256(_) => "HS256",
            Self::Rs256(_) => "RS256",
            Self::Es256(_) => "ES256",
            Self::EdDsa(_) => "EdDSA",
        }
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Hs256(secret) => {
                let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
                ring::hmac::sign(&key, message).as_ref().to_vec()
            }
            Self::Rs256(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).expect("RSA signs");
                signature
            }
            Self::Es256(key) => key.sign(&random, message).expect("P-256 signs").as_ref().to_vec(),
            Self::EdDsa(key) => key.sign(message).as_ref().to_vec(),
        }
    }

    /// Returns the bytes of the public key, as somebody who only knows that could use them as a secret.
    pub fn public_bytes(&self) -> Vec<u8> {
        match self {
            Self::Hs256(_) => panic!("a secret has no public key"),
            Self::Rs256(key) => key.public_key().as_ref().to_vec(),
            Self::Es256(key) => key.public_key().as_ref().to_vec(),
            Self::EdDsa(key) => key.public_key().as_ref().to_vec(),
        }
    }

    /// Returns the public key as a service publishes it, under a name.
    pub fn published(&self, name: &str) -> Value {
        match self {
            Self::Hs256(secret) => json!({ "kty": "oct", "kid": name, "k": encode(secret) }),
            Self::Rs256(key) => {
                let parts = RsaPublicKeyComponents::<Vec<u8>>::from(key.public());
                json!({ "kty": "RSA", "kid": name, "n": encode(&parts.n), "e": encode(&parts.e), "use": "sig" })
            }
            Self::Es256(key) => {
                let (x, y) = key.public_key().as_ref()[1..].split_at(32);
                json!({ "kty": "EC", "crv": "P-256", "kid": name, "x": encode(x), "y": encode(y), "alg": "ES256" })
            }
            Self::EdDsa(key) => {
                let x = encode(key.public_key().as_ref());
                json!({ "kty": "OKP", "crv": "Ed25519", "kid": name, "x": x })
            }
        }
    }

    /// Signs a token that names its key.
    pub fn token(&self, name: &str, claims: &Value) -> String {
        self.token_with(&json!({ "alg": self.algorithm(), "typ": "JWT", "kid": name }), claims)
    }

    /// Signs a token with any header.
    pub fn token_with(&self, header: &Value, claims: &Value) -> String {
        self.token_of(&header.to_string(), &claims.to_string())
    }

    /// Signs a token of which both parts may be anything.
    pub fn token_of(&self, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", encode(header.as_bytes()), encode(claims.as_bytes()));
        let signature = encode(&self.sign(message.as_bytes()));
        format!("{message}.{signature}")
    }
}

/// Encodes bytes as the parts of a token are.
pub fn encode(bytes: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// Returns the time some seconds from now, in seconds of Unix time.
pub fn seconds_from_now(seconds: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_secs();
    i64::try_from(now).expect("the time fits") + seconds
}

/// A service that publishes keys by HTTP on this machine.
#[derive(Debug)]
pub struct KeyServer {
    address: SocketAddr,
    answer: Arc<Mutex<(u16, String)>>,
    asked: Arc<AtomicUsize>,
}

impl KeyServer {
    /// Starts a service with these keys; it lives as long as the test.
    pub fn start(keys: &[Value]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it listens");
        let server = Self { address, answer: Arc::default(), asked: Arc::default() };
        server.publish(keys);
        let (answer, asked) = (Arc::clone(&server.answer), Arc::clone(&server.asked));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (status, body) = answer.lock().expect("nobody panics with it").clone();
                asked.fetch_add(1, Ordering::SeqCst);
                // A hub that was ended meanwhile does not read it.
                let _gone = respond(stream, status, &body);
            }
        });
        server
    }

    /// Starts a proxy that speaks TLS for the service, by openssl; returns where the keys are then, and the process.
    ///
    /// The certificate, which signs itself, is left in the folder as `tls.pem`.
    pub fn behind_tls(&self, folder: &Path) -> (String, Process) {
        let (certificate, key) = (folder.join("tls.pem"), folder.join("tls.key"));
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
            .args(["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout"])
            .arg(&key)
            .arg("-out")
            .arg(&certificate)
            .output()
            .expect("openssl can be started");
        assert!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr));
        fs::write(folder.join("keys"), self.answer.lock().expect("nobody panics with it").1.as_bytes())
            .expect("the keys can be written");
        let port = places::free_port();
        let command = ["openssl", "s_server", "-WWW", "-quiet", "-accept"].map(OsString::from);
        let files = ["-cert".into(), certificate.into(), "-key".into(), key.into()];
        let log = folder.join("tls.log");
        new_log(&log);
        let script = ["env".into(), "-C".into(), folder.into()].into_iter().chain(command);
        let command = script.chain([format!("127.0.0.1:{port}").into()]).chain(files).collect();
        let launch =
            Launch { command, environment: Vec::new(), log: &log, stop: Signal::Kill, directory: None };
        (format!("https://localhost:{port}/keys"), Process::start(launch))
    }

    /// Returns where the keys are.
    pub fn url(&self) -> String {
        format!("http://{}/keys", self.address)
    }

    /// Publishes these keys from now on, and no others.
    pub fn publish(&self, keys: &[Value]) {
        self.answer_with(200, &json!({ "keys": keys }).to_string());
    }

    /// Answers like this from now on.
    pub fn answer_with(&self, status: u16, body: &str) {
        *self.answer.lock().expect("nobody panics with it") = (status, body.to_owned());
    }

    /// Returns how often it was asked.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn respond(mut stream: TcpStream, status: u16, body: &str) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    write!(
        stream,
        "HTTP/1.1 {status} Status\r\nContent-Type: application/json\r\nLocation: /elsewhere\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}
