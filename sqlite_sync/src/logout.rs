//! Takes everything of one user out of a file, so that another can begin: the rows of tracked tables, their
//! metadata and what is kept beside them go, the tables stay tracked, and the file becomes a new site.

use rusqlite::{Connection, params};
use shared_format::Value;

use crate::apply::{HORIZON, TriggersOff};
use crate::catalog::Replica;
use crate::error::{Doing, Error, Result};
use crate::log::{self, MARK};
use crate::settings::{self, Setting, Sites};
use crate::sql::Unit;

/// Tables that hold what belongs to a user.
const OF_A_USER: [&str; 13] = [
    "cloudsync_broken_off",
    "cloudsync_evictions",
    "cloudsync_dead",
    "cloudsync_rebase",
    "cloudsync_outbox",
    "cloudsync_outbox_chunks",
    "cloudsync_parked",
    "cloudsync_rejected",
    "cloudsync_skipped",
    "cloudsync_conflicts",
    "cloudsync_gaps",
    "cloudsync_held",
    "cloudsync_log",
];

/// Settings that belong to a user or to a place at the server.
const PLACES: [Setting; 11] = [
    Setting::Token,
    Setting::Cursor,
    Setting::RejectedSeen,
    Setting::Acknowledged,
    Setting::Stored,
    Setting::Refetch,
    Setting::Reload,
    Setting::ReloadCursor,
    Setting::Rebase,
    Setting::Expired,
    Setting::ParkedCollected,
];

/// Empties the file of a user's rows. What was not accepted by the server would be lost, so it is an error
/// unless the caller says that it may be.
pub(crate) fn logout(connection: &Connection, may_lose: bool) -> Result<()> {
    let unit = Unit::begin(connection)?;
    let replica = Replica::current(connection)?;
    if !may_lose {
        let (unsent, rejected) = kept(connection)?;
        if unsent + rejected > 0 {
            return Err(Error::Unsent { unsent, rejected });
        }
    }
    let newest = log::newest(connection)?.get();
    connection.execute_batch("pragma defer_foreign_keys = on").doing("wait with foreign keys")?;
    // Not one of these deletions is a change that others have to hear of.
    let triggers = TriggersOff::when(connection, true)?;
    for table in &replica.tables {
        let sql = format!("delete from {}; delete from {}", table.quoted(), table.metadata());
        connection.execute_batch(&sql).doing("delete the rows of a table")?;
    }
    drop(triggers);
    for table in OF_A_USER {
        connection.execute_batch(&format!("delete from main.{table}")).doing("forget what is kept")?;
    }
    let sql = "insert into main.cloudsync_log (seq, cols, ms) values (max(?1, 1), ?2, 0)";
    connection.execute(sql, params![newest, MARK]).doing("keep the number")?;
    settings::store(connection, Setting::Folded, &Value::Integer(newest.max(1)))?;
    connection.execute_batch("update main.cloudsync_tables set baseline = null, baseline_after = null")?;
    let sql = "delete from main.cloudsync_table_settings where col = '' and key = ?1";
    connection.execute(sql, [HORIZON]).doing("forget the horizons")?;
    for setting in PLACES {
        settings::store(connection, setting, &Value::Null)?;
    }
    Sites::renew(connection)?;
    unit.commit()
}

/// How much the server does not have: entries of the log and held entries, rejected rows.
fn kept(connection: &Connection) -> Result<(i64, i64)> {
    let sql =
        "select (select count(*) from main.cloudsync_held), (select count(*) from main.cloudsync_rejected)";
    let (held, rejected): (i64, i64) =
        connection.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).doing("count what is unsent")?;
    Ok((log::count_unsent(connection)? + held, rejected))
}
