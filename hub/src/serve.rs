//! `hub serve`: opens the store, starts a feed for every database, answers requests until it is told to end.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::http;
use crate::http::app::App;
use crate::metrics::Metrics;
use crate::store;

/// A hub that listens.
pub struct Server {
    address: SocketAddr,
    app: Arc<App>,
    listener: TcpListener,
    ending: watch::Receiver<bool>,
}

impl Server {
    /// Opens everything that a hub needs before it can answer; Postgres may come later.
    pub async fn start(config: &Config, ending: watch::Receiver<bool>) -> Result<Server> {
        let metrics = Metrics::new()?;
        let store = store::open(&config.store, &metrics).await?;
        let unusable = |source| Error::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(unusable)?;
        let address = listener.local_addr().map_err(unusable)?;
        let app = Arc::new(App::start(&config.databases, &store, &metrics, &ending)?);
        tracing::info!(%address, databases = config.databases.len(), "listening");
        Ok(Server { address, app, listener, ending })
    }

    /// The address that it listens on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers requests until the end is asked for.
    pub async fn run(self) -> Result<()> {
        http::serve(self.listener, http::routes(&self.app), self.ending).await?;
        tracing::info!("ended");
        Ok(())
    }
}
