//! A file that is the centre of others: what a hub asks of it in SQL.
//!
//! Everything that changes here, by uploads or by plain SQL of any program, goes into `cloudsync_feed` in the
//! order of its numbers, as frames that clients can apply. What is written without us is taken in by the next call.

pub(crate) mod audience;
mod horizon;
mod restored;
mod upload;

use rusqlite::{Connection, OptionalExtension};
use serde_json::{Value as Json, json};
use shared_format::Value;
use shared_format::payload::{PayloadBuilder, encode_frame};

pub(crate) use horizon::{collect, note_site};
pub(crate) use restored::{acked, note_lost, note_restored};
pub(crate) use upload::{Request, take};

use crate::catalog::{self, Replica};
use crate::changes::{Cut, PAYLOAD_BYTES, fits, for_each_live_row, next_upload};
use crate::emit::TableRows;
use crate::error::{Doing, Error, Result};
use crate::fold::fold;
use crate::log;
use crate::outbox;
use crate::settings::{self, Setting};
use crate::sql::Unit;
use crate::tracked_table::TrackedTable;

const TABLES: &str = include_str!("../../../sql/sqlite/central.sql");

/// Makes the file a centre, or goes on with it; says which file it is, how far its feed was and is, which restore on
/// purpose is its newest, and counts the calls.
///
/// What the file holds when it becomes one is in its snapshots, so the feed begins behind it.
pub(crate) fn begin(connection: &Connection) -> Result<Json> {
    let unit = Unit::begin(connection)?;
    catalog::set_up(connection)?;
    connection.execute_batch(TABLES).doing("make the tables of a centre")?;
    let file = match settings::text(connection, Setting::CentralFile)? {
        Some(file) => file,
        None => found(connection)?,
    };
    let fence = settings::integer(connection, Setting::CentralFence)?.unwrap_or(0) + 1;
    settings::store(connection, Setting::CentralFence, &Value::Integer(fence))?;
    let stood = newest(connection)?;
    pass_on(connection)?;
    let position = newest(connection)?;
    let restored = settings::text(connection, Setting::CentralRestored)?.unwrap_or_default();
    let reload = settings::integer(connection, Setting::CentralReload)?.unwrap_or(0);
    unit.commit()?;
    Ok(json!({
        "file": file, "fence": fence, "stood": stood, "position": position, "restored": restored,
        "reload": reload,
    }))
}

/// Names the file, and takes all it holds as known to the snapshots.
fn found(connection: &Connection) -> Result<String> {
    let name = random_name()?;
    // From now on, rows that were there before are stamped as a centre's.
    settings::store(connection, Setting::CentralFile, &Value::Text(name.clone()))?;
    settings::store(connection, Setting::ClockOffset, &Value::Integer(0))?;
    outbox::discard(connection)?;
    if let Some(mut replica) = Replica::load_current(connection)? {
        let folded = fold(&mut replica)?;
        log::delete_range(connection, log::DbVersion::new(1), folded)?;
        settings::store(connection, Setting::Acknowledged, &Value::Integer(folded.get()))?;
        for table in replica.tables.iter().filter(|table| table.scope.is_some()) {
            audience::begin(connection, table)?;
        }
    }
    Ok(name)
}

