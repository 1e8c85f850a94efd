//! Brings what a node serves in line with the control database: at the start, when it changes, now and then.
//!
//! Invariant: a control database that is away or broken changes nothing of what is served. What the file says is
//! never changed from here, except that its databases get further keys.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use serde_json::{Map, Value};
use tokio::sync::{mpsc, watch};
use tokio_postgres::AsyncMessage;

use super::{Contents, Control, StoredKey};
use crate::config::{DatabaseConfig, DatabaseName};
use crate::error::{Error, Result};
use crate::http::databases::{Databases, Origin};
use crate::postgres::{TlsConnector, connect};
use crate::shutdown::asked;

/// Time between two looks when nobody tells of a change: a notification can be lost with its connection.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);

/// A node that has not been heard of for so long is gone: three looks that did not come.
const SILENCE_MAX: Duration = Duration::from_secs(90);

/// Longest wait at the end for the control database to hear of it.
const LEAVE_MAX: Duration = Duration::from_secs(1);

/// Wait after a failure.
const RETRY: Duration = Duration::from_secs(1);

/// Follows one control database.
pub(crate) struct Follower {
    pub(crate) control: Control,
    /// What this node is known by, as long as it runs.
    node: String,
    databases: Arc<Databases>,
    /// Held while what is served is compared with what should be.
    comparing: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

/// How far following is.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    /// It was read at least once.
    pub(crate) known: bool,
    /// What went wrong last and was not mended since.
    pub(crate) problem: Option<String>,
    /// Databases that are kept but cannot be served, and why.
    pub(crate) broken: BTreeMap<String, String>,
    /// The keys that are kept.
    pub(crate) keys: Vec<StoredKey>,
    /// How many nodes there are.
    pub(crate) nodes: u32,
}

impl Follower {
    pub(crate) fn new(control: Control, databases: Arc<Databases>) -> Result<Follower> {
        let mut random = [0_u8; 16];
        getrandom::fill(&mut random).map_err(|_| Error::RandomBytes)?;
        let node = crate::hex::encode(&random);
        Ok(Follower {
            control,
            node,
            databases,
            comparing: tokio::sync::Mutex::new(()),
            state: Mutex::default(),
        })
    }

    /// How far following is.
    pub(crate) fn state(&self) -> State {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_state(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Follows until the hub ends.
    pub(crate) async fn run(self: Arc<Self>, mut shutdown: watch::Receiver<bool>) {
        loop {
            let outcome = tokio::select! {
                outcome = self.listen() => outcome,
                () = asked(&mut shutdown) => return self.leave().await,
            };
            if let Err(error) = outcome {
                let problem = error.logged();
                let mut news = false;
                self.set_state(|state| {
                    news = state.problem.as_ref() != Some(&problem);
                    state.problem = Some(problem.clone());
                });
                if news {
                    tracing::warn!(problem, "control database is not followed, trying again");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                () = asked(&mut shutdown) => return self.leave().await,
            }
        }
    }

    /// Tells the other nodes that this one ends; without an answer they find out by themselves.
    async fn leave(&self) {
        let left = tokio::time::timeout(LEAVE_MAX, self.control.leave(&self.node)).await;
        if let Ok(Err(error)) = left {
            tracing::debug!(problem = error.logged(), "control database was not told of the end");
        }
    }

    /// Looks at once, and whenever the control database tells of a change, until the connection ends.
    async fn listen(&self) -> Result<()> {
        self.look().await?;
        let tls = TlsConnector::new(&self.control.url)?;
        let (client, mut connection) = connect(&self.control.url, &tls).await?;
        let (told, mut changes) = mpsc::channel::<()>(1);
        let driver = async move {
            let mut messages = futures_util::stream::poll_fn(move |cx| connection.poll_message(cx));
            while let Some(message) = messages.next().await {
                if let AsyncMessage::Notification(_) = message.map_err(Error::Postgres)? {
                    // One that waits already stands for this one too.
                    let _told = told.try_send(());
                }
            }
            Err(Error::Unavailable { reason: "connection to the control database ended".to_owned() })
        };
        let looks = async {
            client.batch_execute("listen cloudsync_control").await.map_err(Error::Postgres)?;
            loop {
                // Also after listening began: what changed in between was told to nobody.
                self.look().await?;
                if let Ok(None) = tokio::time::timeout(LOOK_INTERVAL, changes.recv()).await {
                    return Ok(());
                }
            }
        };
        tokio::select! {
            ended = driver => ended,
            ended = looks => ended,
        }
    }

    /// Reads the control database and brings what is served in line with it.
    pub(crate) async fn look(&self) -> Result<()> {
        let _alone = self.comparing.lock().await;
        self.control.see(&self.node, SILENCE_MAX).await?;
        let contents = self.control.read().await?;
        self.databases.node().set_nodes(contents.nodes);
        let broken = self.follow(&contents).await;
        for (name, problem) in &broken {
            tracing::warn!(database = name, problem, "database of the control database is not served");
        }
        let (known, problem, nodes) = (true, None, contents.nodes);
        self.set_state(|state| *state = State { known, problem, broken, keys: contents.keys, nodes });
        Ok(())
    }

    /// Adds, changes and removes databases; tells which cannot be served, and why.
    async fn follow(&self, contents: &Contents) -> BTreeMap<String, String> {
        let mut broken = BTreeMap::new();
        let mut wanted = BTreeMap::new();
        for stored in &contents.databases {
            let read = DatabaseName::new(&stored.name)
                .ok_or_else(|| Error::Unavailable {
                    reason: "its name is not one that URLs can hold".to_owned(),
                })
                .and_then(|name| DatabaseConfig::of_settings(&name, &stored.settings));
            match read {
                Ok(config) => drop(wanted.insert(config.name.clone(), (config, stored.settings.clone()))),
                Err(error) => drop(broken.insert(stored.name.clone(), error.to_string())),
            }
        }
        for (name, database) in self.databases.all().iter() {
            let is_kept = contents.databases.iter().any(|stored| stored.name == name.as_str());
            if matches!(database.origin, Origin::Control { .. }) && !is_kept {
                self.databases.remove(name).await;
                tracing::info!(database = name.as_str(), "database is served no more");
            }
        }
        for (name, (config, settings)) in wanted {
            let served = self.databases.all().get(&name).cloned();
            match served.as_ref().map(|database| (&database.origin, &database.limits)) {
                Some((Origin::File, _limits)) => {
                    broken.insert(name.to_string(), "the file has a database of this name".to_owned());
                }
                Some((Origin::Control { settings: served }, limits)) if are_alike(served, &settings) => {
                    limits.set(config.limits);
                }
                Some((Origin::Control { .. }, _)) | None => {
                    let served = self.databases.serve(&config, Origin::Control { settings }).await;
                    match served {
                        Ok(()) => tracing::info!(database = name.as_str(), "database is served"),
                        Err(error) => drop(broken.insert(name.to_string(), error.logged())),
                    }
                }
            }
        }
        for database in self.databases.all().values() {
            let of_it = contents.keys.iter().filter(|key| key.database == database.name.as_str());
            database.set_stored_keys(of_it.filter_map(StoredKey::api_key));
        }
        broken
    }
}

/// Whether settings differ in limits at most: those change without a new feed.
fn are_alike(served: &Map<String, Value>, wanted: &Map<String, Value>) -> bool {
    let rest = |settings: &Map<String, Value>| {
        let mut rest = settings.clone();
        rest.remove("limits");
        rest
    };
    rest(served) == rest(wanted)
}
