//! The databases that are served: started with the hub, and added, changed and removed while it runs.
//!
//! Invariant: of one name at most one feed runs. Whoever goes over the databases takes a list that stands still;
//! a database that is removed meanwhile ends its waits and answers what it still can.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Map, Value};
use tokio::sync::{Mutex, watch};

use super::health::Probe;
use crate::auth::api_key::{ApiKey, ApiKeys, PresentedKey};
use crate::auth::{Door, Tokens};
use crate::backend::{self, Backend};
use crate::config::{DatabaseConfig, DatabaseName, InboxKey, MemoryConfig, SCOPES_INTERVAL};
use crate::error::Result;
use crate::feed::Feed;
use crate::horizon::Horizon;
use crate::inbox::Inbox;
use crate::jobs::{self, Bell};
use crate::keys::Keys;
use crate::limits::{Limits, Node};
use crate::memory::Memory;
use crate::metrics::{DatabaseMetrics, Metrics};
use crate::shutdown::{Shutdown, asked};
use crate::store::Store;
use crate::weigh;

/// Longest wait for the feed of a database that is removed: what the store lacks comes again from the slot.
const END_MAX: Duration = Duration::from_secs(5);

/// Where a database comes from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Origin {
    /// From the file of the hub: it stays as long as the hub runs.
    File,
    /// From the control database, with these settings.
    Control {
        /// As they are kept.
        settings: Map<String, Value>,
    },
}

/// One database that is served.
pub(crate) struct Database {
    pub(crate) name: DatabaseName,
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) feed: Arc<Feed>,
    pub(crate) metrics: DatabaseMetrics,
    pub(crate) probe: Probe,
    pub(crate) origin: Origin,
    config: DatabaseConfig,
    /// Takes uploads while its Postgres is away.
    pub(crate) inbox: Inbox,
    /// How far its sites are.
    pub(crate) horizon: Horizon,
    /// What it may take of this node.
    pub(crate) limits: Limits,
    /// Wakes whoever does its jobs.
    pub(crate) bell: Bell,
    keys: RwLock<Arc<ApiKeys>>,
    tokens: Option<Tokens>,
    shutdown: Shutdown,
    ending: watch::Receiver<bool>,
}

impl Database {
    /// Who may use it, as of now.
    pub(crate) fn keys(&self) -> Arc<ApiKeys> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What it was told.
    pub(crate) fn config(&self) -> &DatabaseConfig {
        &self.config
    }

    /// Takes these keys beside those of the file, in place of what it was given before.
    pub(crate) fn set_stored_keys(&self, stored: impl Iterator<Item = ApiKey>) {
        let keys = Arc::new(self.config.api_keys.and(stored));
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    /// Whether somebody who may use it could still act as this role.
    pub(crate) fn allows_role(&self, role: Option<&str>) -> bool {
        let by_token = role.zip(self.tokens.as_ref()).is_some_and(|(role, tokens)| tokens.allows(role));
        by_token || self.keys().allow_role(role)
    }

    /// How often it is looked up whether somebody who waits may read more or less.
    pub(crate) fn scopes_interval(&self) -> Duration {
        self.config.tokens.as_ref().map_or(SCOPES_INTERVAL, |tokens| tokens.scopes_interval)
    }

    /// What hears that the hub ends, or that the database is not served any more.
    pub(crate) fn ending(&self) -> watch::Receiver<bool> {
        self.ending.clone()
    }

    async fn stop(&self) {
        self.shutdown.ask();
        if tokio::time::timeout(END_MAX, self.feed.ended()).await.is_err() {
            tracing::warn!(database = self.name.as_str(), "ingest was cut off at the end");
        }
    }
}

impl Door for Arc<Database> {
    fn find_key(&self, presented: &PresentedKey) -> Option<ApiKey> {
        self.keys().find(presented).cloned()
    }

    fn tokens(&self) -> Option<&Tokens> {
        self.tokens.as_ref()
    }
}

/// All databases by their names, at one instant.
pub(crate) type DatabaseList = Arc<BTreeMap<DatabaseName, Arc<Database>>>;

/// The databases of one hub.
pub(crate) struct Databases {
    store: Arc<dyn Store>,
    memory: Arc<Memory>,
    node: Arc<Node>,
    inbox_key: Option<InboxKey>,
    metrics: Metrics,
    shutdown: watch::Receiver<bool>,
    list: RwLock<DatabaseList>,
    /// Held by whoever changes the list.
    changing: Mutex<()>,
}

impl Databases {
    /// Serves nothing yet.
    pub(crate) fn new(
        store: &Arc<dyn Store>,
        memory: &MemoryConfig,
        inbox_key: Option<&InboxKey>,
        connections_max: usize,
        metrics: &Metrics,
        shutdown: &watch::Receiver<bool>,
    ) -> Databases {
        Databases {
            store: Arc::clone(store),
            memory: Memory::new(memory, metrics.store()),
            node: Node::new(connections_max),
            inbox_key: inbox_key.cloned(),
            metrics: metrics.clone(),
            shutdown: shutdown.clone(),
            list: RwLock::default(),
            changing: Mutex::new(()),
        }
    }

