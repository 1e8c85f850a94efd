//! A bounded pool of ordinary connections to one database.
//!
//! A connection goes back only when its user says that it is in order: one whose user gave up, or whose
//! transaction failed, is closed. So nothing of one caller can be seen by the next.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_postgres::Client;

use super::connect::{connect, drive};
use super::{PostgresUrl, TlsConnector};
use crate::error::{Error, Result};

/// Most connections to one database. Applying is CPU and disk in Postgres: more than this only queue there.
const CONNECTIONS_MAX: usize = 16;

/// Longest wait for a free connection.
const LEASE_TIMEOUT: Duration = Duration::from_secs(5);

/// What every new connection is told. Nothing waits for ever; the slowest sound upload takes far less.
const SESSION: &str = "set statement_timeout = '60s'; set lock_timeout = '20s'; \
     set idle_in_transaction_session_timeout = '30s'; set client_min_messages = warning";

/// A pool of connections; clones share it.
#[derive(Clone)]
pub struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    url: PostgresUrl,
    tls: TlsConnector,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Client>>,
}

impl Shared {
    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Client>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the pool, without a connection yet.
pub struct Place {
    pool: Pool,
    permit: OwnedSemaphorePermit,
}

impl Place {
    /// The pool that it belongs to.
    #[must_use]
    pub const fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Takes a connection: an idle one that is still open, else a new one.
    pub async fn connect(self) -> Result<Lease> {
        let client = match self.pool.open_idle() {
            Some(client) => client,
            None => self.pool.open().await?,
        };
        Ok(Lease { client, shared: self.pool.shared, _permit: self.permit })
    }
}

/// A connection in use; closed when dropped, unless it is given back.
pub struct Lease {
    client: Client,
    shared: Arc<Shared>,
    _permit: OwnedSemaphorePermit,
}

impl Lease {
    /// The connection.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The connection, for a transaction.
    pub fn client_mut(&mut self) -> &mut Client {
        &mut self.client
    }

    /// Gives the connection back, in order and outside a transaction.
    pub fn give_back(self) {
        if !self.client.is_closed() {
            self.shared.idle().push(self.client);
        }
    }
}

impl Pool {
    /// Makes an empty pool; connections are opened when they are needed.
    pub fn new(url: &PostgresUrl) -> Result<Pool> {
        Ok(Pool {
            shared: Arc::new(Shared {
                url: url.clone(),
                tls: TlsConnector::new(url)?,
                permits: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
                idle: Mutex::new(Vec::new()),
            }),
        })
    }

    /// Waits for a place.
    pub async fn reserve(&self) -> Result<Place> {
        let busy = || Error::Unavailable { reason: "all connections to postgres are in use".to_owned() };
        let waiting = Arc::clone(&self.shared.permits).acquire_owned();
        let permit =
            tokio::time::timeout(LEASE_TIMEOUT, waiting).await.map_err(|_| busy())?.map_err(|_| busy())?;
        Ok(Place { pool: self.clone(), permit })
    }

    /// Takes a connection.
    pub async fn lease(&self) -> Result<Lease> {
        self.reserve().await?.connect().await
    }

    fn open_idle(&self) -> Option<Client> {
        let mut idle = self.shared.idle();
        idle.retain(|client| !client.is_closed());
        idle.pop()
    }

    async fn open(&self) -> Result<Client> {
        let (client, connection) = connect(&self.shared.url, &self.shared.tls).await?;
        tokio::spawn(drive(connection));
        client.batch_execute(SESSION).await.map_err(Error::Postgres)?;
        Ok(client)
    }

    /// Forgets all idle connections, after one of them turned out to be dead.
    pub fn forget_idle(&self) {
        self.shared.idle().clear();
    }

    /// Asks Postgres for a sign of life.
    pub async fn ping(&self) -> Result<()> {
        let lease = self.lease().await?;
        match lease.client().simple_query("select 1").await {
            Ok(_) => {
                lease.give_back();
                Ok(())
            }
            Err(error) => {
                self.forget_idle();
                Err(Error::Postgres(error))
            }
        }
    }
}
