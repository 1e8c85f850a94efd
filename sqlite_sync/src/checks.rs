//! What `cloudsync_init` asks of a table beside what tracking itself needs, each check with a flag that skips it.

use rusqlite::{Connection, params};

use crate::error::{Doing, Error, Result, Untrackable};
use crate::sql::quote;
use crate::tracked_table::{Affinity, Shape};

/// Checks that the caller of `cloudsync_init` skips.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Skipped(i64);

impl Skipped {
    /// All flags together.
    pub(crate) const ALL: i64 = 7;

    const INTEGER_KEY: i64 = 1;
    const NO_DEFAULT: i64 = 2;
    const NULL_KEY: i64 = 4;

    /// Takes the flags of a call; None when one of them is unknown.
    pub(crate) fn from_flags(flags: i64) -> Option<Self> {
        (0..=Self::ALL).contains(&flags).then_some(Self(flags))
    }

    const fn has(self, flag: i64) -> bool {
        self.0 & flag != 0
    }
}

/// Refuses a table that is tracked from now on.
pub(crate) fn check_new(connection: &Connection, shape: &Shape, skipped: Skipped) -> Result<()> {
    let refuse = |reason| Err(Error::Untrackable { table: shape.name.clone(), reason });
    if let ([column], false) = (shape.key.as_slice(), skipped.has(Skipped::INTEGER_KEY))
        && column.affinity() == Affinity::Integer
    {
        return refuse(Untrackable::IntegerKey { column: column.name.clone() });
    }
    for column in shape.key.iter().filter(|column| column.may_be_null && !skipped.has(Skipped::NULL_KEY)) {
        // A lookup in the index of the key; only for later parts of a composite key it is a scan.
        let sql = format!(
            "select exists (select 1 from main.{} where {} is null)",
            quote(&shape.name),
            column.quoted()
        );
        let has_null =
            connection.query_row(&sql, [], |row| row.get(0)).doing("look for keys that are NULL")?;
        if has_null {
            return refuse(Untrackable::NullKey { column: column.name.clone() });
        }
    }
    Ok(())
}

/// Refuses new columns of a table that is tracked already, where its rows could not be stored any more.
///
/// A creation carries every column that its author knows, so a missing DEFAULT hurts in one place only: a
/// column that this file requires and other replicas of the table do not have yet.
pub(crate) fn check_changed(connection: &Connection, shape: &Shape, skipped: Skipped) -> Result<()> {
    if skipped.has(Skipped::NO_DEFAULT) {
        return Ok(());
    }
    let sql = "select exists (select 1 from main.cloudsync_columns as c
        join main.cloudsync_tables as t on t.id = c.tbl
        where t.name = ?1 and c.name = ?2 and c.added > 0 and not c.dropped)";
    let mut statement = connection.prepare_cached(sql)?;
    for column in &shape.columns {
        let has_default = column.default.as_ref().is_some_and(|text| !text.eq_ignore_ascii_case("null"));
        if column.may_be_null || has_default {
            continue;
        }
        if statement.query_row(params![shape.name, column.name], |row| row.get(0))? {
            let reason = Untrackable::NoDefault { column: column.name.clone() };
            return Err(Error::Untrackable { table: shape.name.clone(), reason });
        }
    }
    Ok(())
}