    /// All databases, as of now.
    pub(crate) fn all(&self) -> DatabaseList {
        Arc::clone(&self.list.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What they share of this node.
    pub(crate) fn node(&self) -> &Node {
        &self.node
    }

    /// The object store that they share.
    pub(crate) fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Serves a database from now on, in place of the one of its name that was served before.
    pub(crate) async fn serve(&self, config: &DatabaseConfig, origin: Origin) -> Result<()> {
        let _alone = self.changing.lock().await;
        let backend = backend::open(config)?;
        if let Some(before) = self.all().get(&config.name) {
            before.stop().await;
        }
        let database = Arc::new(self.start(config, backend, origin));
        tokio::spawn(jobs::run(Arc::clone(&database)));
        tokio::spawn(weigh::run(Arc::clone(&database)));
        self.change(|list| list.insert(config.name.clone(), database));
        self.metrics.show(config.name.as_str());
        Ok(())
    }

    /// Serves the database of this name no more; says whether it was served.
    pub(crate) async fn remove(&self, name: &DatabaseName) -> bool {
        let _alone = self.changing.lock().await;
        let Some(removed) = self.change(|list| list.remove(name)) else { return false };
        removed.stop().await;
        self.metrics.hide(name.as_str());
        true
    }

    /// Waits until every feed has ended after the shutdown was asked for.
    pub(crate) async fn ended(&self) {
        let all = self.all();
        join_all(all.values().map(|database| database.feed.ended())).await;
    }

    fn start(&self, config: &DatabaseConfig, backend: Arc<dyn Backend>, origin: Origin) -> Database {
        let (shutdown, ending) = Shutdown::new();
        let feed = Feed::start(
            config.name.clone(),
            Arc::clone(&backend),
            Arc::clone(&self.store),
            &self.memory,
            &self.metrics,
            ending.clone(),
        );
        let metrics = self.metrics.database(config.name.as_str());
        tokio::spawn(pass_on(self.shutdown.clone(), ending.clone(), shutdown.clone()));
        Database {
            name: config.name.clone(),
            backend,
            feed,
            probe: Probe::default(),
            origin,
            config: config.clone(),
            inbox: Inbox::new(
                Arc::clone(&self.store),
                Keys::new(config.name.as_str()),
                self.inbox_key.as_ref(),
            ),
            horizon: Horizon::default(),
            limits: Limits::new(config.limits, &self.node, metrics.clone()),
            bell: Bell::default(),
            keys: RwLock::new(Arc::new(config.api_keys.clone())),
            tokens: config.tokens.as_ref().map(|tokens| Tokens::new(tokens, &metrics)),
            metrics,
            shutdown,
            ending,
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut BTreeMap<DatabaseName, Arc<Database>>) -> T) -> T {
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        change(Arc::make_mut(&mut list))
    }
}

/// Ends a database when the hub ends.
async fn pass_on(mut hub: watch::Receiver<bool>, mut database: watch::Receiver<bool>, shutdown: Shutdown) {
    tokio::select! {
        () = asked(&mut hub) => shutdown.ask(),
        () = asked(&mut database) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Environment};

    /// A database whose Postgres nobody listens for.
    fn config(key: &str) -> DatabaseConfig {
        let text = format!(
            "listen = \"127.0.0.1:0\"\nstore = \"file:///s\"\n[[database]]\nname = \"demo\"\n\
             url = \"postgres://nobody@127.0.0.1:1/demo\"\napi_keys = [{{ key = \"{key}\" }}]\n"
        );
        Config::parse(&text, &Environment::new()).unwrap().databases.remove(0)
    }

    #[tokio::test]
    async fn databases_come_change_and_go_while_the_hub_runs() {
        let home = tempfile::tempdir().unwrap();
        let metrics = Metrics::new().unwrap();
        let location = crate::config::StoreLocation::Directory(home.path().to_owned());
        let store = crate::store::open(&location, &metrics).await.unwrap();
        let (hub, ending) = Shutdown::new();
        let databases = Databases::new(&store, &MemoryConfig::default(), None, 10, &metrics, &ending);
        assert!(databases.all().is_empty());

        databases.serve(&config("first-0123456789abcdef0123456789"), Origin::File).await.unwrap();
        let first = databases.all().values().next().cloned().unwrap();
        databases.serve(&config("second-0123456789abcdef0123456789"), Origin::File).await.unwrap();
        let second = databases.all().values().next().cloned().unwrap();
        assert!(*first.ending().borrow(), "the one before was ended");
        assert!(!*second.ending().borrow());
        let shown = || String::from_utf8(metrics.render().unwrap()).unwrap().contains("database=\"demo\"");
        assert!(shown());

        assert!(databases.remove(&second.name).await);
        assert!(!databases.remove(&second.name).await);
        assert!(*second.ending().borrow() && databases.all().is_empty());
        assert!(!shown(), "a database that is gone has no series");

        databases.serve(&config("third-0123456789abcdef0123456789"), Origin::File).await.unwrap();
        assert!(shown());
        hub.ask();
        databases.ended().await;
    }
}
