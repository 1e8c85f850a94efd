//! A connection string as libpq users write it, with what rustls needs beside it.
//!
//! `sslmode` means what it means in libpq: `prefer` (the default) and `require` encrypt without asking who
//! answers, unless `sslrootcert` is given; `verify-ca` and `verify-full` both check the chain and the host
//! name.

use std::fmt;
use std::path::{Path, PathBuf};

use percent_encoding::percent_decode_str;
use tokio_postgres::Config;
use tokio_postgres::config::SslMode;

/// What every wrong connection string is told.
const WANTED: &str = "postgres://user:password@host:port/database?sslmode=verify-full";

/// How far the certificate of the server is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verification {
    /// Not at all: TLS keeps out who listens, not who pretends.
    Nothing,
    /// The chain and the host name.
    Full,
}

/// Where a Postgres database is and how to log in; printing it shows no password.
#[derive(Clone)]
pub struct PostgresUrl {
    config: Config,
    verification: Verification,
    root_certificates: Option<PathBuf>,
}

/// Why a text is no connection string; never the text itself.
#[derive(Debug)]
pub(crate) struct UrlProblem {
    /// What was found, described.
    pub(crate) found: String,
    /// What would have been taken.
    pub(crate) wanted: &'static str,
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresUrl")
            .field("config", &self.config)
            .field("verification", &self.verification)
            .field("root_certificates", &self.root_certificates)
            .finish()
    }
}

impl PostgresUrl {
    /// Reads a connection string of the form `postgres://`.
    pub(crate) fn parse(text: &str) -> Result<PostgresUrl, UrlProblem> {
        if !text.starts_with("postgres://") && !text.starts_with("postgresql://") {
            return Err(problem("a text that does not begin with postgres://"));
        }
        // Only after the last @ can a question mark begin the parameters; before it, it is in the password.
        let after_login = text.rfind('@').map_or(0, |at| at.saturating_add(1));
        let (login, rest) = text.split_at(after_login);
        let (place, parameters) = rest.split_once('?').unwrap_or((rest, ""));
        let mut mode = SslMode::Prefer;
        let mut verification = None;
        let mut root_certificates = None;
        let mut kept = Vec::new();
        for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
            match parameter.split_once('=') {
                Some(("sslmode", value)) => (mode, verification) = read_mode(value)?,
                Some(("sslrootcert", value)) => root_certificates = Some(read_path(value)?),
                Some(_) | None => kept.push(parameter),
            }
        }
        let mut config: Config = format!("{login}{place}?{}", kept.join("&"))
            .parse()
            .map_err(|error: tokio_postgres::Error| problem(describe(&error)))?;
        config.ssl_mode(mode);
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(problem("no host"));
        }
        if config.get_user().is_none_or(str::is_empty) {
            return Err(problem("no user"));
        }
        if config.get_dbname().is_none_or(str::is_empty) {
            return Err(problem("no database"));
        }
        let implied = if root_certificates.is_some() { Verification::Full } else { Verification::Nothing };
        Ok(PostgresUrl { config, verification: verification.unwrap_or(implied), root_certificates })
    }

    /// The settings for a connection; without a `connect_timeout` of its own it has none.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// How far the certificate of the server is checked.
    #[must_use]
    pub fn verification(&self) -> Verification {
        self.verification
    }

    /// The file with the certificates to trust in place of the system's.
    #[must_use]
    pub fn root_certificates(&self) -> Option<&Path> {
        self.root_certificates.as_deref()
    }
}

fn problem(found: impl Into<String>) -> UrlProblem {
    UrlProblem { found: found.into(), wanted: WANTED }
}

/// The parser's own words; they name options and places, not values.
fn describe(error: &tokio_postgres::Error) -> String {
    let source = std::error::Error::source(error);
    source.map_or_else(|| error.to_string(), ToString::to_string)
}

fn read_mode(value: &str) -> Result<(SslMode, Option<Verification>), UrlProblem> {
    match value {
        "disable" => Ok((SslMode::Disable, None)),
        "prefer" => Ok((SslMode::Prefer, None)),
        "require" => Ok((SslMode::Require, None)),
        "verify-ca" | "verify-full" => Ok((SslMode::Require, Some(Verification::Full))),
        _ => Err(UrlProblem {
            found: "an unknown sslmode".to_owned(),
            wanted: "sslmode=disable, prefer, require, verify-ca or verify-full",
        }),
    }
}

fn read_path(value: &str) -> Result<PathBuf, UrlProblem> {
    match percent_decode_str(value).decode_utf8() {
        Ok(path) => Ok(PathBuf::from(path.into_owned())),
        Err(_) => Err(problem("an sslrootcert that is not UTF-8")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_refused(text: &str, word: &str) {
        let problem = PostgresUrl::parse(text).expect_err(text);
        assert!(problem.found.contains(word), "{word:?} in {problem:?}");
        assert!(!problem.found.contains("hunter2"), "{problem:?}");
    }

    #[test]
    fn a_connection_string_is_read() {
        let url = PostgresUrl::parse("postgres://me:hunter2@db.example:6432/demo?connect_timeout=7").unwrap();
        assert_eq!(url.config().get_user(), Some("me"));
        assert_eq!(url.config().get_dbname(), Some("demo"));
        assert_eq!(url.config().get_ports(), [6432]);
        assert_eq!(url.config().get_ssl_mode(), SslMode::Prefer);
        assert_eq!(url.verification(), Verification::Nothing);
        assert!(!format!("{url:?}").contains("hunter2"));
    }

    #[test]
    fn sslmode_means_what_it_means_in_libpq() {
        for (parameters, mode, verification) in [
            ("sslmode=disable", SslMode::Disable, Verification::Nothing),
            ("sslmode=require", SslMode::Require, Verification::Nothing),
            ("sslmode=verify-full", SslMode::Require, Verification::Full),
            ("sslmode=require&sslrootcert=%2Fetc%2Fca.pem", SslMode::Require, Verification::Full),
        ] {
            let url = PostgresUrl::parse(&format!("postgres://u@h/d?{parameters}")).unwrap();
            assert_eq!(url.config().get_ssl_mode(), mode, "{parameters}");
            assert_eq!(url.verification(), verification, "{parameters}");
        }
        let url = PostgresUrl::parse("postgres://u@h/d?sslrootcert=%2Fetc%2Fca.pem").unwrap();
        assert_eq!(url.root_certificates(), Some(Path::new("/etc/ca.pem")));
    }

    #[test]
    fn a_question_mark_in_the_password_begins_no_parameters() {
        let url = PostgresUrl::parse("postgres://u:a?b@h/d?sslmode=require").unwrap();
        assert_eq!(url.config().get_password(), Some(&b"a?b"[..]));
    }

    #[test]
    fn a_wrong_connection_string_is_described_but_not_shown() {
        check_refused("host=h user=u password=hunter2", "postgres://");
        check_refused("postgres://u:hunter2@h/d?sslmode=hunter2", "sslmode");
        check_refused("postgres://u:hunter2@h:port/d", "port");
        check_refused("postgres://u:hunter2@h/d?x=hunter2", "`x`");
        check_refused("postgres://:hunter2@h/d", "user");
        check_refused("postgres://u:hunter2@h/", "database");
        check_refused("postgres://u:hunter2@/d", "host");
    }
}
