//! What the handlers of requests share: the databases, the metrics, the room for uploads.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use warp::http::header;

use super::asker::Asker;
use super::databases::Databases;
use super::problem::Problem;
use crate::auth::{Caller, authenticate, read_bearer};
use crate::config::DatabaseConfig;
use crate::error::{Error, Result};
use crate::metrics::Metrics;
use crate::store::Store;

pub(crate) use super::databases::Database;

/// Most uploads whose bodies are in memory at once: 32 times 8 MiB.
const UPLOADS_MAX: usize = 32;

/// Longest wait for room for one more.
const ROOM_TIMEOUT: Duration = Duration::from_secs(10);

/// Everything that the handlers of requests share.
pub(crate) struct App {
    pub(crate) databases: Databases,
    pub(crate) metrics: Metrics,
    pub(crate) shutdown: watch::Receiver<bool>,
    uploads: Arc<Semaphore>,
}

impl App {
    /// Starts the feed of every database.
    pub(crate) async fn start(
        databases: &[DatabaseConfig],
        store: &Arc<dyn Store>,
        metrics: &Metrics,
        shutdown: &watch::Receiver<bool>,
    ) -> Result<App> {
        let app = App {
            databases: Databases::new(store, metrics, shutdown),
            metrics: metrics.clone(),
            shutdown: shutdown.clone(),
            uploads: Arc::new(Semaphore::new(UPLOADS_MAX)),
        };
        for database in databases {
            app.databases.serve(database).await?;
        }
        Ok(app)
    }

    /// Decides who asks for the database of this name.
    pub(crate) async fn admit(
        &self,
        name: &str,
        asker: &Asker,
    ) -> std::result::Result<(Arc<Database>, Caller), Problem> {
        let presented = read_bearer(asker.headers.get(header::AUTHORIZATION).map(|value| value.as_bytes()))?;
        let all = self.databases.all();
        let admitted = authenticate(name, &presented, all.values().map(|all| (&all.name, all.keys(), all)));
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
