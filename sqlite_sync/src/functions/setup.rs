//! Setup: which tables are tracked, and how.

use rusqlite::Connection;
use rusqlite::functions::Context;
use rusqlite::types::{Value as SqlValue, ValueRef as Argument};
use shared_format::payload::TableAlgorithm;

use super::DIRECT;
use super::arguments::{number, reach, text};
use crate::catalog;
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
