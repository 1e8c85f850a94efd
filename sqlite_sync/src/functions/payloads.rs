//! Payloads: encoding what this file knows, applying what others sent, both also by way of a file.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use rusqlite::Connection;
use rusqlite::functions::Context;
use rusqlite::types::ValueRef as Argument;

use super::arguments::{number, reach, text, wrong};
use super::gather::Encode;
use super::{DIRECT, Shared};
use crate::apply::{Source, apply};
use crate::catalog::Replica;
use crate::changes::encode;
use crate::connection::Applying;
use crate::error::{Error, Result};
use crate::log::DbVersion;
use crate::sql::Unit;

/// Lines of `cloudsync_changes` have as many columns.
const LINE_COLUMNS: i32 = 9;

pub(super) fn register(connection: &Connection, shared: &Shared) -> rusqlite::Result<()> {
    for arguments in 0..=2 {
        connection.create_scalar_function("cloudsync_payload_encode", arguments, DIRECT, |context| {
            Ok(encode_range(context, "cloudsync_payload_encode", 0)?)
        })?;
    }
    connection.create_aggregate_function("cloudsync_payload_encode", LINE_COLUMNS, DIRECT, Encode)?;
    for arguments in 1..=3 {
        connection.create_scalar_function("cloudsync_payload_save", arguments, DIRECT, |context| {
            Ok(save(context)?)
        })?;
    }
    let applying = shared.applying.clone();
    connection.create_scalar_function("cloudsync_payload_apply", 1, DIRECT, move |context| {
        Ok(payload_apply(context, &applying)?)
    })?;
    let applying = shared.applying.clone();
    connection.create_scalar_function("cloudsync_payload_load", 1, DIRECT, move |context| {
        Ok(load(context, &applying)?)
    })
}

/// Encodes what changed after the number in argument `at`, up to the one behind it.
fn encode_range(context: &Context<'_>, function: &'static str, at: usize) -> Result<Option<Vec<u8>>> {
    let since = number(context, function, at)?.unwrap_or(0);
    let until = number(context, function, at + 1)?.unwrap_or(i64::MAX);
    encode(&*reach(context)?, DbVersion::new(since), DbVersion::new(until))
}

/// Writes a payload to a file, whole or not at all; 0 says that there was nothing to write.
fn save(context: &Context<'_>) -> Result<i64> {
    let function = "cloudsync_payload_save";
    let path = text(context, function, 0)?;
    let Some(frames) = encode_range(context, function, 1)? else { return Ok(0) };
    let failed = |source| Error::File { action: "write", path: path.clone(), source };
    let target = Path::new(&path);
    let beside = target.with_added_extension("cloudsync-new");
    let written = fs::File::create(&beside)
        .and_then(|mut file| file.write_all(&frames).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&beside, target));
    if written.is_err() {
        // It may not be there; what matters is why the payload is not.
        drop(fs::remove_file(&beside));
    }
    written.map_err(failed)?;
    Ok(i64::try_from(frames.len()).unwrap_or(i64::MAX))
}

fn load(context: &Context<'_>, applying: &Applying) -> Result<i64> {
    let path = text(context, "cloudsync_payload_load", 0)?;
    let frames = fs::read(&path).map_err(|source| Error::File { action: "read", path, source })?;
    apply_frames(context, applying, &frames)
}

fn payload_apply(context: &Context<'_>, applying: &Applying) -> Result<i64> {
    match context.get_raw(0) {
        Argument::Null => Ok(0),
        Argument::Blob(frames) => apply_frames(context, applying, frames),
        _other => Err(wrong(context, "cloudsync_payload_apply", 0, "a payload (BLOB)")),
    }
}

fn apply_frames(context: &Context<'_>, applying: &Applying, frames: &[u8]) -> Result<i64> {
    let connection = reach(context)?;
    let unit = Unit::begin(&connection)?;
    let mut replica = Replica::current(&connection)?;
    let applied = apply(&mut replica, applying, frames, Source::File)?;
    unit.commit()?;
    Ok(i64::try_from(applied.rows).unwrap_or(i64::MAX))
}
