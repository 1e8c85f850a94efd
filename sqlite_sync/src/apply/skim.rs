//! Passes over changes that the file holds already, as when a whole snapshot comes again: the rows are read in the
//! order of their keys by one statement, beside the changes, instead of being looked up one by one.
//!
//! Nothing is written while that statement stands. The first change that is not next in the file, or that the row
//! does not hold, goes the usual way.

use super::Session;
use super::incoming::{BatchRows, Change};
use super::row::holds;
use crate::error::{Doing, Result};
use crate::metadata::{self, STATE_COLUMNS};
use crate::sql::column;

/// Changes that were held one after the other before it is worth to read on from there.
const HELD_MIN: usize = 16;

impl Session<'_, '_> {
    /// Whether it is likely that the next changes are held, and allowed to pass over them.
    pub(super) fn skims(&self, change: &Change<'_>) -> bool {
        self.held_so_far >= HELD_MIN
            && change.table.rules.are_plain()
            && self.aside.is_empty()
            && self.refused.is_empty()
            && self.gathering.is_none()
    }

    /// Passes over a change and those that follow it while the file holds them; false when that were all, else
    /// `change` is the first to be looked at.
    pub(super) fn skim<'a>(&mut self, rows: &mut BatchRows<'_, 'a>, change: &mut Change<'a>) -> Result<bool> {
        self.held_so_far = 0;
        let parts = change.key.len();
        let mut held = self.statements[change.table_at].rows_from(&change.key)?;
        while let Some(row) = held.next().doing("read rows by key")? {
            for (at, part) in change.key.iter().enumerate() {
                if !part.as_value().cmp_encoded(&column(row, at)?).is_eq() {
                    return Ok(true);
                }
            }
            let local = metadata::state(&self.replica.sites, &change.table, row, parts)?;
            if !local
                .is_some_and(|local| local.is_alive() && holds(change, &local, row, parts + STATE_COLUMNS))
            {
                return Ok(true);
            }
            if !rows.next_into(change)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
