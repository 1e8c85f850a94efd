//! Postgres as a backend: SQL over a pool of ordinary connections, replication for the log.

mod anchor;
mod apply;
mod jobs;
mod report;

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::Value;
use shared_format::SiteId;
use tokio_postgres::types::{ToSql, Type};

use super::{Backend, Report, SnapshotRows, UploadPlace};
use crate::epoch::Epoch;
use crate::error::{Error, Result};
use crate::feed::log::Log;
use crate::ingest::Ingest;
use crate::jobs::queue::JobQueue;
use crate::position::Lsn;
use crate::postgres::{Pool, PostgresUrl};

/// Longest wait for the number of a site.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest wait for tombstones to go: beyond the limit on a statement, so that it means a dead connection.
const COLLECT_TIMEOUT: Duration = Duration::from_secs(70);

/// One Postgres database.
pub(super) struct Postgres {
    url: PostgresUrl,
    pool: Pool,
}

impl Postgres {
    pub(super) fn new(url: &PostgresUrl) -> Result<Postgres> {
        Ok(Postgres { url: url.clone(), pool: Pool::new(url)? })
    }

    async fn ask_acked(&self, site: SiteId) -> Result<Option<i64>> {
        let lease = self.pool.lease().await?;
        let bytes: &[u8] = site.as_bytes();
        let parameters: [(&(dyn ToSql + Sync), Type); 1] = [(&bytes, Type::BYTEA)];
        let asked = lease.client().query_typed("select cloudsync.site_acked($1)", &parameters);
        let silent = || Error::Unavailable { reason: "postgres did not answer in time".to_owned() };
        let rows = tokio::time::timeout(ANSWER_TIMEOUT, asked).await.map_err(|_elapsed| silent())?;
        let rows = rows.map_err(Error::Postgres)?;
        let acked = rows.first().and_then(|row| row.get(0));
        lease.give_back();
        Ok(acked)
    }

    /// Asks a question whose answer is one boolean.
    async fn ask_whether(
        &self,
        sql: &str,
        parameters: &[(&(dyn ToSql + Sync), Type)],
        longest: Duration,
    ) -> Result<bool> {
        let lease = self.pool.lease().await?;
        let asked = lease.client().query_typed(sql, parameters);
        let silent = || Error::Unavailable { reason: "postgres did not answer in time".to_owned() };
        let rows = tokio::time::timeout(longest, asked).await.map_err(|_elapsed| silent())?;
        let rows = rows.map_err(Error::Postgres)?;
        lease.give_back();
        Ok(rows.first().is_some_and(|row| row.get(0)))
    }

    async fn ask_scopes(&self, claims: &str) -> Result<Vec<String>> {
        let lease = self.pool.lease().await?;
        let parameters: [(&(dyn ToSql + Sync), Type); 1] = [(&claims, Type::TEXT)];
        let asked = lease.client().query_typed("select cloudsync.scopes_of($1::jsonb)", &parameters);
        let silent = || Error::Unavailable { reason: "postgres did not answer in time".to_owned() };
        let rows = tokio::time::timeout(ANSWER_TIMEOUT, asked).await.map_err(|_elapsed| silent())?;
        let rows = rows.map_err(Error::Postgres)?;
        let scopes: Option<Vec<String>> = rows.first().and_then(|row| row.get(0));
        lease.give_back();
        Ok(scopes.unwrap_or_default())
    }
}

/// Opens a view of a database for whoever looks at it beside the hub.
pub(super) async fn open_beside(url: &PostgresUrl, epoch: &Epoch) -> Result<Box<dyn SnapshotRows>> {
    Ok(Box::new(anchor::open(url, None, epoch).await?))
}

impl Backend for Postgres {
    fn reserve(&self) -> BoxFuture<'_, Result<Box<dyn UploadPlace>>> {
        async { Ok(Box::new(self.pool.reserve().await?) as Box<dyn UploadPlace>) }.boxed()
    }

    fn site_acked(&self, site: SiteId) -> BoxFuture<'_, Result<Option<i64>>> {
        self.ask_acked(site).boxed()
    }

    fn note_site(&self, site: SiteId, place: Lsn) -> BoxFuture<'_, Result<bool>> {
        async move {
            let (bytes, place): (&[u8], _) = (site.as_bytes(), place.to_string());
            let parameters: [(&(dyn ToSql + Sync), Type); 2] = [(&bytes, Type::BYTEA), (&place, Type::TEXT)];
            let sql = "select cloudsync.note_site($1, $2::text::pg_lsn)";
            self.ask_whether(sql, &parameters, ANSWER_TIMEOUT).await
        }
        .boxed()
    }

    fn collect_tombstones(&self) -> BoxFuture<'_, Result<bool>> {
        let sql = "select c.more from cloudsync.collect_tombstones() as c";
        self.ask_whether(sql, &[], COLLECT_TIMEOUT).boxed()
    }

    fn catch_up(&self) -> BoxFuture<'_, Result<()>> {
        let sql = "select cloudsync.catch_up() >= 0";
        async { self.ask_whether(sql, &[], COLLECT_TIMEOUT).await.map(drop) }.boxed()
    }

    fn scopes_of<'a>(&'a self, claims: &'a str) -> BoxFuture<'a, Result<Vec<String>>> {
        self.ask_scopes(claims).boxed()
    }

    fn message_key(&self) -> BoxFuture<'_, Result<Option<Vec<u8>>>> {
        async {
            let lease = self.pool.lease().await?;
            let asked = lease.client().query_typed("select cloudsync.message_key()", &[]);
            let silent = || Error::Unavailable { reason: "postgres did not answer in time".to_owned() };
            let rows = tokio::time::timeout(ANSWER_TIMEOUT, asked).await.map_err(|_elapsed| silent())?;
            let rows = rows.map_err(Error::Postgres)?;
            lease.give_back();
            Ok(rows.first().and_then(|row| row.get(0)))
        }
        .boxed()
    }

    fn queue(&self) -> Option<Arc<dyn JobQueue>> {
        Some(Arc::new(jobs::PostgresQueue { pool: self.pool.clone() }))
    }

    fn ping(&self) -> BoxFuture<'_, Result<()>> {
        self.pool.ping().boxed()
    }

    fn report(&self, report: Report) -> BoxFuture<'_, Result<Option<Value>>> {
        async move { report::run(&self.pool, &report).await.map(Some) }.boxed()
    }

    fn open_snapshot<'a>(
        &'a self,
        log: &'a Log,
        epoch: &'a Epoch,
    ) -> BoxFuture<'a, Result<Box<dyn SnapshotRows>>> {
        async { Ok(Box::new(anchor::open(&self.url, Some(log), epoch).await?) as Box<dyn SnapshotRows>) }
            .boxed()
    }

    fn take_turns<'a>(&'a self, ingest: &'a Ingest) -> BoxFuture<'a, Result<()>> {
        ingest.take_turns(&self.url).boxed()
    }
}
