//! Network: where the server is, sending, receiving, both.

use std::sync::PoisonError;

use rusqlite::Connection;
use rusqlite::functions::Context;
use rusqlite::types::Value as SqlValue;
use serde_json::{Value as Json, json};
use shared_format::Value;

use super::arguments::{number, reach, text, wrong};
use super::{DIRECT, Shared};
use crate::connection::Applying;
use crate::error::{Error, Result};
use crate::log;
use crate::logout::logout;
use crate::network::{Network, Server};
use crate::settings::{self, Setting};
use crate::status::note_sync;

/// A function that uses what a connection remembers of its server.
type NetworkFunction = fn(&Context<'_>, &Shared) -> Result<SqlValue>;

pub(super) fn register(connection: &Connection, shared: &Shared) -> rusqlite::Result<()> {
    let with = |shared: &Shared, run: NetworkFunction| {
        let shared = shared.clone();
        move |context: &Context<'_>| Ok(run(context, &shared)?)
    };
    let functions: [(&str, i32, NetworkFunction); 18] = [
        ("cloudsync_network_init", 1, network_init),
        ("cloudsync_network_set_apikey", 1, set_api_key),
        ("cloudsync_network_set_token", 1, set_token),
        ("cloudsync_network_status", 0, status),
        ("cloudsync_network_reset_sync_version", 0, reset_sync_version),
        ("cloudsync_network_logout", 0, logout_site),
        ("cloudsync_network_logout", 1, logout_site),
        ("cloudsync_network_cleanup", 0, close),
        ("cloudsync_network_send_changes", 0, send_changes),
        ("cloudsync_network_receive_changes", 0, receive_changes),
        ("cloudsync_network_receive_changes", 1, receive_changes),
        ("cloudsync_network_check_changes", 0, receive_changes),
        ("cloudsync_network_check_changes", 1, receive_changes),
        ("cloudsync_network_sync", 0, sync),
        ("cloudsync_network_sync", 1, sync),
        ("cloudsync_network_sync", 2, sync),
        ("cloudsync_network_has_unsent_changes", 0, has_unsent_changes),
        ("cloudsync_terminate", 0, terminate),
    ];
    for (name, arguments, run) in functions {
        connection.create_scalar_function(name, arguments, DIRECT, with(shared, run))?;
    }
    Ok(())
}

fn network_init(context: &Context<'_>, shared: &Shared) -> Result<SqlValue> {
    let server = Server::parse(&text(context, "cloudsync_network_init", 0)?)?;
    lock(shared).server = Some(server);
    Ok(SqlValue::Integer(0))
}

fn set_api_key(context: &Context<'_>, shared: &Shared) -> Result<SqlValue> {
    set_credential(context, shared, "cloudsync_network_set_apikey")
}

fn set_token(context: &Context<'_>, shared: &Shared) -> Result<SqlValue> {
    set_credential(context, shared, "cloudsync_network_set_token")
}

/// Takes the key or token that every request carries; the last one set stays.
fn set_credential(context: &Context<'_>, shared: &Shared, function: &'static str) -> Result<SqlValue> {
    let key = text(context, function, 0)?;
    // It travels in a header, where other characters would end it.
    if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(wrong(context, function, 0, "visible ASCII characters"));
    }
    lock(shared).api_key = Some(key);
    Ok(SqlValue::Integer(0))
}

/// Reaches the network half outside any transaction, which a network function could not hold together.
pub(super) fn with_network(
    context: &Context<'_>,
    shared: &Shared,
    function: &'static str,
    run: impl FnOnce(&Connection, &Network, &Applying) -> Result<Json>,
) -> Result<SqlValue> {
    let connection = reach(context)?;
    if !connection.is_autocommit() {
        return Err(Error::OpenTransaction { function });
    }
    let outcome = run(&connection, &lock(shared), &shared.applying);
    // After an interrupt nothing can be asked or noted.
    if settings::is_set_up(&connection).unwrap_or(false) {
        note_sync(&connection, outcome.as_ref().err().map(Error::line).as_deref());
    }
    Ok(SqlValue::Text(outcome?.to_string()))
}

