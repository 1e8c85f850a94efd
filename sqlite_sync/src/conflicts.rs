//! Values that were written here and lost to another site before the server had acknowledged them, here or at
//! the server: kept with both stamps, so that nothing a user wrote disappears without a trace. They expire, and
//! expiry is counted.

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::Value as Json;
use shared_format::payload::ColumnAlgorithm;
use shared_format::{Stamp, Value, ValueRef, encode_key};

use crate::catalog::Replica;
use crate::changes::read_row;
use crate::error::{Doing, Result};
use crate::fold::fold;
use crate::metadata;
use crate::rejected::{printed_key, stored_key};
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
    /// Others have another value under the same stamp: the default that the centre gave to a column which it had not.
    Equal,
    /// Another site deleted the row later.
    Deleted,
    /// Another site created the row anew later.
    Replaced,
    /// The row was deleted so long ago that its tombstone is gone.
    Collected,
    /// The server was set back to before the row.
    Restored,
    /// The server held a later write when ours came.
    Server,
    /// The algorithm of the column had no place for it, or had a better one.
    Algorithm(ColumnAlgorithm),
}

impl Reason {
    const fn name(self) -> &'static str {
        match self {
            Self::Newer => "newer",
            Self::Equal => "equal",
            Self::Deleted => "deleted",
            Self::Replaced => "replaced",
            Self::Collected => "collected",
            Self::Restored => "restored",
            Self::Server => "server",
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

/// A cell that lost at the server, as its answer names it.
#[derive(Debug)]
pub(crate) struct LostAtServer {
    pub(crate) table: String,
    pub(crate) key: Vec<Json>,
    pub(crate) column: String,
    pub(crate) won: Stamp,
}

/// Keeps what is here of the cells that lost at the server; the value that won comes later, with the log. Where it
/// came before the answer, apply has kept what lost, and the cell is no longer this site's. `more` is how many
/// the server counted and did not name.
pub(crate) fn record_lost(replica: &mut Replica<'_>, lost: &[LostAtServer], more: i64) -> Result<()> {
    let connection = replica.connection;
    if !lost.is_empty() {
        // A later write of the same cell may still be in the log.
        fold(replica)?;
    }
    let at_ms = replica.corrected_ms()?;
    for one in lost {
        let Some(table) = replica.table_named(&one.table).cloned() else { continue };
        let Some(at) = table.column_named(&one.column) else { continue };
        let column = &table.columns[at];
        let key = stored_key(Some(&table), &one.key);
        if key.len() != table.key.len() {
            continue;
        }
        let Some(values) = read_row(connection, &table, &key)? else { continue };
        let own = replica.own();
        let state = metadata::read(connection, &replica.sites, &table, &key)?;
        let state = state.unwrap_or_else(|| metadata::baseline(&table, own));
        let stamp = state.stamp_of(column.id);
        let Some(value) = values.get(at).filter(|_| stamp.site == own && stamp < one.won) else { continue };
        let cell = Cell { table: &table, key: &key, column: &column.name };
        if !cell.is_known(connection, stamp)? {
            let conflict = Conflict {
                column: &column.name,
                lost: (value.as_ref(), stamp),
                won: (ValueRef::Null, one.won),
                reason: Reason::Server,
            };
            record(connection, &table, &key, &[conflict], at_ms)?;
        }
    }
    count_expired(connection, more)?;
    expire(connection, at_ms)
}

/// Whether cells that lost at the server are kept.
pub(crate) fn has_lost_at_server(connection: &Connection) -> Result<bool> {
    connection
        .prepare_cached("select exists (select 1 from main.cloudsync_conflicts where reason = 'server')")?
        .query_row([], |row| row.get(0))
        .doing("look for conflicts")
}

/// Which cell a conflict is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cell<'a> {
    pub(crate) table: &'a TrackedTable,
    pub(crate) key: &'a [Value],
    pub(crate) column: &'a str,
}

impl Cell<'_> {
    /// Whether it is kept that a write of the cell lost at the server.
    pub(crate) fn is_known(&self, connection: &Connection, lost: Stamp) -> Result<bool> {
        let sql = "select exists (select 1 from main.cloudsync_conflicts where reason = 'server'
            and tbl = ?1 and pk = ?2 and col = ?3 and lost_hlc = ?4 and lost_site = ?5)";
        let pk = encode_key(refs(self.key));
        let site = lost.site.as_bytes().as_slice();
        connection
            .prepare_cached(sql)?
            .query_row(params![self.table.name, pk, self.column, lost.hlc.to_sql(), site], |row| row.get(0))
            .doing("look for a conflict")
    }

    /// Takes in the value that won at the server.
    pub(crate) fn settle(&self, connection: &Connection, value: ValueRef<'_>, won: Stamp) -> Result<()> {
        let sql = "update main.cloudsync_conflicts set won_value = ?1 where reason = 'server'
            and tbl = ?2 and pk = ?3 and col = ?4 and won_hlc = ?5 and won_site = ?6";
        let pk = encode_key(refs(self.key));
        let site = won.site.as_bytes().as_slice();
        connection
            .prepare_cached(sql)?
            .execute(params![Bind(value), self.table.name, pk, self.column, won.hlc.to_sql(), site])
            .doing("complete a conflict")?;
        Ok(())
    }
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
    count_expired(connection, i64::try_from(expired).unwrap_or(i64::MAX))
}

fn count_expired(connection: &Connection, expired: i64) -> Result<()> {
    if expired > 0 {
        let before = settings::integer(connection, Setting::ConflictsExpired)?.unwrap_or(0);
        let after = before.saturating_add(expired);
        settings::store(connection, Setting::ConflictsExpired, &Value::Integer(after))?;
    }
    Ok(())
}
