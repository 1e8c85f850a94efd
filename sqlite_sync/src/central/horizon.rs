//! Tombstones of a central file that go: what each site has received, and up to where each table has dropped its own.
//!
//! As in Postgres, a tombstone waits until every known site has received it, at most `tombstone_retention`. The notice
//! goes into the feed in the transaction of the first row that goes, so that everybody drops the same ones there.

use std::collections::HashSet;

use rusqlite::{Connection, params};
use shared_format::payload::{Collection, PayloadBuilder, TableAlgorithm, encode_frame};
use shared_format::{Hlc, SiteId, Value, decode_key, encode_key};

use super::{append, end_transaction, newest, pass_on, wanted_centre};
use crate::apply::{HORIZON, RESUME, drop_tombstones};
use crate::catalog::Replica;
use crate::error::{Doing, Reading, Result};
use crate::sql::{Unit, refs, wall_ms};
use crate::table_settings;
use crate::tracked_table::TrackedTable;

/// How long a tombstone waits for a site that was not heard of, unless `tombstone_retention` says otherwise.
const RETENTION_DEFAULT: &str = "30 days";

/// Time between two marks of the log: a tombstone waits for days, so that minutes do not count.
const MARK_INTERVAL_MS: i64 = 600_000;

/// Notes that a site has received the feed up to a place. True when tombstones are gone that it may not have seen: then
/// it takes a snapshot before anything of it is applied.
pub(crate) fn note_site(connection: &Connection, site: SiteId, place: i64) -> Result<bool> {
    let unit = Unit::begin(connection)?;
    wanted_centre(connection)?;
    mark_log(connection)?;
    let sql = "select max(at_ms) from main.cloudsync_log_marks where place <= ?1";
    let until: Option<i64> = connection.prepare_cached(sql)?.query_row([place], |row| row.get(0))?;
    if let Some(until) = until {
        // A file of a device that was restored from a backup has received less than it had.
        let sql = "insert into main.cloudsync_site_places (site, received_until_ms) values (?1, ?2)
            on conflict (site) do update set received_until_ms = excluded.received_until_ms
            where received_until_ms <> excluded.received_until_ms";
        let row = params![site.as_bytes().as_slice(), until];
        connection.prepare_cached(sql)?.execute(row).doing("note the place of a site")?;
    }
    let seen = Hlc::from_parts(until.unwrap_or(0), 0);
    let replica = Replica::load(connection)?;
    let is_behind = replica.is_some_and(|replica| replica.tables.iter().any(|table| table.horizon > seen));
    unit.commit()?;
    Ok(is_behind)
}

/// Drops some tombstones that every known site has received; says whether there may be more.
pub(crate) fn collect(connection: &Connection) -> Result<bool> {
    let unit = Unit::begin(connection)?;
    wanted_centre(connection)?;
    mark_log(connection)?;
    let clock = received_by_all(connection)?;
    let replica = Replica::current(connection)?;
    let tables = replica.tables.iter().filter(|table| table.enabled);
    // Of dws tables a deletion stands for good.
    let tables = tables.filter(|table| table.rules.table != TableAlgorithm::Dws);
    let mut open = None;
    for table in tables {
        let resume = table_settings::of_table(connection, table.id, RESUME)?;
        if resume.is_some() || (table.horizon < clock && has_tombstones(connection, table, clock)?) {
            open = Some((table, resume));
            break;
        }
    }
    let Some((table, resume)) = open else {
        unit.commit()?;
        return Ok(false);
    };
    let (horizon, after) = match resume {
        Some(Value::Blob(key)) => (table.horizon, Some(decode_key(&key).reading("place of a collection")?)),
        _none => {
            begin(connection, table, clock)?;
            (clock, None)
        }
    };
    // All that was written here was passed on.
    let next = drop_tombstones(&replica, table, horizon, after.as_deref(), &HashSet::new())?;
    let next = next.map_or(Value::Null, |key: Vec<Value>| Value::Blob(encode_key(refs(&key))));
    table_settings::store(connection, table.id, "", RESUME, &next)?;
    end_transaction(connection)?;
    unit.commit()?;
    Ok(true)
}

/// Raises the horizon of a table, and says so to everybody.
fn begin(connection: &Connection, table: &TrackedTable, horizon: Hlc) -> Result<()> {
    table_settings::store(connection, table.id, "", HORIZON, &Value::Integer(horizon.to_sql()))?;
    let mut payload = PayloadBuilder::new();
    payload.definition(&table.definition());
    payload.collection(Collection { table: table.id, incarnation: table.incarnation, horizon });
    append(connection, &encode_frame(&payload.finish()))
}

/// Whether there are tombstones that the last round left, because they were newer.
fn has_tombstones(connection: &Connection, table: &TrackedTable, clock: Hlc) -> Result<bool> {
    let sql = format!(
        "select exists (select 1 from {} where not alive and hlc >= ?1 and hlc < ?2)",
        table.metadata()
    );
    let range = params![table.horizon.to_sql(), clock.to_sql()];
    connection.query_row(&sql, range, |row| row.get(0)).doing("look for tombstones")
}

/// The least clock of a write that a known site may not have received.
fn received_by_all(connection: &Connection) -> Result<Hlc> {
    let oldest = oldest_ms(connection)?;
    let sql = "delete from main.cloudsync_log_marks where at_ms < ?1
        and place < (select max(place) from main.cloudsync_log_marks where at_ms < ?1)";
    connection.execute(sql, [oldest]).doing("forget marks of the log")?;
    // Such a site is behind whatever is dropped.
    let sql = "delete from main.cloudsync_site_places where received_until_ms < ?1";
    connection.execute(sql, [oldest]).doing("forget places of sites")?;
    // A site that uploads, and of which nothing is known, may have received nothing for long.
    let sql = "select min(coalesce(p.received_until_ms, 0))
        from main.cloudsync_uploaders as u full join main.cloudsync_site_places as p on p.site = u.site";
    let received: Option<i64> = connection.query_row(sql, [], |row| row.get(0))?;
    Ok(Hlc::from_parts(received.unwrap_or(i64::MAX).clamp(0, wall_ms(connection)?).max(oldest), 0))
}

fn oldest_ms(connection: &Connection) -> Result<i64> {
    let retention = match table_settings::file(connection, table_settings::RETENTION)? {
        Some(Value::Text(retention)) => retention,
        _unset => RETENTION_DEFAULT.to_owned(),
    };
    let seconds = table_settings::retention_seconds(connection, &retention)?.unwrap_or(i64::MAX);
    Ok(wall_ms(connection)?.saturating_sub(seconds.saturating_mul(1_000)))
}

/// Notes now and then where the feed stands: whoever has it up to there has all that was committed before.
fn mark_log(connection: &Connection) -> Result<()> {
    // Read before what is passed on.
    let at = wall_ms(connection)?;
    pass_on(connection)?;
    let place = newest(connection)?;
    let sql = "select exists (select 1 from main.cloudsync_log_marks
        where place < ?1 and at_ms > ?2 and at_ms <= ?3)";
    let recent = params![place, at.saturating_sub(MARK_INTERVAL_MS), at];
    let is_recent: bool = connection.prepare_cached(sql)?.query_row(recent, |row| row.get(0))?;
    if !is_recent {
        let sql = "insert into main.cloudsync_log_marks (place, at_ms) values (?1, ?2)
            on conflict (place) do update set at_ms = excluded.at_ms";
        connection.prepare_cached(sql)?.execute([place, at]).doing("mark the log")?;
    }
    Ok(())
}
