//! Functions for what is kept beside the user's tables: rejections, parked changes, conflicts.

use rusqlite::Connection;
use rusqlite::functions::Context;
use rusqlite::types::Value as SqlValue;
use shared_format::Value;

use super::arguments::{reach, text, wrong};
use super::network::with_network;
use super::{DIRECT, Shared};
use crate::error::Result;
use crate::kept;
use crate::sql::owned;

pub(super) fn register(connection: &Connection, shared: &Shared) -> rusqlite::Result<()> {
    connection.create_scalar_function("cloudsync_retry_rejected", 0, DIRECT, |context| {
        Ok(count(kept::retry_rejected(&*reach(context)?)?))
    })?;
    let applying = shared.applying.clone();
    connection.create_scalar_function("cloudsync_retry_parked", 0, DIRECT, move |context| {
        Ok(count(kept::retry_parked(&*reach(context)?, &applying)?))
    })?;
    connection.create_scalar_function("cloudsync_clear_conflicts", -1, DIRECT, |context| {
        Ok(count(clear_conflicts(context)?))
    })?;
    let shared = shared.clone();
    connection.create_scalar_function("cloudsync_discard_rejected", -1, DIRECT, move |context| {
        Ok(discard_rejected(context, &shared)?)
    })
}

fn count(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}

fn clear_conflicts(context: &Context<'_>) -> Result<usize> {
    let table = match context.len() {
        0 => None,
        _more => Some(text(context, "cloudsync_clear_conflicts", 0)?),
    };
    kept::clear_conflicts(&*reach(context)?, table.as_deref(), &key(context))
}

/// The arguments behind the table.
fn key(context: &Context<'_>) -> Vec<Value> {
    (1..context.len()).map(|at| owned(context.get_raw(at))).collect()
}

/// Sends what else there is, gives the row up, and fetches everything that the server has.
fn discard_rejected(context: &Context<'_>, shared: &Shared) -> Result<SqlValue> {
    let function = "cloudsync_discard_rejected";
    if context.is_empty() {
        return Err(wrong(context, function, 0, "a table and a row key"));
    }
    let (table, key) = (text(context, function, 0)?, key(context));
    with_network(context, shared, function, |connection, network, applying| {
        network.server()?;
        network.send_through(connection, applying)?;
        let row = kept::give_up(connection, &table, &key)?;
        let receive = network.receive(connection, applying, 0, 0, None)?;
        row.settle(connection)?;
        Ok(serde_json::json!({ "receive": receive }))
    })
}
