//! Tables that exist in SQL only: changes cell by cell, and payloads in chunks.

mod changes;
mod chunks;
mod module;
mod walk;

use rusqlite::Connection;

pub(crate) use self::changes::LIFE;

/// Registers the virtual tables on a connection.
pub(crate) fn register(connection: &Connection) -> rusqlite::Result<()> {
    module::register::<changes::Changes>(connection)?;
    module::register::<chunks::Chunks>(connection)
}
