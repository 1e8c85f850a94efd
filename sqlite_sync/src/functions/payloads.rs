//! Payloads: encoding what this file knows, applying what others sent.

use rusqlite::Connection;
use rusqlite::functions::Context;
use rusqlite::types::ValueRef as Argument;

use super::arguments::{number, reach, wrong};
use super::{DIRECT, Shared};
use crate::apply::{Source, apply};
use crate::catalog::Replica;
use crate::changes::encode;
use crate::connection::Applying;
use crate::error::Result;
use crate::log::DbVersion;
use crate::sql::Unit;

pub(super) fn register(connection: &Connection, shared: &Shared) -> rusqlite::Result<()> {
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

fn payload_apply(context: &Context<'_>, applying: &Applying) -> Result<i64> {
    let frames = match context.get_raw(0) {
        Argument::Null => return Ok(0),
        Argument::Blob(frames) => frames,
        _other => return Err(wrong(context, "cloudsync_payload_apply", 0, "a payload (BLOB)")),
    };
    let connection = reach(context)?;
    let unit = Unit::begin(&connection)?;
    let mut replica = Replica::current(&connection)?;
    let applied = apply(&mut replica, applying, frames, Source::File)?;
    unit.commit()?;
    Ok(i64::try_from(applied.rows).unwrap_or(i64::MAX))
}
