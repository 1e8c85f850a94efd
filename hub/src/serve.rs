//! `hub serve`: opens the store, starts a feed for every database, answers requests until it is told to end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::http;
use crate::http::app::App;
use crate::metrics::Metrics;
use crate::store::{self, Store};

/// Longest time that requests get to finish when the hub ends; supervisors kill after 30 s.
pub const DRAIN_MAX: Duration = Duration::from_secs(20);

/// Longest time that ingest gets to end after the last request. Cutting it off loses nothing: what the store
/// does not hold yet comes again from the slot.
const FEEDS_END_MAX: Duration = Duration::from_secs(5);

/// A hub that listens.
pub struct Server {
    address: SocketAddr,
    app: Arc<App>,
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    ending: watch::Receiver<bool>,
}

impl Server {
    /// Opens everything that a hub needs before it can answer; Postgres may come later.
    pub async fn start(config: &Config, ending: watch::Receiver<bool>) -> Result<Server> {
        let metrics = Metrics::new()?;
        let tls = config.edges.tls.as_ref().map(http::tls_acceptor).transpose()?;
        let store = store::open(&config.store, &metrics).await?;
        let unusable = |source| Error::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(unusable)?;
        let address = listener.local_addr().map_err(unusable)?;
        tokio::spawn(check_store(Arc::clone(&store)));
        let app = Arc::new(App::start(config, &store, &metrics, &ending).await?);
        tracing::info!(%address, databases = config.databases.len(), "listening");
        Ok(Server { address, app, listener, tls, ending })
    }

    /// The address that it listens on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers requests until the end is asked for; those that are under way then get `drain_max` to finish.
    pub async fn run(self, drain_max: Duration) -> Result<()> {
        let (edges, metrics) = (self.app.edges(), self.app.metrics.edges());
        let listening = http::Listening { listener: self.listener, tls: self.tls };
        http::serve(listening, http::routes(&self.app), edges, &metrics, self.ending, drain_max).await?;
        if tokio::time::timeout(FEEDS_END_MAX, self.app.databases.ended()).await.is_err() {
            tracing::warn!("ingest was cut off at the end");
        }
        tracing::info!("ended");
        Ok(())
    }
}

/// Tells the operator what the store does not do; serving goes on, since order comes from Postgres.
async fn check_store(store: Arc<dyn Store>) {
    match store::keeps_existing(&*store).await {
        Ok(true) => {}
        Ok(false) => tracing::warn!("store replaces objects though it is told not to"),
        Err(error) => tracing::warn!(error = error.logged(), "store could not be tried"),
    }
}
