//! The queue of jobs in Postgres: its functions stand in `sql/postgres/077_jobs.sql`.

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use crate::error::{Error, Result};
use crate::jobs::queue::{ATTEMPTS_MAX, Claimed, JobCount, JobQueue, LEASE, NewJob};
use crate::postgres::Pool;

/// Longest wait for an answer of the queue.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

const MAKE: &str =
    "select cloudsync.make_job($1, $2, $3, $4::text::jsonb, $5::text::interval, $6::text::interval)";
const CLAIM: &str = "select c.job_id, c.kind, c.key, c.attempts, c.fence \
     from cloudsync.claim_job($1, $2, $3::text::interval) as c";
const EXTEND: &str = "select coalesce(cloudsync.extend_job($1, $2, $3::text::interval), false)";
const END: &str = "select cloudsync.end_job($1, $2, $3, $4)";
const BURY: &str = "select cloudsync.bury_job($1, $2, $3, $4::text::jsonb, $5)";
const REVIVE: &str = "select coalesce(cloudsync.revive_job($1), false)";
const FORGET: &str = "select coalesce(cloudsync.forget_job($1), false)";
const COUNT: &str = "select s.state, pg_catalog.count(*) from cloudsync.job_states as s group by s.state";

/// The queue of one Postgres database.
pub(super) struct PostgresQueue {
    pub(super) pool: Pool,
}

impl PostgresQueue {
    async fn ask(&self, sql: &str, parameters: &[(&(dyn ToSql + Sync), Type)]) -> Result<Vec<Row>> {
        let lease = self.pool.lease().await?;
        let silent = || Error::Unavailable { reason: "postgres did not answer about jobs".to_owned() };
        let asked = tokio::time::timeout(ANSWER_TIMEOUT, lease.client().query_typed(sql, parameters));
        let rows = asked.await.map_err(|_elapsed| silent())?.map_err(Error::Postgres)?;
        lease.give_back();
        Ok(rows)
    }

    async fn is_believed(&self, sql: &str, parameters: &[(&(dyn ToSql + Sync), Type)]) -> Result<bool> {
        let rows = self.ask(sql, parameters).await?;
        Ok(rows.first().is_some_and(|row| row.get(0)))
    }
}

/// A time span as Postgres reads it.
fn interval(span: Duration) -> String {
    format!("{} milliseconds", span.as_millis())
}

fn claimed(row: &Row) -> Claimed {
    Claimed { job: row.get(0), kind: row.get(1), key: row.get(2), attempts: row.get(3), fence: row.get(4) }
}

impl JobQueue for PostgresQueue {
    fn make(&self, job: NewJob) -> BoxFuture<'_, Result<()>> {
        async move {
            let (arguments, after) = (job.arguments.to_string(), interval(job.after));
            let every = job.every.map(interval);
            let parameters: [(&(dyn ToSql + Sync), Type); 6] = [
                (&job.kind, Type::TEXT),
                (&job.key, Type::TEXT),
                (&job.lane, Type::TEXT),
                (&arguments, Type::TEXT),
                (&after, Type::TEXT),
                (&every, Type::TEXT),
            ];
            self.ask(MAKE, &parameters).await.map(drop)
        }
        .boxed()
    }

    fn claim<'a>(
        &'a self,
        kinds: &'a [&'static str],
        worker: &'a str,
    ) -> BoxFuture<'a, Result<Option<Claimed>>> {
        async move {
            let lease = interval(LEASE);
            let parameters: [(&(dyn ToSql + Sync), Type); 3] =
                [(&kinds, Type::TEXT_ARRAY), (&worker, Type::TEXT), (&lease, Type::TEXT)];
            Ok(self.ask(CLAIM, &parameters).await?.first().map(claimed))
        }
        .boxed()
    }

    fn extend<'a>(&'a self, claimed: &'a Claimed) -> BoxFuture<'a, Result<bool>> {
        async move {
            let lease = interval(LEASE);
            let parameters: [(&(dyn ToSql + Sync), Type); 3] =
                [(&claimed.job, Type::INT8), (&claimed.fence, Type::INT8), (&lease, Type::TEXT)];
            self.is_believed(EXTEND, &parameters).await
        }
        .boxed()
    }

    fn end<'a>(&'a self, claimed: &'a Claimed, error: Option<String>) -> BoxFuture<'a, Result<bool>> {
        async move {
            let parameters: [(&(dyn ToSql + Sync), Type); 4] = [
                (&claimed.job, Type::INT8),
                (&claimed.fence, Type::INT8),
                (&error, Type::TEXT),
                (&ATTEMPTS_MAX, Type::INT4),
            ];
            self.is_believed(END, &parameters).await
        }
        .boxed()
    }

    fn bury(&self, job: NewJob, error: String) -> BoxFuture<'_, Result<()>> {
        async move {
            let arguments = job.arguments.to_string();
            let parameters: [(&(dyn ToSql + Sync), Type); 5] = [
                (&job.kind, Type::TEXT),
                (&job.key, Type::TEXT),
                (&job.lane, Type::TEXT),
                (&arguments, Type::TEXT),
                (&error, Type::TEXT),
            ];
            self.ask(BURY, &parameters).await.map(drop)
        }
        .boxed()
    }

    fn revive(&self, job: i64) -> BoxFuture<'_, Result<bool>> {
        async move { self.is_believed(REVIVE, &[(&job, Type::INT8)]).await }.boxed()
    }

    fn forget(&self, job: i64) -> BoxFuture<'_, Result<bool>> {
        async move { self.is_believed(FORGET, &[(&job, Type::INT8)]).await }.boxed()
    }

    fn count(&self) -> BoxFuture<'_, Result<Vec<JobCount>>> {
        async move {
            let rows = self.ask(COUNT, &[]).await?;
            Ok(rows.iter().map(|row| JobCount { state: row.get(0), jobs: row.get(1) }).collect())
        }
        .boxed()
    }
}
