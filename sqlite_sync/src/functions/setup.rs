//! Setup: which tables are tracked, and how.

use rusqlite::Connection;
use rusqlite::functions::Context;
use rusqlite::types::{Value as SqlValue, ValueRef as Argument};
use shared_format::payload::TableAlgorithm;

use super::arguments::{number, reach, text, wrong};
use super::{DIRECT, HARMLESS};
use crate::catalog;
use crate::checks::Skipped;
use crate::error::{Error, Result};
use crate::schema;
use crate::sql::owned;
use crate::table_settings;

/// A function that changes what the file keeps.
type SetupFunction = fn(&Context<'_>) -> Result<SqlValue>;

pub(super) fn register(connection: &Connection) -> rusqlite::Result<()> {
    for arguments in 1..=3 {
        connection
            .create_scalar_function("cloudsync_init", arguments, DIRECT, |context| Ok(init(context)?))?;
    }
    let functions: [(&str, i32, SetupFunction); 10] = [
        ("cloudsync_cleanup", 1, cleanup),
        ("cloudsync_enable", 1, enable),
        ("cloudsync_disable", 1, disable),
        ("cloudsync_set", 2, set),
        ("cloudsync_set_table", 3, set_table),
        ("cloudsync_set_column", 4, set_column),
        ("cloudsync_set_filter", 2, set_filter),
        ("cloudsync_clear_filter", 1, clear_filter),
        ("cloudsync_begin_alter", 1, begin_alter),
        ("cloudsync_commit_alter", 1, commit_alter),
    ];
    for (name, arguments, run) in functions {
        connection.create_scalar_function(name, arguments, DIRECT, move |context| Ok(run(context)?))?;
    }
    connection.create_scalar_function("cloudsync_is_enabled", 1, HARMLESS, |context| {
        let table = text(context, "cloudsync_is_enabled", 0)?;
        Ok(table_settings::is_enabled(&*reach(context)?, &table)?)
    })
}

/// Tracks a table, or all for `'*'`. The site is told in hexadecimal digits, `cloudsync_siteid` tells the bytes.
fn init(context: &Context<'_>) -> Result<String> {
    let function = "cloudsync_init";
    let table = text(context, function, 0)?;
    let algorithm = match context.len() {
        1 => None,
        _more if context.get_raw(1) == Argument::Null => None,
        _more => {
            let name = text(context, function, 1)?;
            let known = TableAlgorithm::from_name(&name.to_ascii_lowercase());
            Some(known.ok_or(Error::Algorithm { found: name })?)
        }
    };
    let wanted = "flags from 0 to 7";
    let skipped = Skipped::from_flags(number(context, function, 2)?.unwrap_or(0))
        .ok_or_else(|| wrong(context, function, 2, wanted))?;
    let connection = reach(context)?;
    let site = if table == "*" {
        catalog::init_all(&connection, algorithm, skipped)?
    } else {
        catalog::init(&connection, &table, algorithm, skipped)?
    };
    Ok(site.to_string())
}

/// Stops tracking a table, or all of them for `'*'`.
fn cleanup(context: &Context<'_>) -> Result<SqlValue> {
    let table = text(context, "cloudsync_cleanup", 0)?;
    let connection = reach(context)?;
    if table == "*" {
        catalog::cleanup_all(&connection)?;
    } else {
        catalog::cleanup(&connection, &table)?;
    }
    Ok(SqlValue::Null)
}

fn enable(context: &Context<'_>) -> Result<SqlValue> {
    table_settings::set_enabled(&*reach(context)?, &text(context, "cloudsync_enable", 0)?, true)?;
    Ok(SqlValue::Null)
}

fn disable(context: &Context<'_>) -> Result<SqlValue> {
    table_settings::set_enabled(&*reach(context)?, &text(context, "cloudsync_disable", 0)?, false)?;
    Ok(SqlValue::Null)
}

fn set(context: &Context<'_>) -> Result<SqlValue> {
    let key = text(context, "cloudsync_set", 0)?;
    table_settings::set_file(&*reach(context)?, &key, &owned(context.get_raw(1)))?;
    Ok(SqlValue::Null)
}

fn set_table(context: &Context<'_>) -> Result<SqlValue> {
    let function = "cloudsync_set_table";
    let (table, key) = (text(context, function, 0)?, text(context, function, 1)?);
    let value = owned(context.get_raw(2));
    table_settings::set(&*reach(context)?, function, &table, "", &key, &value)?;
    Ok(SqlValue::Null)
}

fn set_column(context: &Context<'_>) -> Result<SqlValue> {
    let function = "cloudsync_set_column";
    let (table, column) = (text(context, function, 0)?, text(context, function, 1)?);
    let (key, value) = (text(context, function, 2)?, owned(context.get_raw(3)));
    if column.is_empty() {
        return Err(wrong(context, function, 1, "the name of a column"));
    }
    table_settings::set(&*reach(context)?, function, &table, &column, &key, &value)?;
    Ok(SqlValue::Null)
}

fn set_filter(context: &Context<'_>) -> Result<SqlValue> {
    let function = "cloudsync_set_filter";
    let (table, filter) = (text(context, function, 0)?, text(context, function, 1)?);
    table_settings::set_filter(&*reach(context)?, &table, Some(&filter))?;
    Ok(SqlValue::Integer(1))
}

fn clear_filter(context: &Context<'_>) -> Result<SqlValue> {
    let table = text(context, "cloudsync_clear_filter", 0)?;
    table_settings::set_filter(&*reach(context)?, &table, None)?;
    Ok(SqlValue::Integer(1))
}

fn begin_alter(context: &Context<'_>) -> Result<SqlValue> {
    schema::begin_alter(&*reach(context)?, &text(context, "cloudsync_begin_alter", 0)?)?;
    Ok(SqlValue::Null)
}

fn commit_alter(context: &Context<'_>) -> Result<SqlValue> {
    schema::commit_alter(&*reach(context)?, &text(context, "cloudsync_commit_alter", 0)?)?;
    Ok(SqlValue::Null)
}
