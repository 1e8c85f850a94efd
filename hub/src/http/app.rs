//! What the handlers of requests share: the databases, the metrics, the room for uploads.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::asker::Asker;
use super::databases::{Databases, Origin};
use super::guest::Guest;
use super::problem::{Problem, ProblemKind};
use super::room::{Place, Room};
use crate::auth::api_key::ApiKeys;
use crate::auth::failures::Failures;
use crate::auth::{Caller, authenticate, read_bearer};
use crate::config::{Config, DatabaseName, EdgesConfig};
use crate::control::Control;
use crate::control::follow::Follower;
use crate::error::Result;
use crate::metrics::Metrics;
use crate::store::Store;

pub(crate) use super::databases::Database;

/// Most uploads whose bodies are in memory at once: 48 times 8 MiB. One database alone gets half of the places, which
/// is more than it has connections.
const UPLOADS_MAX: usize = 48;

/// Longest wait for room for one more.
const ROOM_TIMEOUT: Duration = Duration::from_secs(10);

/// Everything that the handlers of requests share.
pub(crate) struct App {
    pub(crate) databases: Arc<Databases>,
    pub(crate) admin: ApiKeys,
    pub(crate) control: Option<Arc<Follower>>,
    pub(crate) metrics: Metrics,
    pub(crate) shutdown: watch::Receiver<bool>,
    uploads: Room,
    pub(super) failures: Failures,
    edges: EdgesConfig,
}

impl App {
    /// Starts the feed of every database.
    pub(crate) async fn start(
        config: &Config,
        store: &Arc<dyn Store>,
        metrics: &Metrics,
        shutdown: &watch::Receiver<bool>,
    ) -> Result<App> {
        let connections_max = config.edges.connections_max;
        let databases = Arc::new(Databases::new(
            store,
            &config.memory,
            config.inbox_key.as_ref(),
            connections_max,
            metrics,
            shutdown,
        ));
        for database in &config.databases {
            databases.serve(database, Origin::File).await?;
        }
        let control = match &config.control.url {
            Some(url) => {
                let follower = Arc::new(Follower::new(Control::new(url)?, Arc::clone(&databases))?);
                tokio::spawn(Arc::clone(&follower).run(shutdown.clone()));
                Some(follower)
            }
            None => None,
        };
        Ok(App {
            databases,
            admin: config.control.admin_keys.clone(),
            control,
            metrics: metrics.clone(),
            shutdown: shutdown.clone(),
            uploads: Room::new(UPLOADS_MAX),
            failures: Failures::new(),
            edges: config.edges.clone(),
        })
    }

    /// Decides who asks for the database of this name, and takes the request if the database may have one more.
    pub(crate) async fn admit(
        &self,
        name: &str,
        asker: &Asker,
    ) -> std::result::Result<(Arc<Database>, Caller), Problem> {
        let all = self.databases.all();
        let known = all.keys().any(|known| known.as_str() == name);
        let guest = Guest::read(self, asker, if known { name } else { "" })?;
        match authenticate(name, &guest.shown, all.values().map(|all| (&all.name, all))).await {
            Ok((database, caller)) => {
                guest.is_right();
                database.limits.request(Instant::now())?;
                Ok((Arc::clone(database), caller))
            }
            Err(denied) => {
                guest.is_denied(denied.reason, denied.is_guess());
                Err(denied.problem)
            }
        }
    }

    /// The edges of the server.
    pub(crate) fn edges(&self) -> &EdgesConfig {
        &self.edges
    }

    /// Lets those in who may look at the insides of the hub: everybody, if no key is configured for that.
    pub(crate) fn admit_monitoring(&self, asker: &Asker) -> std::result::Result<(), Problem> {
        let Some(keys) = &self.edges.monitoring_key else { return Ok(()) };
        let shown = read_bearer(asker.authorization())?;
        if keys.find(&shown.presented()).is_some() {
            return Ok(());
        }
        self.metrics.count_auth_failure("", "monitoring");
        Err(Problem::new(ProblemKind::Unauthorized, "the key is not the one for monitoring"))
    }

    /// Lets an operator in, and nobody else.
    pub(crate) fn admit_operator(&self, asker: &Asker) -> std::result::Result<(), Problem> {
        let guest = Guest::read(self, asker, "")?;
        if self.admin.find(&guest.shown.presented()).is_some() {
            guest.is_right();
            return Ok(());
        }
        guest.is_denied("key", true);
        Err(Problem::new(ProblemKind::Unauthorized, "API key is not one of the hub's `admin_keys`"))
    }

    /// Waits for room for one more upload to a database; it is free again when the place is dropped.
    pub(crate) async fn room_for_upload(&self, database: &DatabaseName) -> Result<Place> {
        self.uploads.enter(database, ROOM_TIMEOUT).await
    }
}
