//! Opens a transaction in Postgres whose snapshot stands for a known place in the log.
//!
//! The leader knows the place by the transactions that it decoded. Where nobody knows, a temporary slot is made:
//! the snapshot that it exports stands for the place where the slot begins. Clients get nothing of it before the
//! synchronous standbys have what it shows.

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Statement};

use crate::backend::{Page, PageWanted, SnapshotRows};
use crate::epoch::{Epoch, ServerIdentity};
use crate::error::{Error, Result};
use crate::feed::log::Log;
use crate::ground::PLUGIN;
use crate::ingest::{read_snapshot, standbys_flushed};
use crate::position::Lsn;
use crate::postgres::{PostgresUrl, TlsConnector, connect};
use crate::replication::{ReplicationConnection, SlotKind};

/// How long the leader's knowledge is waited for; a transaction becomes visible soon after it was decoded.
const PLACE_WAIT_MAX: Duration = Duration::from_secs(2);
const PLACE_INTERVAL: Duration = Duration::from_millis(20);

/// How long the making of a temporary slot may wait for running transactions to end.
const SLOT_WAIT_MAX: Duration = Duration::from_secs(30);

/// How long synchronous standbys may take to have what the transaction shows.
const STANDBYS_WAIT_MAX: Duration = Duration::from_secs(30);

/// Writes something, so that the end of this transaction puts the WAL on the disk up to there.
const FLUSH: &str = "begin; set local synchronous_commit = local; set local role cloudsync_owner; \
    select from cloudsync.secret for key share; commit";

/// Not read only: the database may have to name itself as a site first.
const BEGIN: &str = "begin isolation level repeatable read";

/// An open transaction that shows everything up to a place in the log.
pub(super) struct Anchored {
    lsn: Lsn,
    client: Client,
    page: Option<Statement>,
    driver: JoinHandle<()>,
}

impl Drop for Anchored {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Anchored {
    async fn read_tables(&self) -> Result<Vec<i32>> {
        let sql = "select table_id from cloudsync.tracked_tables order by table_id";
        let tables = self.client.query(sql, &[]).await.map_err(Error::Postgres)?;
        Ok(tables.iter().map(|table| table.get(0)).collect())
    }

    async fn read_page(&mut self, wanted: PageWanted) -> Result<Option<Page>> {
        let statement = match &self.page {
            Some(statement) => statement,
            None => {
                let sql = include_str!("../../../../sql/hub/snapshot_page.sql");
                self.page.insert(self.client.prepare(sql).await.map_err(Error::Postgres)?)
            }
        };
        let PageWanted { table, dead, after, rows_max } = wanted;
        let parameters: &[&(dyn ToSql + Sync)] = &[&table, &dead, &after, &rows_max];
        let page = self.client.query_opt(statement, parameters).await.map_err(Error::Postgres)?;
        Ok(page.map(|page| Page {
            payload: page.get("payload"),
            rows: page.get("row_count"),
            next: page.get("next"),
        }))
    }
}

impl SnapshotRows for Anchored {
    fn lsn(&self) -> Lsn {
        self.lsn
    }

    fn tables(&mut self) -> BoxFuture<'_, Result<Vec<i32>>> {
        self.read_tables().boxed()
    }

    fn page(&mut self, page: PageWanted) -> BoxFuture<'_, Result<Option<Page>>> {
        self.read_page(page).boxed()
    }

    /// Stamps of what nobody wrote since it is tracked carry the site that this transaction may have named, so it
    /// is committed.
    fn finish(self: Box<Self>) -> BoxFuture<'static, Result<()>> {
        async move { self.client.batch_execute("commit").await.map_err(Error::Postgres) }.boxed()
    }
}

/// Opens such a transaction, as the owner of the metadata and without row security. The place is asked of the log, if
/// there is one here.
pub(super) async fn open(url: &PostgresUrl, log: Option<&Log>, epoch: &Epoch) -> Result<Anchored> {
    let tls = TlsConnector::new(url)?;
    let (client, connection) = connect(url, &tls).await?;
    let driver = tokio::spawn(async move {
        // Whoever waits for an answer is told the same error.
        drop(connection.await);
    });
    let mut anchored = Anchored { lsn: Lsn::ZERO, client, page: None, driver };
    let known = match log {
        Some(log) => by_visibility(log, epoch, &anchored.client).await?,
        None => None,
    };
    anchored.lsn = match known {
        Some(lsn) => lsn,
        None => by_slot(url, epoch, &anchored.client).await?,
    };
    wait_for_standbys(url, &tls, &anchored.client).await?;
    let owner = "set local role cloudsync_owner; set local row_security = off";
    anchored.client.batch_execute(owner).await.map_err(Error::Postgres)?;
    Ok(anchored)
}

