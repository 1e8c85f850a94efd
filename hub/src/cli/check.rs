//! `hub check`: tries everything that `hub serve` needs, and says what is wrong and how to mend it.
//!
//! Nothing that lasts is changed: an object is written to the store and removed, and a slot is made that goes with its
//! connection.

mod postgres;

use std::io::ErrorKind;
use std::sync::Arc;

use tokio::net::TcpListener;

use super::findings::{Findings, Told};
use super::served;
use crate::auth;
use crate::backend;
use crate::config::{BackendLocation, Config, DatabaseConfig, StoreLocation};
use crate::control::Contents;
use crate::error::{Error, Result};
use crate::http;
use crate::metrics::Metrics;
use crate::store::{self, Store};

/// Objects that are listed to see whether they may be.
const LISTED: usize = 10;

pub(super) async fn run(config: &Config) -> Result<Told> {
    let mut findings = Findings::default();
    findings.fine(&"configuration", "it is understood");
    check_edges(config, &mut findings).await;
    let metrics = Metrics::new()?;
    let store = check_store(config, &metrics, &mut findings).await;
    let contents = check_control(config, &mut findings).await;
    let stored = contents.as_ref().map(|contents| databases_of(contents, &mut findings)).unwrap_or_default();
    for database in config.databases.iter().chain(&stored) {
        let roles = roles_of(database, contents.as_ref());
        let place = format!("database {}", database.name);
        match &database.backend {
            BackendLocation::Postgres(url) => {
                let asked = postgres::Asked { place, name: &database.name, url, roles };
                postgres::run(&asked, store.as_ref(), &mut findings).await;
            }
            BackendLocation::Sqlite(location) => match backend::check_file(location) {
                Ok(says) => findings.fine(&place, says),
                Err(error) => findings.wrong(&place, error.logged(), mend_file(&error)),
            },
        }
        check_tokens(database, &metrics, &mut findings).await;
    }
    Ok(findings.end())
}

async fn check_edges(config: &Config, findings: &mut Findings) {
    match TcpListener::bind(config.listen).await {
        Ok(_freed) => findings.fine(&"listen", format_args!("{} is free", config.listen)),
        Err(error) if error.kind() == ErrorKind::AddrInUse => findings.note(
            &"listen",
            format_args!("{} is in use", config.listen),
            "nothing if that is this hub, which runs already; else give `listen` another port",
        ),
        Err(error) => findings.wrong(
            &"listen",
            format_args!("{} cannot be listened on: {error}", config.listen),
            "give `listen` an address of this machine, and a port that this user may take",
        ),
    }
    match config.edges.tls.as_ref().map(http::tls_acceptor) {
        None => {}
        Some(Ok(_acceptor)) => findings.fine(&"tls", "certificate and key fit"),
        Some(Err(error)) => {
            let mend = "give `tls` the files of a certificate with its chain and of its key, both as PEM";
            findings.wrong(&"tls", error.logged(), mend);
        }
    }
    if config.control.admin_keys.count() == 0 {
        let mend = "set `admin_keys` if operators shall ask this hub over HTTP";
        findings.note(&"admin_keys", "there is none, so that no operator is let in", mend);
    }
}

async fn check_store(config: &Config, metrics: &Metrics, findings: &mut Findings) -> Option<Arc<dyn Store>> {
    let tried = async {
        let store = store::open(&config.store, metrics).await?;
        let keeps = store::keeps_existing(&*store).await?;
        store.list("v1/", None, LISTED).await?;
        Ok::<_, Error>((store, keeps))
    };
    match tried.await {
        Ok((store, true)) => {
            findings.fine(&"store", "objects can be written, read, listed and removed");
            Some(store)
        }
        Ok((store, false)) => {
            let mend = "nothing has to be done, order comes from the database; a service that honours \
                        If-None-Match is a second line of defence";
            findings.note(&"store", "it replaces objects though it is told not to", mend);
            Some(store)
        }
        Err(error) => {
            let mend = match &config.store {
                StoreLocation::Directory(_) => {
                    "let the hub's user write to the directory of `store`, or name another one"
                }
                StoreLocation::S3(_) => {
                    "see to endpoint, bucket and region in `store`, and that AWS_ACCESS_KEY_ID and \
                     AWS_SECRET_ACCESS_KEY may get, put, list and delete objects there"
                }
            };
            findings.wrong(&"store", error.logged(), mend);
            None
        }
    }
}

async fn check_control(config: &Config, findings: &mut Findings) -> Option<Contents> {
    match served::contents(config).await {
        Ok(None) => None,
        Ok(Some(contents)) => {
            let (databases, keys) = (contents.databases.len(), contents.keys.len());
            findings.fine(&"control", format_args!("{databases} databases and {keys} keys are kept there"));
            Some(contents)
        }
        Err(error) => {
            let more = "; the role needs to be allowed to create a schema there, once";
            findings.wrong(
                &"control",
                error.logged(),
                format_args!("{}{more}", postgres::mend_connection(&error)),
            );
            None
        }
    }
}

/// The databases of the control database that can be served.
fn databases_of(contents: &Contents, findings: &mut Findings) -> Vec<DatabaseConfig> {
    let (databases, problems) = served::databases(contents);
    for (name, problem) in problems {
        let mend = "replace its settings by the admin API, or delete it";
        findings.wrong(&format_args!("database {name}"), problem, mend);
    }
    databases
}

/// The roles that callers of a database act as.
fn roles_of(database: &DatabaseConfig, contents: Option<&Contents>) -> Vec<String> {
    let of_file = database.api_keys.roles().map(str::to_owned);
    let of_tokens = database.tokens.iter().flat_map(|tokens| tokens.roles.iter().cloned());
    let kept = contents.into_iter().flat_map(|contents| &contents.keys);
    let kept = kept.filter(|key| key.database == database.name.as_str()).filter_map(|key| key.role.clone());
    let mut roles: Vec<String> = of_file.chain(of_tokens).chain(kept).collect();
    roles.sort_unstable();
    roles.dedup();
    roles
}

async fn check_tokens(database: &DatabaseConfig, metrics: &Metrics, findings: &mut Findings) {
    let Some(url) = database.tokens.as_ref().and_then(|tokens| tokens.key_set.clone()) else { return };
    let place = format!("database {}: jwks_url", database.name);
    match auth::published_keys(url, &metrics.database(database.name.as_str())).await {
        Ok(0) => findings.wrong(
            &place,
            "no key there is one that tokens can be checked by",
            "publish keys for RS256, ES256 or EdDSA there, or name the right address",
        ),
        Ok(keys) => findings.fine(&place, format_args!("{keys} keys are published")),
        Err(error) => findings.wrong(
            &place,
            error.logged(),
            "name the address of the key set itself, and let this machine reach it",
        ),
    }
}

fn mend_file(error: &Error) -> &'static str {
    match error {
        Error::Sqlite { action: "load the cloudsync library", .. } => {
            "name the cloudsync library of this release in `extension`"
        }
        _ => "name a file in `url` that the hub's user may write, in a directory that it may write to",
    }
}
