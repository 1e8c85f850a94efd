//! TLS towards clients: the certificate of the configured files, read again when they change.
//!
//! A certificate that cannot be used leaves the one before in place, so that a renewal that goes wrong stops nobody; at
//! the start it is an error.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_rustls::TlsAcceptor;

use crate::config::TlsFiles;
use crate::error::{Error, Result};

/// How often the files are looked at.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// What tells that a file is another one: when it was written, and how long it is.
type Look = [Option<(SystemTime, u64)>; 2];

/// The certificate that clients are shown now.
#[derive(Debug)]
struct Certificate {
    files: TlsFiles,
    provider: Arc<CryptoProvider>,
    current: RwLock<Arc<CertifiedKey>>,
}

/// Reads the certificate and follows its files.
pub(crate) fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor> {
    let provider = Arc::new(default_provider());
    let seen = look(files);
    let current = RwLock::new(Arc::new(read(files, &provider)?));
    let certificate =
        Arc::new(Certificate { files: files.clone(), provider: Arc::clone(&provider), current });
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(Error::TlsSetup)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::clone(&certificate) as Arc<dyn ResolvesServerCert>);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    tokio::spawn(follow(certificate, seen));
    Ok(TlsAcceptor::from(Arc::new(config)))
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// Reads the files again whenever they are others than before.
async fn follow(certificate: Arc<Certificate>, mut seen: Look) {
    loop {
        tokio::time::sleep(LOOK_AGAIN).await;
        match certificate.look_again(&mut seen) {
            Ok(false) => {}
            Ok(true) => tracing::info!("certificate was read again"),
            // One of the two files may be written a moment after the other.
            Err(error) => tracing::warn!(error = error.logged(), "certificate stays as it was"),
        }
    }
}

impl Certificate {
    /// Takes what the files hold, if they are others than were seen; says whether they are.
    fn look_again(&self, seen: &mut Look) -> Result<bool> {
        let now = look(&self.files);
        if now == *seen {
            return Ok(false);
        }
        *seen = now;
        let read = Arc::new(read(&self.files, &self.provider)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = read;
        Ok(true)
    }
}

fn look(files: &TlsFiles) -> Look {
    [&files.certificate, &files.key].map(|path| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    })
}

fn read(files: &TlsFiles, provider: &CryptoProvider) -> Result<CertifiedKey> {
    let unusable = |path: &Path, source| Error::TlsFile { path: path.to_owned(), source: Box::new(source) };
    let chain = CertificateDer::pem_file_iter(&files.certificate)
        .and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>)
        .map_err(|error| Error::TlsFile { path: files.certificate.clone(), source: Box::new(error) })?;
    if chain.is_empty() {
        let source = rustls::Error::General("there is no certificate in it".to_owned());
        return Err(unusable(&files.certificate, source));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| Error::TlsFile { path: files.key.clone(), source: Box::new(error) })?;
    CertifiedKey::from_der(chain, key, provider).map_err(|error| unusable(&files.key, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A certificate of `localhost` that signs itself, for tests only.
    fn write(folder: &Path, name: &str) {
        let made = std::process::Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
            .args(["-subj", "/CN=localhost", "-keyout"])
            .arg(folder.join(format!("{name}.key")))
            .arg("-out")
            .arg(folder.join(format!("{name}.pem")))
            .output()
            .expect("openssl can be started");
        assert!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr));
    }

    #[test]
    fn a_certificate_that_cannot_be_used_leaves_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        write(folder.path(), "one");
        write(folder.path(), "two");
        let files = TlsFiles { certificate: path("one.pem"), key: path("one.key") };
        let provider = Arc::new(default_provider());
        let current = RwLock::new(Arc::new(read(&files, &provider).unwrap()));
        let mut seen = look(&files);
        let certificate = Certificate { files, provider, current };
        let first = Arc::clone(&certificate.current.read().unwrap());
        let mut check = |what: &str, named: &str| {
            let error = certificate.look_again(&mut seen).expect_err(what).logged();
            assert!(error.contains(named), "{what}: {error}");
            assert!(Arc::ptr_eq(&first, &certificate.current.read().unwrap()), "{what}");
            assert!(!certificate.look_again(&mut seen).expect("it is told once"), "{what}");
        };
        std::fs::write(path("one.pem"), "nonsense").unwrap();
        check("no certificate", "one.pem");
        std::fs::remove_file(path("one.pem")).unwrap();
        check("no file", "one.pem");
        std::fs::copy(path("two.pem"), path("one.pem")).unwrap();
        check("a certificate for another key", "one.key");
        std::fs::rename(path("two.key"), path("one.key")).unwrap();
        assert!(certificate.look_again(&mut seen).unwrap());
        assert!(!Arc::ptr_eq(&first, &certificate.current.read().unwrap()));
    }
}