/// Waits until the synchronous standbys, where there are any, have all that the transaction shows. It also shows what
/// was committed without waiting for them, or for the disk.
async fn wait_for_standbys(url: &PostgresUrl, tls: &TlsConnector, shows: &Client) -> Result<()> {
    if standbys_flushed(shows).await?.is_none() {
        return Ok(());
    }
    let (client, connection) = connect(url, tls).await?;
    // It ends with the client.
    tokio::spawn(async move { drop(connection.await) });
    client.batch_execute(FLUSH).await.map_err(Error::Postgres)?;
    let sql = "select pg_catalog.pg_current_wal_flush_lsn()::text";
    let end: Lsn = client.query_one(sql, &[]).await.map_err(Error::Postgres)?.get::<_, &str>(0).parse()?;
    let deadline = Instant::now() + STANDBYS_WAIT_MAX;
    while standbys_flushed(&client).await?.is_some_and(|flushed| flushed < end) {
        if Instant::now() >= deadline {
            let reason = "synchronous standbys lack what a snapshot would show".to_owned();
            return Err(Error::Unavailable { reason });
        }
        tokio::time::sleep(PLACE_INTERVAL).await;
    }
    Ok(())
}

/// Asks the leader's list of decoded transactions; None if this node does not lead.
async fn by_visibility(log: &Log, epoch: &Epoch, client: &Client) -> Result<Option<Lsn>> {
    let deadline = Instant::now() + PLACE_WAIT_MAX;
    while log.is_leading() {
        client.batch_execute(BEGIN).await.map_err(Error::Postgres)?;
        let sql = "select pg_catalog.pg_current_snapshot()::text";
        let row = client.query_one(sql, &[]).await.map_err(Error::Postgres)?;
        let shown = read_snapshot(row.get(0))?;
        if let Some(lsn) = log.place_of(epoch.id, &shown) {
            return Ok(Some(lsn));
        }
        client.batch_execute("rollback").await.map_err(Error::Postgres)?;
        if Instant::now() >= deadline {
            break;
        }
        tokio::time::sleep(PLACE_INTERVAL).await;
    }
    Ok(None)
}

/// Uses the snapshot that a temporary slot exports. The slot goes with its connection.
async fn by_slot(url: &PostgresUrl, epoch: &Epoch, client: &Client) -> Result<Lsn> {
    let mut connection = ReplicationConnection::connect(url).await?;
    let identity = connection.identify_system().await?;
    let sql = "select oid from pg_catalog.pg_database where datname = pg_catalog.current_database()";
    let database_oid = client.query_one(sql, &[]).await.map_err(Error::Postgres)?.get(0);
    let server = ServerIdentity { system: identity.system, lineage: identity.lineage, database_oid };
    epoch.check_server(&server)?;
    let number = getrandom::u64().map_err(|_unsupported| Error::RandomBytes)?;
    let name = format!("cloudsync_snapshot_{number:016x}");
    let made = connection.create_slot(&name, PLUGIN, SlotKind::TemporaryWithSnapshot);
    let made = timeout(SLOT_WAIT_MAX, made).await.map_err(|_elapsed| Error::Unavailable {
        reason: "a transaction that runs for long keeps a snapshot from being made".to_owned(),
    })??;
    let exported = made.snapshot.filter(|name| is_snapshot_name(name));
    let exported =
        exported.ok_or(Error::ReplicationProtocol { what: "answer to CREATE_REPLICATION_SLOT" })?;
    if made.consistent_point < epoch.start {
        return Err(Error::Unavailable { reason: "the epoch has only just begun".to_owned() });
    }
    let sql = format!("{BEGIN}; set transaction snapshot '{exported}'");
    client.batch_execute(&sql).await.map_err(Error::Postgres)?;
    Ok(made.consistent_point)
}

/// The name goes into a command that takes no parameters.
fn is_snapshot_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_name_of_an_exported_snapshot_goes_into_a_command() {
        assert!(is_snapshot_name("00000003-0000001B-1"));
        for name in ["", "1' ; drop table t; --", "x"] {
            assert!(!is_snapshot_name(name), "{name:?}");
        }
    }
}
