//! Values that were written here and lost to another site before the server had acknowledged them: kept with
//! both stamps, so that nothing a user wrote disappears without a trace. They expire, and expiry is counted.

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::Value as Json;
use shared_format::payload::ColumnAlgorithm;
use shared_format::{Stamp, Value, ValueRef, encode_key};

use crate::error::{Doing, Result};
use crate::rejected::printed_key;
use crate::settings::{self, Setting};
use crate::sql::{Bind, refs};
use crate::tracked_table::TrackedTable;

/// How many are kept: see DESIGN section 15.
const KEPT_MAX: i64 = 100_000;

/// How long they are kept: 30 days, see DESIGN section 15.
const KEPT_MS: i64 = 30 * 24 * 60 * 60 * 1_000;

/// Why a value lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// Another site wrote the cell later.
    Newer,
    /// Another site deleted the row later.
    Deleted,
    /// Another site created the row anew later.
    Replaced,
    /// The row was deleted so long ago that its tombstone is gone.
    Collected,
    /// The algorithm of the column had no place for it, or had a better one.
    Algorithm(ColumnAlgorithm),
}

impl Reason {
    const fn name(self) -> &'static str {
        match self {
            Self::Newer => "newer",
            Self::Deleted => "deleted",
            Self::Replaced => "replaced",
            Self::Collected => "collected",
            Self::Algorithm(algorithm) => algorithm.name(),
        }
    }
}

/// One cell that lost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Conflict<'a> {
    /// The column's name.
    pub(crate) column: &'a str,
    pub(crate) lost: (ValueRef<'a>, Stamp),
    pub(crate) won: (ValueRef<'a>, Stamp),
    pub(crate) reason: Reason,
}

/// Stores the cells of one row that lost.
pub(crate) fn record(
    connection: &Connection,
    table: &TrackedTable,
    key: &[Value],
    conflicts: &[Conflict<'_>],
    at_ms: i64,
) -> Result<()> {
    let sql = "insert into main.cloudsync_conflicts (tbl, pk, key, col, lost_value, lost_hlc, lost_site,
          won_value, won_hlc, won_site, reason, at_ms)
        values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)";
    let mut statement = connection.prepare_cached(sql).doing("record a conflict")?;
    let pk = encode_key(refs(key));
    let printed = Json::Array(printed_key(key)).to_string();
    for conflict in conflicts {
        let ((lost, lost_stamp), (won, won_stamp)) = (conflict.lost, conflict.won);
        let row = params![
            table.name,
            pk,
            printed,
            conflict.column,
            Bind(lost),
            lost_stamp.hlc.to_sql(),
            lost_stamp.site.as_bytes().as_slice(),
            Bind(won),
            won_stamp.hlc.to_sql(),
            won_stamp.site.as_bytes().as_slice(),
            conflict.reason.name(),
            at_ms,
        ];
        statement.execute(row).doing("record a conflict")?;
    }
    Ok(())
}

/// Drops what is too old or too much, oldest first, and counts it.
pub(crate) fn expire(connection: &Connection, now_ms: i64) -> Result<()> {
    let limit_ms = now_ms.saturating_sub(KEPT_MS);
    let sql = "select at_ms from main.cloudsync_conflicts order by id limit 1";
    let oldest: Option<i64> = connection
        .prepare_cached(sql)?
        .query_row([], |row| row.get(0))
        .optional()
        .doing("look for old conflicts")?;
    let Some(oldest) = oldest else { return Ok(()) };
    let mut expired = 0;
    if oldest < limit_ms {
        let sql = "delete from main.cloudsync_conflicts where at_ms < ?1";
        expired += connection.prepare_cached(sql)?.execute([limit_ms]).doing("expire conflicts")?;
    }
    let sql = "delete from main.cloudsync_conflicts where id <=
        (select id from main.cloudsync_conflicts order by id desc limit 1 offset ?1)";
    expired += connection.prepare_cached(sql)?.execute([KEPT_MAX]).doing("expire conflicts")?;
    if expired > 0 {
        let before = settings::integer(connection, Setting::ConflictsExpired)?.unwrap_or(0);
        let after = before.saturating_add(i64::try_from(expired).unwrap_or(i64::MAX));
        settings::store(connection, Setting::ConflictsExpired, &Value::Integer(after))?;
    }
    Ok(())
}
