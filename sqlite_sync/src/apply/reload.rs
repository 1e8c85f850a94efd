//! Tables that have to be taken anew from the server, because their rows changed there in a way that no change in
//! the log tells: a snapshot of those tables alone, while the place in the log stays.

use rusqlite::Connection;
use shared_format::Value;
use shared_format::payload::Payload;

use super::incoming::Mappings;
use crate::error::Result;
use crate::schema;
use crate::settings::{self, Setting};
use crate::sql::join;

/// Most tables that the server takes in one request; who wants more takes a snapshot of everything.
const TABLES_MAX: usize = 32;

/// Tables to take anew.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reload {
    /// By the server's numbers, ascending.
    pub(crate) tables: Vec<u32>,
    /// The place in the snapshot of them, once some of it is there.
    pub(crate) cursor: Option<String>,
}

impl Reload {
    /// What is to be taken anew; nothing for a file that has no place in the log yet.
    pub(crate) fn read(connection: &Connection) -> Result<Reload> {
        if settings::text(connection, Setting::Cursor)?.is_none() {
            return Ok(Reload::default());
        }
        let text = settings::text(connection, Setting::Reload)?.unwrap_or_default();
        let tables = text.split('.').filter_map(|table| table.parse().ok()).collect();
        Ok(Reload { tables, cursor: settings::text(connection, Setting::ReloadCursor)? })
    }

    /// Whether there is nothing to take.
    pub(crate) fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// The tables as they stand in a request.
    pub(crate) fn names(&self) -> String {
        join(&self.tables, ".", |_, table| table.to_string())
    }
}

/// Remembers the tables that a payload of the log says are to be taken anew, as far as this file has them.
pub(super) fn note(connection: &Connection, payload: &Payload<'_>, mappings: &Mappings) -> Result<()> {
    let reloads = payload.reloads();
    if reloads.is_empty() {
        return Ok(());
    }
    let mut wanted = Reload::read(connection)?;
    for reload in reloads {
        let is_had = !matches!(mappings.table(reload.table, reload.incarnation), Ok(None));
        if is_had && !wanted.tables.contains(&reload.table) {
            wanted.tables.push(reload.table);
        }
    }
    if wanted.is_empty() {
        return Ok(());
    }
    if wanted.tables.len() > TABLES_MAX {
        return schema::fetch(connection);
    }
    wanted.tables.sort_unstable();
    settings::store(connection, Setting::Reload, &Value::Text(wanted.names()))?;
    // A snapshot that was begun before may be older than this.
    settings::store(connection, Setting::ReloadCursor, &Value::Null)
}

/// Remembers the place in the snapshot of the tables.
pub(crate) fn go_on(connection: &Connection, cursor: &str) -> Result<()> {
    settings::store(connection, Setting::ReloadCursor, &Value::Text(cursor.to_owned()))
}

/// Notes that nothing has to be taken anew any more.
pub(crate) fn end(connection: &Connection) -> Result<()> {
    settings::store(connection, Setting::Reload, &Value::Null)?;
    settings::store(connection, Setting::ReloadCursor, &Value::Null)
}
