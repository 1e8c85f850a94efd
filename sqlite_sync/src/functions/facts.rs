//! Facts: version, site, number of the newest entry, new keys, whether apply is writing.

use rusqlite::Connection;
use rusqlite::functions::{Context, FunctionFlags};

use super::arguments::{reach, text};
use super::{HARMLESS, Shared};
use crate::error::{Error, Result};
use crate::log;
use crate::settings::{self, Sites};
use crate::sql::NOW_MS;

pub(super) fn register(connection: &Connection, shared: &Shared) -> rusqlite::Result<()> {
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
