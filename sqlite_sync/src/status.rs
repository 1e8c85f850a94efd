//! What a file can say of itself: `cloudsync_status`. Reads only.

use rusqlite::{Connection, OptionalExtension};
use serde_json::{Map, Value as Json, json};
use shared_format::Hlc;

use crate::catalog::{Replica, clock_offset_ms};
use crate::error::{Doing, Result};
use crate::log;
use crate::settings::{self, Setting};
use crate::sql::{NOW_MS, column};
use crate::tracked_table::TrackedTable;

/// Keys of settings that tell of a sync on its way begin like this.
const PROGRESS: &str = "progress_";

/// When the last sync ended, and how.
const SYNCED_AT: &str = "synced_at_ms";
const SYNC_ERROR: &str = "sync_error";

/// Everything there is to say, as JSON.
pub(crate) fn status(connection: &Connection) -> Result<Json> {
    let version = env!("CARGO_PKG_VERSION");
    let Some(replica) = Replica::load(connection)? else {
        return Ok(json!({ "version": version, "siteId": null, "tables": [] }));
    };
    let tables = replica.tables.iter().map(|table| table_status(connection, table));
    Ok(json!({
        "version": version,
        "siteId": replica.own().to_string(),
        "newest": log::newest(connection)?.get(),
        "folded": log::folded(connection)?.get(),
        "acknowledged": log::acknowledged(connection)?.get(),
        "unsent": log::count_unsent(connection)?,
        "tables": tables.collect::<Result<Vec<_>>>()?,
        "parked": {
            "cells": count(connection, "cloudsync_parked where kind = 'cells'")?,
            "refused": count(connection, "cloudsync_parked where kind = 'refused'")?,
            "collected": settings::integer(connection, Setting::ParkedCollected)?.unwrap_or(0),
        },
        "rejected": count(connection, "cloudsync_rejected")?,
        "conflicts": count(connection, "cloudsync_conflicts")?,
        "conflictsExpired": settings::integer(connection, Setting::ConflictsExpired)?.unwrap_or(0),
        "skipped": count(connection, "cloudsync_skipped")?,
        "gaps": gaps(connection)?,
        "clockOffsetMs": clock_offset_ms(connection)?,
        "lastSync": {
            "atMs": setting(connection, SYNCED_AT)?,
            "error": setting(connection, SYNC_ERROR)?,
        },
        "progress": progress(connection)?,
    }))
}

/// Remembers how a sync ended; an error without what was sent. A file that cannot be written says it nowhere.
pub(crate) fn note_sync(connection: &Connection, error: Option<&str>) {
    let sql = format!(
        "insert into main.cloudsync_settings (key, value) values ('{SYNCED_AT}', {NOW_MS}), ('{SYNC_ERROR}', ?1)
         on conflict (key) do update set value = excluded.value"
    );
    drop(connection.execute(&sql, [error]));
}

fn table_status(connection: &Connection, table: &TrackedTable) -> Result<Json> {
    let sql =
        format!("select coalesce(sum(alive), 0), coalesce(sum(not alive), 0) from {}", table.metadata());
    let (rows, tombstones): (i64, i64) = connection
        .query_row(&sql, [], |row| Ok((row.get(0)?, row.get(1)?)))
        .doing("count rows of metadata")?;
    let held = format!("cloudsync_held where tbl = {}", table.id);
    Ok(json!({
        "name": table.name,
        "algorithm": table.rules.table.name(),
        "enabled": table.enabled,
        "held": count(connection, &held)?,
        "filter": table.filter,
        "metadata": rows,
        "tombstones": tombstones,
        "baseline": table.baseline,
        "horizonMs": (table.horizon > Hlc::ZERO).then(|| table.horizon.unix_ms()),
    }))
}

/// Counts rows of one of the extension's tables; a file of an earlier version may not have it.
fn count(connection: &Connection, from: &str) -> Result<i64> {
    let name = from.split(' ').next().unwrap_or(from);
    let sql = "select 1 from main.sqlite_schema where type = 'table' and name = ?1";
    if connection.query_row(sql, [name], |_row| Ok(())).optional()?.is_none() {
        return Ok(0);
    }
    let sql = format!("select count(*) from main.{from}");
    connection.query_row(&sql, [], |row| row.get(0)).doing("count what is kept")
}

fn gaps(connection: &Connection) -> Result<Vec<Json>> {
    let sql = "select coalesce(t.name, g.tbl), g.reason, g.at_ms from main.cloudsync_gaps as g
        left join main.cloudsync_tables as t on t.id = g.tbl order by g.tbl";
    let gap = |row: &rusqlite::Row<'_>| {
        let (table, reason, at_ms) =
            (row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, i64>(2)?);
        Ok(json!({ "table": table, "reason": reason, "atMs": at_ms }))
    };
    connection.prepare(sql)?.query_map([], gap).and_then(Iterator::collect).doing("read the gaps")
}

/// A setting in the form of JSON, null when it was never set.
fn setting(connection: &Connection, key: &str) -> Result<Json> {
    let sql = "select value from main.cloudsync_settings where key = ?1";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([key])?;
    match rows.next().doing("read a setting")? {
        Some(row) => Ok(crate::rejected::printed(column(row, 0)?)),
        None => Ok(Json::Null),
    }
}

/// What a sync that is on its way says, null when there is none.
fn progress(connection: &Connection) -> Result<Json> {
    let sql =
        "select key, value from main.cloudsync_settings where key glob ?1 and value is not null order by key";
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([format!("{PROGRESS}*")])?;
    let mut progress = Map::new();
    while let Some(row) = rows.next().doing("read the progress")? {
        let key: String = row.get(0)?;
        let name = key.strip_prefix(PROGRESS).unwrap_or(&key).to_owned();
        progress.insert(name, crate::rejected::printed(column(row, 1)?));
    }
    Ok(if progress.is_empty() { Json::Null } else { Json::Object(progress) })
}
