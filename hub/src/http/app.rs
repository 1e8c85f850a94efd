//! What the handlers of requests share: the databases, the metrics, the room for uploads.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use warp::http::header;

use super::asker::Asker;
use super::health::Probe;
use super::problem::Problem;
use crate::auth::api_key::ApiKeys;
use crate::auth::{Caller, authenticate, read_bearer};
use crate::backend::{self, Backend};
use crate::config::{DatabaseConfig, DatabaseName};
use crate::error::{Error, Result};
use crate::feed::Feed;
use crate::metrics::{DatabaseMetrics, Metrics};
use crate::store::Store;

/// Most uploads whose bodies are in memory at once: 32 times 8 MiB.
const UPLOADS_MAX: usize = 32;

/// Longest wait for room for one more.
const ROOM_TIMEOUT: Duration = Duration::from_secs(10);

/// One database that is served.
pub(crate) struct Database {
    pub(crate) name: DatabaseName,
    pub(crate) keys: ApiKeys,
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) feed: Arc<Feed>,
    pub(crate) metrics: DatabaseMetrics,
    pub(crate) probe: Probe,
}

/// Everything that the handlers of requests share.
pub(crate) struct App {
    pub(crate) databases: BTreeMap<DatabaseName, Arc<Database>>,
    pub(crate) metrics: Metrics,
    pub(crate) shutdown: watch::Receiver<bool>,
    uploads: Arc<Semaphore>,
}

impl App {
    /// Starts the feed of every database.
    pub(crate) fn start(
        databases: &[DatabaseConfig],
        store: &Arc<dyn Store>,
        metrics: &Metrics,
        shutdown: &watch::Receiver<bool>,
    ) -> Result<App> {
        let start = |database: &DatabaseConfig| {
            let backend = backend::open(database)?;
            let feed = Feed::start(
                database.name.clone(),
                Arc::clone(&backend),
                Arc::clone(store),
                metrics,
                shutdown.clone(),
            );
            let served = Database {
                name: database.name.clone(),
                keys: database.api_keys.clone(),
                backend,
                feed,
                metrics: metrics.database(database.name.as_str()),
                probe: Probe::default(),
            };
            Ok((database.name.clone(), Arc::new(served)))
        };
        Ok(App {
            databases: databases.iter().map(start).collect::<Result<_>>()?,
            metrics: metrics.clone(),
            shutdown: shutdown.clone(),
            uploads: Arc::new(Semaphore::new(UPLOADS_MAX)),
        })
    }

    /// Decides who asks for the database of this name.
    pub(crate) async fn admit(
        &self,
        name: &str,
        asker: &Asker,
    ) -> std::result::Result<(Arc<Database>, Caller), Problem> {
        let presented = read_bearer(asker.headers.get(header::AUTHORIZATION).map(|value| value.as_bytes()))?;
        let all = self.databases.values().map(|database| (&database.name, &database.keys, database));
        let admitted = authenticate(name, &presented, all);
        if let Err(problem) = &admitted {
            tracing::debug!(address = %asker.address, code = problem.kind().slug(), "not admitted");
        }
        admitted.map(|(database, caller)| (Arc::clone(database), caller))
    }

    /// Waits for room for one more upload; it is free again when the permit is dropped.
    pub(crate) async fn room_for_upload(&self) -> Result<OwnedSemaphorePermit> {
        let waiting = Arc::clone(&self.uploads).acquire_owned();
        match tokio::time::timeout(ROOM_TIMEOUT, waiting).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(Error::Unavailable { reason: "too many uploads at once".to_owned() }),
        }
    }
}
