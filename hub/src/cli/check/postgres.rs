//! What `hub check` asks of one Postgres database: settings, rights, roles, the slot, and whether it is the database
//! that the store knows.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio_postgres::types::{ToSql, Type};

use crate::cli::findings::Findings;
use crate::config::DatabaseName;
use crate::epoch::ServerIdentity;
use crate::error::{Error, Result};
use crate::ground::PLUGIN;
use crate::ingest::archive::Archive;
use crate::keys::Keys;
use crate::postgres::{Pool, PostgresUrl};
use crate::replication::{ReplicationConnection, SlotKind};
use crate::store::Store;

/// Longest wait for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Longest wait for a slot, which comes when all transactions that run now have ended.
const SLOT_WAIT_MAX: Duration = Duration::from_secs(10);

/// WAL behind a slot that nobody reads from which on it is worth a word: 1 GiB.
const RETAINED_BYTES_NOTED: i64 = 1 << 30;

/// The database that is looked at.
pub(super) struct Asked<'a> {
    /// How the findings call it.
    pub(super) place: String,
    /// Its name, which names its objects.
    pub(super) name: &'a DatabaseName,
    /// Where it is.
    pub(super) url: &'a PostgresUrl,
    /// The roles that callers act as.
    pub(super) roles: Vec<String>,
}

/// What `check.sql` tells.
#[derive(Debug, Deserialize)]
struct Server {
    user: String,
    database: String,
    database_oid: u32,
    version: String,
    standby: bool,
    wal_level: String,
    wal_senders_max: i64,
    slots_max: i64,
    slots: i64,
    plugins: Option<String>,
    extension: Option<String>,
    available: Option<String>,
    missing: Vec<String>,
    denied: Vec<String>,
    enters: Option<bool>,
    owns: Option<bool>,
    slot: Option<Slot>,
    roles: Vec<Role>,
}

#[derive(Debug, Deserialize)]
struct Slot {
    name: String,
    plugin: Option<String>,
    active: bool,
    wal_status: Option<String>,
    retained_bytes: Option<i64>,
}

#[derive(Debug, Deserialize)]
struct Role {
    name: String,
    is_there: bool,
    may_act: bool,
}

pub(super) async fn run(asked: &Asked<'_>, store: Option<&Arc<dyn Store>>, findings: &mut Findings) {
    let place = &asked.place;
    let server = match ask(asked).await {
        Ok(server) => server,
        Err(error) => {
            findings.wrong(place, error.logged(), mend_connection(&error));
            return;
        }
    };
    findings.fine(place, format_args!("Postgres {} answers, database {:?}", server.version, server.database));
    check_settings(place, &server, findings);
    check_extension(place, &server, findings);
    check_roles(place, &server, findings);
    check_slot(place, &server, findings);
    if !server.standby && server.wal_level == "logical" {
        check_replication(asked, &server, store, findings).await;
    }
}

async fn ask(asked: &Asked<'_>) -> Result<Server> {
    let lease = Pool::new(asked.url)?.lease().await?;
    let sql = include_str!("../../../../sql/hub/check.sql");
    let parameters: [(&(dyn ToSql + Sync), Type); 1] = [(&asked.roles, Type::TEXT_ARRAY)];
    let question = lease.client().query_typed(sql, &parameters);
    let silent = |_elapsed| Error::Unavailable { reason: "postgres did not answer in time".to_owned() };
    let rows = tokio::time::timeout(ANSWER_MAX, question).await.map_err(silent)?.map_err(Error::Postgres)?;
    let text: &str = rows.first().map(|row| row.get(0)).ok_or(Error::ReportAnswer)?;
    serde_json::from_str(text).map_err(|_| Error::ReportAnswer)
}

/// What helps when a database cannot be asked.
pub(super) fn mend_connection(error: &Error) -> &'static str {
    let refused = if let Error::Postgres(error) = error { error.as_db_error() } else { None };
    match refused.map(|refused| refused.code().code()) {
        Some("28P01") => "correct user and password in `url`",
        Some("28000") => "correct the user in `url`, or let it in by pg_hba.conf",
        Some("3D000") => "correct the database in `url`, or create it",
        Some("53300") => "raise max_connections, or close connections",
        Some(_) => "see the server's log",
        None => "see whether Postgres listens at the address of `url`, and whether its TLS fits `sslmode`",
    }
}