/// A name that nobody else has.
fn random_name() -> Result<String> {
    let mut name = [0; 16];
    getrandom::fill(&mut name).map_err(|_no_source| Error::Random)?;
    Ok(name.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Whether the file is a centre.
pub(crate) fn is_centre(connection: &Connection) -> Result<bool> {
    Ok(settings::text(connection, Setting::CentralFile)?.is_some())
}

fn wanted_centre(connection: &Connection) -> Result<()> {
    let is_it = settings::is_set_up(connection)? && is_centre(connection)?;
    if is_it { Ok(()) } else { Err(Error::NoCentre) }
}

/// Passes on what was written here by plain SQL; the number of the newest row of the feed.
pub(crate) fn feed(connection: &Connection) -> Result<i64> {
    let unit = Unit::begin(connection)?;
    wanted_centre(connection)?;
    pass_on(connection)?;
    let position = newest(connection)?;
    unit.commit()?;
    Ok(position)
}

/// The definitions of all tables that are sent and received, as a payload.
pub(crate) fn definitions(connection: &Connection) -> Result<Vec<u8>> {
    wanted_centre(connection)?;
    let replica = Replica::load(connection)?;
    Ok(replica.map_or_else(|| PayloadBuilder::new().finish(), |replica| payload_of(&replica)))
}

/// Puts what was written here and not passed on yet into the feed, in the caller's unit.
fn pass_on(connection: &Connection) -> Result<()> {
    let Some(mut replica) = Replica::load_current(connection)? else { return Ok(()) };
    pass_on_definitions(connection, &replica)?;
    while let Some(upload) = next_upload(&mut replica, Cut::Bodies)? {
        append(connection, &upload.frame)?;
        outbox::remove(connection, &upload)?;
        settings::store(connection, Setting::Acknowledged, &Value::Integer(upload.last.get()))?;
        log::delete_range(connection, upload.first, upload.last)?;
    }
    end_transaction(connection)
}

/// Puts the definitions into the feed when the schema has changed: nobody may write to a changed table for long.
fn pass_on_definitions(connection: &Connection, replica: &Replica<'_>) -> Result<()> {
    let now = settings::integer(connection, Setting::SchemaSeen)?;
    let Some(number) = now else { return Ok(()) };
    let told = settings::integer(connection, Setting::CentralSchema)?;
    if told == now {
        return Ok(());
    }
    // What a file holds when it becomes a centre is in the first snapshot.
    if told.is_some() {
        append(connection, &encode_frame(&payload_of(replica)))?;
    }
    settings::store(connection, Setting::CentralSchema, &Value::Integer(number))
}

/// The definitions of all tables that are sent and received.
fn payload_of(replica: &Replica<'_>) -> Vec<u8> {
    let mut payload = PayloadBuilder::new();
    for table in replica.tables.iter().filter(|table| table.enabled) {
        payload.definition(&table.definition());
    }
    payload.finish()
}

/// Puts the rows of a table into the feed as they are, under the stamps that they have.
pub(crate) fn pass_on_rows(replica: &Replica<'_>, table: &TrackedTable) -> Result<()> {
    let mut rows = TableRows::new(table);
    for_each_live_row(replica, table, &mut |_has_metadata, key, values, state| {
        if fits(replica, table, key, values, log::DbVersion::default())? {
            rows.whole(state, key, values);
        }
        if rows.byte_len() >= PAYLOAD_BYTES {
            let full = std::mem::replace(&mut rows, TableRows::new(table));
            append(replica.connection, &encode_frame(&full.into_payload()))?;
        }
        Ok(true)
    })?;
    if rows.rows() > 0 {
        append(replica.connection, &encode_frame(&rows.into_payload()))?;
    }
    end_transaction(replica.connection)
}

fn append(connection: &Connection, frame: &[u8]) -> Result<()> {
    let sql = "insert into main.cloudsync_feed (frame) values (?1)";
    let told = audience::told(connection, frame)?;
    connection
        .prepare_cached(sql)?
        .execute([told.as_deref().unwrap_or(frame)])
        .doing("append to the feed")?;
    Ok(())
}

/// Marks the newest row of the feed as the last of its transaction.
fn end_transaction(connection: &Connection) -> Result<()> {
    let sql = "update main.cloudsync_feed set ends = 1
        where seq = (select max(seq) from main.cloudsync_feed) and not ends";
    connection.prepare_cached(sql)?.execute([]).doing("end a transaction of the feed")?;
    Ok(())
}

/// The number of the newest row that the feed ever had.
fn newest(connection: &Connection) -> Result<i64> {
    let sql = "select seq from main.sqlite_sequence where name = 'cloudsync_feed'";
    let newest = connection.prepare_cached(sql)?.query_row([], |row| row.get(0)).optional();
    Ok(newest.doing("read the end of the feed")?.unwrap_or(0))
}
