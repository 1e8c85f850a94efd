//! What a sync that is on its way tells other connections: committed between its transactions, since nobody else
//! sees what is inside one.

use rusqlite::Connection;
use shared_format::Value;

use crate::error::Result;
use crate::settings::{self, Setting};
use crate::sql::Unit;

/// Tells the stage of a sync; forgotten when it is dropped, however the sync ended.
pub(super) struct Progress<'c> {
    connection: &'c Connection,
}

const ALL: [Setting; 4] =
    [Setting::ProgressStage, Setting::ProgressRows, Setting::ProgressChunks, Setting::ProgressBytes];

impl<'c> Progress<'c> {
    pub(super) const fn new(connection: &'c Connection) -> Self {
        Self { connection }
    }

    /// Tells how far the sync is: rows applied, answers received and their bytes.
    pub(super) fn tell(&self, stage: &str, rows: usize, chunks: i64, bytes: usize) -> Result<()> {
        let number = |count: usize| Value::Integer(i64::try_from(count).unwrap_or(i64::MAX));
        let values = [Value::Text(stage.to_owned()), number(rows), Value::Integer(chunks), number(bytes)];
        self.store(&values)
    }

    fn store(&self, values: &[Value; 4]) -> Result<()> {
        let unit = Unit::begin(self.connection)?;
        for (setting, value) in ALL.into_iter().zip(values) {
            settings::store(self.connection, setting, value)?;
        }
        unit.commit()
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        // A file that cannot be written now says an old stage until the next sync.
        drop(self.store(&[Value::Null, Value::Null, Value::Null, Value::Null]));
    }
}
