//! The SQL functions: reads arguments, calls the part that does the work, shapes the result.

use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;
use rusqlite::functions::{Context, FunctionFlags};
use rusqlite::types::{Value as SqlValue, ValueRef as Argument};
use serde_json::{Value as Json, json};
use shared_format::payload::TableAlgorithm;

use crate::apply::{Source, apply};
use crate::catalog::{self, Replica};
use crate::changes::encode;
use crate::connection::Applying;
use crate::entrypoint::connection;
use crate::error::{Error, Result};
use crate::fold::{self, fold};
use crate::log::{self, DbVersion};
use crate::network::{Network, Server, Transport, default_transport};
use crate::settings::{self, Sites};
use crate::sql::{NOW_MS, Unit};

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
    register_facts(connection, &shared)?;
    register_setup(connection)?;
    register_payloads(connection, &shared)?;
    register_network(connection, &shared)?;
    fold_on_open(connection);
    Ok(())
}

/// Folds a long log, so that the next export does not have to. Not being able to is no reason not to load.
fn fold_on_open(connection: &Connection) {
    let run = || -> Result<()> {
        let Some(mut replica) = Replica::load(connection)? else { return Ok(()) };
        let unfolded = log::newest(connection)?.get() - log::folded(connection)?.get();
        if unfolded > fold::FOLD_ON_OPEN && connection.is_autocommit() {
            let unit = Unit::begin(connection)?;
            fold(&mut replica)?;
            unit.commit()?;
        }
        Ok(())
    };
    drop(run());
    connection.flush_prepared_statement_cache();
}

fn register_facts(connection: &Connection, shared: &Shared) -> rusqlite::Result<()> {
    let constant = HARMLESS.union(FunctionFlags::SQLITE_DETERMINISTIC);
    connection.create_scalar_function("cloudsync_version", 0, constant, |_| Ok(env!("CARGO_PKG_VERSION")))?;
    connection.create_scalar_function("cloudsync_siteid", 0, HARMLESS, |context| Ok(site_id(context)?))?;
    connection.create_scalar_function("cloudsync_uuid", 0, HARMLESS, |context| Ok(uuid(context)?))?;
    connection
        .create_scalar_function("cloudsync_db_version", 0, HARMLESS, |context| Ok(db_version(context)?))?;
    let applying = shared.applying.clone();
    connection.create_scalar_function("cloudsync_is_sync", 1, HARMLESS, move |context| {
        text(context, "cloudsync_is_sync", 0)?;
        Ok(applying.is_writing())
    })
}

fn register_setup(connection: &Connection) -> rusqlite::Result<()> {
    for arguments in 1..=3 {
        connection
            .create_scalar_function("cloudsync_init", arguments, DIRECT, |context| Ok(init(context)?))?;
    }
    connection.create_scalar_function("cloudsync_cleanup", 1, DIRECT, |context| {
        catalog::cleanup(&*reach(context)?, &text(context, "cloudsync_cleanup", 0)?)?;
        Ok(SqlValue::Null)
    })
}

fn register_payloads(connection: &Connection, shared: &Shared) -> rusqlite::Result<()> {
    for arguments in 0..=1 {
        connection.create_scalar_function("cloudsync_payload_encode", arguments, DIRECT, |context| {
            let since = number(context, "cloudsync_payload_encode", 0)?.unwrap_or(0);
            Ok(encode(&*reach(context)?, DbVersion::new(since))?)
        })?;
    }
    let applying = shared.applying.clone();
    connection.create_scalar_function("cloudsync_payload_apply", 1, DIRECT, move |context| {
        Ok(payload_apply(context, &applying)?)
    })
}

