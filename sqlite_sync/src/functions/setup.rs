//! Setup: which tables are tracked, and how.

use rusqlite::Connection;
use rusqlite::functions::Context;
use rusqlite::types::{Value as SqlValue, ValueRef as Argument};
use shared_format::payload::TableAlgorithm;

use super::DIRECT;
use super::arguments::{number, reach, text, wrong};
use crate::catalog;
use crate::checks::Skipped;
use crate::error::{Error, Result};

pub(super) fn register(connection: &Connection) -> rusqlite::Result<()> {
    for arguments in 1..=3 {
        connection
            .create_scalar_function("cloudsync_init", arguments, DIRECT, |context| Ok(init(context)?))?;
    }
    connection.create_scalar_function("cloudsync_cleanup", 1, DIRECT, |context| {
        catalog::cleanup(&*reach(context)?, &text(context, "cloudsync_cleanup", 0)?)?;
        Ok(SqlValue::Null)
    })
}

/// Tracks a table, or all for `'*'`. The site is told in hexadecimal digits, `cloudsync_siteid` tells the bytes.
fn init(context: &Context<'_>) -> Result<String> {
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
    let wanted = "flags from 0 to 7";
    let skipped = Skipped::from_flags(number(context, function, 2)?.unwrap_or(0))
        .ok_or_else(|| wrong(context, function, 2, wanted))?;
    let connection = reach(context)?;
    let site = if table == "*" {
        catalog::init_all(&connection, TableAlgorithm::Cls, skipped)?
    } else {
        catalog::init(&connection, &table, TableAlgorithm::Cls, skipped)?
    };
    Ok(site.to_string())
}
