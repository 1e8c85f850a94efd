//! The SQL functions: reads arguments, calls the part that does the work, shapes the result.

mod arguments;
mod central;
mod facts;
mod gather;
mod kept;
mod network;
mod payloads;
mod setup;

use std::sync::{Arc, Mutex};

use rusqlite::Connection;
use rusqlite::functions::FunctionFlags;

use crate::catalog::Replica;
use crate::connection::Applying;
use crate::error::Result;
use crate::fold::{self, fold};
use crate::log;
use crate::network::{Network, Transport, default_transport};
use crate::settings::{self, Setting};
use crate::sql::Unit;
use crate::virtual_tables;

/// Callable by people and programs only, never from a trigger, view or schema.
const DIRECT: FunctionFlags = FunctionFlags::SQLITE_UTF8.union(FunctionFlags::SQLITE_DIRECTONLY);

/// Harmless anywhere, also in the schema of a file that nobody vouches for.
const HARMLESS: FunctionFlags = FunctionFlags::SQLITE_UTF8.union(FunctionFlags::SQLITE_INNOCUOUS);

/// What the functions of one connection share.
#[derive(Clone)]
struct Shared {
    applying: Applying,
    network: Arc<Mutex<Network>>,
}

/// Registers all `cloudsync_*` functions on a connection.
///
/// # Errors
/// What SQLite says when a function cannot be registered.
pub fn register(connection: &Connection) -> rusqlite::Result<()> {
    register_with(connection, default_transport())
}

/// Registers all `cloudsync_*` functions with a transport of the caller's own.
///
/// # Errors
/// What SQLite says when a function cannot be registered.
pub fn register_with(connection: &Connection, transport: Box<dyn Transport>) -> rusqlite::Result<()> {
    let network = Arc::new(Mutex::new(Network::new(transport)));
    let shared = Shared { applying: Applying::default(), network };
    facts::register(connection, &shared)?;
    setup::register(connection)?;
    payloads::register(connection, &shared)?;
    network::register(connection, &shared)?;
    kept::register(connection, &shared)?;
    central::register(connection, &shared)?;
    virtual_tables::register(connection)?;
    fold_on_open(connection);
    Ok(())
}

/// Looks at the tables and folds a long log, so that the next export does not have to. Not being able to is no reason not to load.
fn fold_on_open(connection: &Connection) {
    let run = || -> Result<()> {
        if !connection.is_autocommit() {
            return Ok(());
        }
        let Some(mut replica) = Replica::load_current(connection)? else { return Ok(()) };
        let unfolded = log::newest(connection)?.get() - log::folded(connection)?.get();
        // A clock that was never compared with a server's may be wrong by years.
        let has_time = settings::integer(connection, Setting::ClockOffset)?.is_some();
        if unfolded > fold::FOLD_ON_OPEN && has_time {
            let unit = Unit::begin(connection)?;
            fold(&mut replica)?;
            unit.commit()?;
        }
        Ok(())
    };
    drop(run());
    connection.flush_prepared_statement_cache();
}
