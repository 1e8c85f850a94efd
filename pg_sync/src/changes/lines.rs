//! `cloudsync_changes`: one line for every cell with its stamp, and one for the life of every row, behind them.

use std::collections::VecDeque;

use schema_mapping::to_postgres_text;
use shared_format::{Stamp, Value, encode_key};

use super::{Changed, Walk, Wanted};
use crate::error::SyncError;

/// Name of the column in a line that tells of a row's life.
pub(super) const LIFE: &str = "__[RIP]__";

/// `cl` of a row that exists.
const ALIVE: i64 = 1;

/// `cl` of a row that does not.
const DELETED: i64 = 2;

/// tbl, pk, col_name, col_value, col_version, db_version, site_id, cl, seq.
pub(crate) type Line = (String, Vec<u8>, String, Option<String>, i64, i64, Vec<u8>, i64, i64);

/// All lines, read as they are asked for.
pub(crate) struct Lines {
    walk: Walk,
    ready: VecDeque<Line>,
}

impl Lines {
    /// Begins.
    pub(crate) fn begin() -> Result<Self, SyncError> {
        let wanted = Wanted { after: i64::MIN, until: i64::MAX };
        Ok(Self { walk: Walk::begin(wanted)?, ready: VecDeque::new() })
    }

    /// The next line.
    pub(crate) fn next_line(&mut self) -> Result<Option<Line>, SyncError> {
        while self.ready.is_empty() {
            let Some(changed) = self.walk.next_row()? else { return Ok(None) };
            self.push(&changed)?;
        }
        Ok(self.ready.pop_front())
    }

    fn push(&mut self, changed: &Changed) -> Result<(), SyncError> {
        let Changed { table, key, state, number, values, .. } = changed;
        let pk = encode_key(key.iter().map(Value::as_ref));
        let alive = if state.is_alive() { ALIVE } else { DELETED };
        let mut line = |name: &str, value: Option<String>, stamp: Stamp, seq: usize| {
            let site = stamp.site.as_bytes().to_vec();
            let seq = i64::try_from(seq).unwrap_or(i64::MAX);
            let version = stamp.hlc.to_sql();
            self.ready.push_back((
                table.client_name.clone(),
                pk.clone(),
                name.to_owned(),
                value,
                version,
                *number,
                site,
                alive,
                seq,
            ));
        };
        for (place, value) in values {
            let Some(column) = table.columns.get(*place) else { continue };
            let own = state.cell(column.column_id());
            let stamp =
                if state.is_alive() { own.unwrap_or(state.life_stamp()) } else { own.unwrap_or(Stamp::ZERO) };
            // A column that the creation did not carry has its default, which nobody wrote.
            if own != Some(Stamp::ZERO) {
                line(&column.name, printed(value)?, stamp, *place);
            }
        }
        if let Some(life) = state.life {
            line(LIFE, None, life.stamp, table.columns.len());
        }
        Ok(())
    }
}

/// A value in the text form of its type.
fn printed(value: &Value) -> Result<Option<String>, SyncError> {
    Ok(to_postgres_text(value.as_ref()).map_err(SyncError::Text)?.map(std::borrow::Cow::into_owned))
}