fn check_settings(place: &str, server: &Server, findings: &mut Findings) {
    if server.standby {
        let mend = "point `url` at the server that takes writes";
        findings.wrong(&place, "the server is a standby", mend);
    }
    match server.wal_level.as_str() {
        "logical" => findings.fine(&place, "wal_level is logical"),
        other => findings.wrong(
            &place,
            format_args!("wal_level is {other}, wanted logical"),
            "alter system set wal_level = logical; then restart the server",
        ),
    }
    if server.wal_senders_max == 0 {
        let mend = "alter system set max_wal_senders = 10; then restart the server";
        findings.wrong(&place, "max_wal_senders is 0, wanted 1 or more", mend);
    }
    if let Some(plugins) = &server.plugins {
        let listed = plugins.split(',').map(|plugin| plugin.trim().trim_matches('"'));
        if listed.into_iter().any(|plugin| plugin == PLUGIN || plugin == "*") {
            findings.fine(&place, "output_plugin_libraries names pg_sync");
        } else {
            let all = if plugins.is_empty() { PLUGIN.to_owned() } else { format!("{plugins}, {PLUGIN}") };
            findings.wrong(
                &place,
                format_args!("output_plugin_libraries is '{plugins}', wanted pg_sync in it"),
                format_args!(
                    "set output_plugin_libraries = '{all}' in postgresql.conf; then restart the server"
                ),
            );
        }
    }
}

fn check_extension(place: &str, server: &Server, findings: &mut Findings) {
    let Some(extension) = &server.extension else {
        let mend = if server.available.is_some() {
            format!("create extension pg_sync; in database {:?}, as a superuser", server.database)
        } else {
            "install the pg_sync package on the server; then create extension pg_sync".to_owned()
        };
        findings.wrong(&place, "extension pg_sync is not there", mend);
        return;
    };
    if !server.missing.is_empty() {
        findings.wrong(
            &place,
            format_args!("extension pg_sync {extension} is too old, it lacks {}", server.missing.join(", ")),
            "install the pg_sync package of the hub's release; then alter extension pg_sync update",
        );
    } else if let Some(available) = server.available.as_ref().filter(|available| *available != extension) {
        findings.note(
            &place,
            format_args!("extension pg_sync is at {extension}, {available} is installed on the server"),
            "alter extension pg_sync update",
        );
    } else {
        findings.fine(&place, format_args!("extension pg_sync {extension} is there"));
    }
    let mut denied = server.denied.clone();
    if server.enters == Some(false) {
        denied.push("schema cloudsync".to_owned());
    }
    if server.owns != Some(true) {
        denied.push("membership in cloudsync_owner".to_owned());
    }
    let user = &server.user;
    if denied.is_empty() {
        findings.fine(&place, format_args!("role {user:?} has the rights of a hub"));
    } else {
        let says = format_args!("role {user:?} lacks rights: {}", denied.join(", "));
        let mend = format_args!("select cloudsync_grant_hub('{user}'); as a superuser");
        findings.wrong(&place, says, mend);
    }
}

fn check_roles(place: &str, server: &Server, findings: &mut Findings) {
    for Role { name, is_there, may_act } in &server.roles {
        let user = &server.user;
        if *may_act {
            findings.fine(&place, format_args!("callers may act as role {name:?}"));
        } else if *is_there {
            let mend = format_args!("grant \"{name}\" to \"{user}\"");
            findings.wrong(&place, format_args!("role {user:?} may not act as role {name:?}"), mend);
        } else {
            let mend = format_args!(
                "create role \"{name}\"; grant \"{name}\" to \"{user}\"; or correct `api_keys`, or `roles` of `jwt`"
            );
            findings.wrong(&place, format_args!("role {name:?} of a key or of tokens is not there"), mend);
        }
    }
}