fn lock(shared: &Shared) -> std::sync::MutexGuard<'_, Network> {
    shared.network.lock().unwrap_or_else(PoisonError::into_inner)
}

fn send_changes(context: &Context<'_>, shared: &Shared) -> Result<SqlValue> {
    with_network(context, shared, "cloudsync_network_send_changes", |connection, network, applying| {
        Ok(json!({ "send": network.send(connection, applying)? }))
    })
}

fn receive_changes(context: &Context<'_>, shared: &Shared) -> Result<SqlValue> {
    let function = "cloudsync_network_receive_changes";
    let chunks_max = number(context, function, 0)?;
    with_network(context, shared, function, |connection, network, applying| {
        Ok(json!({ "receive": network.receive(connection, applying, 0, 0, chunks_max)? }))
    })
}

fn sync(context: &Context<'_>, shared: &Shared) -> Result<SqlValue> {
    let function = "cloudsync_network_sync";
    let wait_ms = number(context, function, 0)?.unwrap_or(0);
    let retries = number(context, function, 1)?.unwrap_or(0);
    with_network(context, shared, function, |connection, network, applying| {
        let received = network.receive_first(connection, applying)?;
        let send = match network.send(connection, applying) {
            Err(error) if !error.is_full_store() => return Err(error),
            // A server that is full still gives what it has; that it took nothing is told after that.
            sent => sent,
        };
        let receive = network.receive_more(connection, applying, (wait_ms, retries), None, received)?;
        Ok(json!({ "send": send?, "receive": receive }))
    })
}

fn has_unsent_changes(context: &Context<'_>, _shared: &Shared) -> Result<SqlValue> {
    let connection = reach(context)?;
    let unsent = settings::is_set_up(&connection)? && log::has_unsent(&connection)?;
    Ok(SqlValue::Integer(i64::from(unsent)))
}

/// Forgets the server and the key and closes what is open to it.
fn close(_context: &Context<'_>, shared: &Shared) -> Result<SqlValue> {
    lock(shared).close();
    Ok(SqlValue::Integer(0))
}

/// The same under the name that says that nothing more comes.
fn terminate(_context: &Context<'_>, shared: &Shared) -> Result<SqlValue> {
    lock(shared).close();
    Ok(SqlValue::Integer(1))
}

/// Where file and server are, without asking the server.
fn status(context: &Context<'_>, shared: &Shared) -> Result<SqlValue> {
    let connection = reach(context)?;
    if !settings::is_set_up(&connection)? {
        return Err(Error::NothingTracked);
    }
    let server = lock(shared).server.as_ref().map(ToString::to_string);
    let send = crate::network::status(&connection)?;
    let has_place = settings::text(&connection, Setting::Cursor)?.is_some();
    let json = json!({ "server": server, "send": send, "receive": { "started": has_place } });
    Ok(SqlValue::Text(json.to_string()))
}

/// Forgets the place at the server, so that everything is received again.
fn reset_sync_version(context: &Context<'_>, _shared: &Shared) -> Result<SqlValue> {
    let connection = reach(context)?;
    if settings::is_set_up(&connection)? {
        settings::store(&connection, Setting::Cursor, &Value::Null)?;
    }
    Ok(SqlValue::Null)
}

/// Empties the file for another user; an argument of 1 allows to lose what the server does not have.
fn logout_site(context: &Context<'_>, shared: &Shared) -> Result<SqlValue> {
    let function = "cloudsync_network_logout";
    let may_lose = match number(context, function, 0)? {
        None | Some(0) => false,
        Some(1) => true,
        Some(_other) => return Err(wrong(context, function, 0, "0, or 1 to lose what is unsent")),
    };
    let connection = reach(context)?;
    if !connection.is_autocommit() {
        return Err(Error::OpenTransaction { function });
    }
    logout(&connection, may_lose)?;
    lock(shared).close();
    Ok(SqlValue::Integer(0))
}