/// A function that uses what a connection remembers of its server.
type NetworkFunction = fn(&Context<'_>, &Shared) -> Result<SqlValue>;

fn register_network(connection: &Connection, shared: &Shared) -> rusqlite::Result<()> {
    let with = |shared: &Shared, run: NetworkFunction| {
        let shared = shared.clone();
        move |context: &Context<'_>| Ok(run(context, &shared)?)
    };
    let functions: [(&str, i32, NetworkFunction); 12] = [
        ("cloudsync_network_init", 1, network_init),
        ("cloudsync_network_set_apikey", 1, set_api_key),
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

fn reach<'c>(context: &'c Context<'_>) -> Result<rusqlite::functions::ConnectionRef<'c>> {
    connection(context)
}

/// A text argument; NULL and other types are errors.
fn text(context: &Context<'_>, function: &'static str, at: usize) -> Result<String> {
    match context.get_raw(at) {
        Argument::Text(text) => std::str::from_utf8(text).map(String::from).ok(),
        _other => None,
    }
    .ok_or(Error::Argument { function, index: at + 1, wanted: "text" })
}

/// An optional number that is not negative; NULL and a missing argument are None.
fn number(context: &Context<'_>, function: &'static str, at: usize) -> Result<Option<i64>> {
    if at >= context.len() {
        return Ok(None);
    }
    match context.get_raw(at) {
        Argument::Null => Ok(None),
        Argument::Integer(number) if number >= 0 => Ok(Some(number)),
        _other => Err(Error::Argument { function, index: at + 1, wanted: "a number from 0 on" }),
    }
}

fn site_id(context: &Context<'_>) -> Result<Option<Vec<u8>>> {
    let connection = reach(context)?;
    if !settings::is_set_up(&connection)? {
        return Ok(None);
    }
    Ok(Sites::load(&connection)?.map(|sites| sites.own().as_bytes().to_vec()))
}

fn db_version(context: &Context<'_>) -> Result<i64> {
    let connection = reach(context)?;
    if settings::is_set_up(&connection)? { Ok(log::newest(&connection)?.get()) } else { Ok(0) }
}

/// A UUIDv7: 48 bits of Unix milliseconds, then random bits.
fn uuid(context: &Context<'_>) -> Result<String> {
    let ms: i64 = reach(context)?.query_row(&format!("select {NOW_MS}"), [], |row| row.get(0))?;
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|_no_source| Error::Random)?;
    bytes[..6].copy_from_slice(&ms.to_be_bytes()[2..]);
    bytes[6] = bytes[6] & 0x0f | 0x70;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let parts = [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]];
    Ok(parts.join("-"))
}

fn init(context: &Context<'_>) -> Result<Vec<u8>> {
    let function = "cloudsync_init";
    let table = text(context, function, 0)?;
    let name = match context.len() {
        1 => String::from("cls"),
        _more if context.get_raw(1) == Argument::Null => String::from("cls"),
        _more => text(context, function, 1)?,
    };
    match TableAlgorithm::from_name(&name.to_ascii_lowercase()) {
        Some(TableAlgorithm::Cls) => {}
        Some(TableAlgorithm::Gos | TableAlgorithm::Dws | TableAlgorithm::Aws) | None => {
            return Err(Error::Algorithm { found: name });
        }
    }
    // Bit 1 allows integer keys elsewhere; here they always are.
    if number(context, function, 2)?.is_some_and(|flags| flags > 1) {
        return Err(Error::Argument { function, index: 3, wanted: "0 or 1" });
    }
    let site = catalog::init(&*reach(context)?, &table, TableAlgorithm::Cls)?;
    Ok(site.as_bytes().to_vec())
}

fn payload_apply(context: &Context<'_>, applying: &Applying) -> Result<i64> {
    let frames = match context.get_raw(0) {
        Argument::Null => return Ok(0),
        Argument::Blob(frames) => frames,
        _other => {
            let function = "cloudsync_payload_apply";
            return Err(Error::Argument { function, index: 1, wanted: "a payload (BLOB)" });
        }
    };
    let connection = reach(context)?;
    let mut replica = Replica::open(&connection)?;
    let unit = Unit::begin(&connection)?;
    let applied = apply(&mut replica, applying, frames, Source::File)?;
    unit.commit()?;
    Ok(i64::try_from(applied.rows).unwrap_or(i64::MAX))
}

fn network_init(context: &Context<'_>, shared: &Shared) -> Result<SqlValue> {
    let server = Server::parse(&text(context, "cloudsync_network_init", 0)?)?;
    lock(shared).server = Some(server);
    Ok(SqlValue::Null)
}

fn set_api_key(context: &Context<'_>, shared: &Shared) -> Result<SqlValue> {
    let function = "cloudsync_network_set_apikey";
    let key = text(context, function, 0)?;
    // It travels in a header, where other characters would end it.
    if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Error::Argument { function, index: 1, wanted: "visible ASCII characters" });
    }
    lock(shared).api_key = Some(key);
    Ok(SqlValue::Null)
}

/// Reaches the network half outside any transaction, which a network function could not hold together.
fn with_network(
    context: &Context<'_>,
    shared: &Shared,
    function: &'static str,
    run: impl FnOnce(&Connection, &Network, &Applying) -> Result<Json>,
) -> Result<SqlValue> {
    let connection = reach(context)?;
    if !connection.is_autocommit() {
        return Err(Error::OpenTransaction { function });
    }
    let json = run(&connection, &lock(shared), &shared.applying)?;
    Ok(SqlValue::Text(json.to_string()))
}

fn lock(shared: &Shared) -> std::sync::MutexGuard<'_, Network> {
    shared.network.lock().unwrap_or_else(PoisonError::into_inner)
}

fn send_changes(context: &Context<'_>, shared: &Shared) -> Result<SqlValue> {
    with_network(context, shared, "cloudsync_network_send_changes", |connection, network, _| {
        Ok(json!({ "send": network.send(connection)? }))
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
        let send = network.send(connection)?;
        let receive = network.receive(connection, applying, wait_ms, retries, None)?;
        Ok(json!({ "send": send, "receive": receive }))
    })
}

fn has_unsent_changes(context: &Context<'_>, _shared: &Shared) -> Result<SqlValue> {
    let connection = reach(context)?;
    let unsent = settings::is_set_up(&connection)? && log::has_unsent(&connection)?;
    Ok(SqlValue::Integer(i64::from(unsent)))
}

/// Forgets the server and the key and closes what is open to it.
fn terminate(_context: &Context<'_>, shared: &Shared) -> Result<SqlValue> {
    lock(shared).close();
    Ok(SqlValue::Null)
}