fn check_slot(place: &str, server: &Server, findings: &mut Findings) {
    let Some(slot) = &server.slot else {
        if server.slots >= server.slots_max {
            findings.wrong(
                &place,
                format_args!("all {} replication slots of the server are taken", server.slots_max),
                "raise max_replication_slots, or drop slots that nobody reads",
            );
        } else {
            findings.fine(&place, "there is no slot yet, a hub makes it when it starts");
        }
        return;
    };
    let name = &slot.name;
    let mend_next = "nothing: the next hub makes a new one, and clients take a snapshot";
    if slot.plugin.as_deref() != Some(PLUGIN) {
        let plugin = slot.plugin.as_deref().unwrap_or("none");
        let says = format_args!("slot {name} has the output plugin {plugin}, wanted {PLUGIN}");
        findings.wrong(&place, says, format_args!("select pg_drop_replication_slot('{name}')"));
    } else if slot.wal_status.as_deref() == Some("lost") {
        let says = format_args!("slot {name} is lost, the server removed WAL that was not read");
        findings.note(
            &place,
            says,
            format_args!("{mend_next}; raise max_slot_wal_keep_size against the next time"),
        );
    } else if slot.wal_status.as_deref() == Some("unreserved") {
        let says = format_args!("slot {name} is about to lose WAL that was not read");
        findings.wrong(&place, says, "start a hub now, and raise max_slot_wal_keep_size");
    } else if !slot.active && slot.retained_bytes.is_some_and(|bytes| bytes > RETAINED_BYTES_NOTED) {
        let bytes = slot.retained_bytes.unwrap_or_default();
        let says =
            format_args!("slot {name} is read by nobody, and the server keeps {bytes} bytes of WAL for it");
        findings.note(&place, says, "start a hub, or drop the slot if the database is not to be served");
    } else {
        let reads = if slot.active { "a hub reads it" } else { "nobody reads it now" };
        findings.fine(&place, format_args!("slot {name} is in order, {reads}"));
    }
}

/// Tries what only a replication connection can: to log in, to load the output plugin, and to tell which server this is.
async fn check_replication(
    asked: &Asked<'_>,
    server: &Server,
    store: Option<&Arc<dyn Store>>,
    findings: &mut Findings,
) {
    let place = &asked.place;
    let connected = async {
        let mut connection = ReplicationConnection::connect(asked.url).await?;
        let identity = connection.identify_system().await?;
        Ok::<_, Error>((connection, identity))
    };
    let (mut connection, identity) = match connected.await {
        Ok(connected) => connected,
        Err(error) => {
            let mend = format!(
                "alter role \"{0}\" replication; or let it in by pg_hba.conf; or raise max_wal_senders",
                server.user
            );
            findings.wrong(place, format_args!("no replication connection: {}", error.logged()), mend);
            return;
        }
    };
    if server.extension.is_some() && server.slots < server.slots_max {
        check_plugin(place, &mut connection, findings).await;
    }
    let Some(store) = store else { return };
    let archive = Archive::new(Arc::clone(store), Keys::new(asked.name.as_str()));
    let found = ServerIdentity {
        system: identity.system,
        lineage: identity.lineage,
        database_oid: server.database_oid,
    };
    let same = archive.newest_epoch().await.map(|epoch| epoch.map(|epoch| epoch.fork_of(&found)));
    match same {
        Ok(None) => findings.fine(place, "the store holds nothing of it yet"),
        Ok(Some(Ok(_fork))) => findings.fine(place, "it is the database that the store knows"),
        Ok(Some(Err(error))) => {
            let mend = "correct `url` if it names another server by mistake; if this server shall take the \
                        other's place, give the database another `name`, or `store` an empty place";
            findings.wrong(place, error.logged(), mend);
        }
        Err(error) => {
            let mend = "the object is not what a hub wrote: restore it from a backup of the store, or give \
                        `store` an empty place, and clients take a snapshot";
            findings.wrong(place, error.logged(), mend);
        }
    }
}

async fn check_plugin(place: &str, connection: &mut ReplicationConnection, findings: &mut Findings) {
    let Ok(number) = getrandom::u64() else { return };
    let name = format!("cloudsync_check_{number:016x}");
    let made = connection.create_slot(&name, PLUGIN, SlotKind::TemporaryWithSnapshot);
    match tokio::time::timeout(SLOT_WAIT_MAX, made).await {
        Ok(Ok(_slot)) => findings.fine(&place, "the output plugin loads"),
        Ok(Err(error)) => findings.wrong(
            &place,
            format_args!("no slot can be made: {}", error.logged()),
            "install the pg_sync package of the server's major version, and list it in output_plugin_libraries",
        ),
        Err(_elapsed) => findings.note(
            &place,
            "no slot could be made in time: a transaction has run for long",
            "end it, see pg_stat_activity; until then no new slot can begin",
        ),
    }
}
