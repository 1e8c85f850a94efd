//! What operators ask about a Postgres database: one query each, answered as JSON.

use std::time::Duration;

use serde_json::Value;
use tokio_postgres::types::{ToSql, Type};

use crate::backend::Report;
use crate::error::{Error, Result};
use crate::postgres::Pool;

/// Longest wait for an answer: operators can ask again.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Answers one question.
pub(super) async fn run(pool: &Pool, report: &Report) -> Result<Value> {
    let (sql, parameters) = match report {
        Report::Devices { after, items } => {
            (include_str!("../../../../sql/hub/report_devices.sql"), Some((after.as_str(), items)))
        }
        Report::Rejected { after, items } => {
            let after = if after.is_empty() { "0" } else { after };
            (include_str!("../../../../sql/hub/report_rejected.sql"), Some((after, items)))
        }
        Report::Jobs { after, items } => {
            let after = if after.is_empty() { "0" } else { after };
            (include_str!("../../../../sql/hub/report_jobs.sql"), Some((after, items)))
        }
        Report::Summary => (include_str!("../../../../sql/hub/report_summary.sql"), None),
        Report::Slots => (include_str!("../../../../sql/hub/report_slots.sql"), None),
    };
    let parameters: Vec<(&(dyn ToSql + Sync), Type)> = match &parameters {
        Some((after, items)) => vec![(after, Type::TEXT), (*items, Type::INT8)],
        None => Vec::new(),
    };
    let lease = pool.lease().await?;
    let asked = async {
        // What is asked for belongs to the extension's owner, whose rights a hub has only when it takes them.
        lease.client().batch_execute("begin read only; set local role cloudsync_owner").await?;
        let rows = lease.client().query_typed(sql, &parameters).await?;
        lease.client().batch_execute("commit").await?;
        Ok(rows)
    };
    let silent = || Error::Unavailable { reason: "postgres did not answer in time".to_owned() };
    let rows = tokio::time::timeout(ANSWER_TIMEOUT, asked).await.map_err(|_elapsed| silent())?;
    let rows = rows.map_err(Error::Postgres)?;
    let text: &str = rows.first().map(|row| row.get(0)).ok_or(Error::ReportAnswer)?;
    let answer = serde_json::from_str(text).map_err(|_| Error::ReportAnswer)?;
    lease.give_back();
    Ok(answer)
}
