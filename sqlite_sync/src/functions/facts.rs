//! Facts: version, site, number of the newest entry, new keys, whether apply is writing, status, explain.

use rusqlite::Connection;
use rusqlite::functions::{Context, FunctionFlags};
use rusqlite::types::ValueRef as Argument;
use shared_format::Value;

use super::arguments::{number, reach, text, wrong};
use super::{DIRECT, HARMLESS, Shared};
use crate::error::{Error, Result};
use crate::explain::explain;
use crate::log;
use crate::settings::{self, Sites};
use crate::sql::{NOW_MS, owned};
use crate::status::status;

pub(super) fn register(connection: &Connection, shared: &Shared) -> rusqlite::Result<()> {
    let constant = HARMLESS.union(FunctionFlags::SQLITE_DETERMINISTIC);
    connection.create_scalar_function("cloudsync_version", 0, constant, |_| Ok(env!("CARGO_PKG_VERSION")))?;
    connection.create_scalar_function("cloudsync_siteid", 0, HARMLESS, |context| Ok(site_id(context)?))?;
    connection.create_scalar_function("cloudsync_uuid", 0, HARMLESS, |context| Ok(uuid(context)?))?;
    connection
        .create_scalar_function("cloudsync_db_version", 0, HARMLESS, |context| Ok(db_version(context)?))?;
    connection
        .create_scalar_function("cloudsync_uuid_blob", 1, constant, |context| Ok(uuid_blob(context)?))?;
    for arguments in 1..=2 {
        connection.create_scalar_function("cloudsync_uuid_text", arguments, constant, |context| {
            Ok(uuid_text(context)?)
        })?;
    }
    connection.create_scalar_function("cloudsync_status", 0, DIRECT, |context| {
        Ok(status(&*reach(context)?)?.to_string())
    })?;
    connection
        .create_scalar_function("cloudsync_explain", -1, DIRECT, |context| Ok(explain_row(context)?))?;
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
    Ok(hyphenated(&bytes))
}

fn digits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn hyphenated(bytes: &[u8; 16]) -> String {
    let digits = digits(bytes);
    [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-")
}

/// The 16 bytes of a UUID in text, with hyphens or without; NULL stays NULL.
fn uuid_blob(context: &Context<'_>) -> Result<Option<Vec<u8>>> {
    let function = "cloudsync_uuid_blob";
    if context.get_raw(0) == Argument::Null {
        return Ok(None);
    }
    let text = text(context, function, 0)?;
    let is_hyphenated = text.len() == 36 && [8, 13, 18, 23].into_iter().all(|at| text.as_bytes()[at] == b'-');
    let digits: String = if is_hyphenated { text.replace('-', "") } else { text };
    let pairs = (0..16).map(|at| u8::from_str_radix(digits.get(2 * at..2 * at + 2)?, 16).ok());
    let bytes: Option<Vec<u8>> = pairs.collect();
    let is_plain = digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let wanted = "a UUID: 32 hexadecimal digits, or 36 characters with hyphens";
    bytes.filter(|_| is_plain).map(Some).ok_or_else(|| wrong(context, function, 0, wanted))
}

/// A UUID of 16 bytes as text; a second argument of 0 leaves the hyphens out. NULL stays NULL.
fn uuid_text(context: &Context<'_>) -> Result<Option<String>> {
    let function = "cloudsync_uuid_text";
    let bytes: [u8; 16] = match context.get_raw(0) {
        Argument::Null => return Ok(None),
        Argument::Blob(bytes) => bytes.try_into().ok(),
        _other => None,
    }
    .ok_or_else(|| wrong(context, function, 0, "a blob of 16 bytes"))?;
    let is_plain = number(context, function, 1)? == Some(0);
    Ok(Some(if is_plain { digits(&bytes) } else { hyphenated(&bytes) }))
}

fn explain_row(context: &Context<'_>) -> Result<String> {
    let function = "cloudsync_explain";
    if context.is_empty() {
        return Err(wrong(context, function, 0, "a table and a row key"));
    }
    let table = text(context, function, 0)?;
    let key: Vec<Value> = (1..context.len()).map(|at| owned(context.get_raw(at))).collect();
    Ok(explain(&*reach(context)?, &table, &key)?.to_string())
}
