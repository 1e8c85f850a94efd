//! The guess that a payload of creations is new here: then nothing has to be locked or read before it is written.
//!
//! What is here already shows itself: a row by its primary key, metadata to the capture trigger, which raises
//! `CS001`. Then, and on every other error, the try is rolled back and the whole way is gone.

use shared_format::{Hlc, RowKind};

use super::incoming::Incoming;
use super::local;
use crate::edge::query::{self, Argument};
use crate::edge::session::as_owner;
use crate::error::SyncError;

/// Fewer rows are read as fast as they are guessed at.
const ROWS_MIN: usize = 256;

/// How many rows are looked at: where one of them is known, others will be.
const PROBES: usize = 16;

/// Whether it is worth trying that none of these rows is known here.
pub(super) fn are_new(incoming: &Incoming, which: &[usize]) -> Result<bool, SyncError> {
    if which.len() < ROWS_MIN || !incoming.horizons.iter().all(|horizon| *horizon == Hlc::ZERO) {
        return Ok(false);
    }
    let is_creation = |at: &usize| {
        let changes = incoming.rows.get(*at).map(|row| row.changes.as_slice());
        matches!(changes, Some([change]) if change.kind == RowKind::Created)
    };
    if !which.iter().all(is_creation) {
        return Ok(false);
    }
    let tables = local::by_table(incoming, which);
    let shows_itself = |at: &usize| {
        let Some(table) = incoming.tables.get(*at) else { return false };
        table.ruled.rules.are_plain()
            && as_owner(|| {
                let sql = include_str!("../../../sql/postgres/library/shows_known_rows.sql");
                query::run(sql, &[Argument::oid(table.relation)]).count == 1
            })
    };
    if !tables.keys().all(shows_itself) {
        return Ok(false);
    }
    let probes: Vec<usize> = which.iter().copied().step_by(which.len().div_ceil(PROBES)).collect();
    Ok(local::read(incoming, &probes)?.is_empty())
}
