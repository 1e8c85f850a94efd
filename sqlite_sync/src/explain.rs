//! Why a row is as it is: `cloudsync_explain` tells who wrote which column when, and what of it is unsent.
//! Reads only; entries that are not folded yet are laid over the metadata in memory.

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::{Map, Value as Json, json};
use shared_format::{RowState, SiteId, Stamp, Value, encode_key};

use crate::catalog::Replica;
use crate::changes::own_columns;
use crate::error::{Doing, Error, Result};
use crate::fold::{self, Wanted, for_each_logged_row};
use crate::log::{self, Captured, ColumnSet, DbVersion};
use crate::metadata;
use crate::rejected::printed_key;
use crate::sql::{binds, columns, refs};
use crate::tracked_table::TrackedTable;

/// What of a row no upload was acknowledged for.
#[derive(Debug, Default)]
struct Unsent {
    life: bool,
    columns: ColumnSet,
}

/// Tells everything about one row, as JSON.
pub(crate) fn explain(connection: &Connection, table: &str, key: &[Value]) -> Result<Json> {
    let mut replica = Replica::load(connection)?.ok_or(Error::NothingTracked)?;
    let table =
        replica.table_named(table).cloned().ok_or_else(|| Error::NotTracked { table: table.to_owned() })?;
    table.check_key(key)?;
    let key = stored_key(connection, &table, key)?;
    let pk = encode_key(refs(&key));
    let mut state = known_state(&replica, &table, &key)?;
    fold::overlay(&mut replica, &table, &mut |logged, folded, _registers, _seq| {
        if encode_key(refs(logged)) == pk {
            state = Some(folded);
        }
    })?;
    let is_present = crate::changes::read_row(connection, &table, &key)?.is_some();
    let is_baseline = state.is_none() && is_present;
    let state = match state {
        Some(state) => state,
        None if is_present => metadata::baseline(&table, replica.own()),
        None => RowState::unseen(),
    };
    let unsent = unsent(&mut replica, &table, &pk, &state, is_baseline)?;
    let told = Teller { connection, own: replica.own() };
    let mut cells = Map::new();
    for column in &table.columns {
        let stamp = if state.is_alive() {
            Some(state.stamp_of(column.id)).filter(|stamp| {
                // A column that the creation did not carry has its default, which nobody wrote.
                *stamp != Stamp::ZERO || state.cell(column.id).is_none()
            })
        } else {
            state.cell(column.id)
        };
        let is_unsent = unsent.columns.contains(column.id);
        let cell = stamp.map_or(Ok(Json::Null), |stamp| told.stamp(stamp, is_unsent))?;
        cells.insert(column.name.clone(), cell);
    }
    let life = state.life.map_or(Ok(Json::Null), |life| told.stamp(life.stamp, unsent.life))?;
    Ok(json!({
        "table": table.name,
        "key": printed_key(&key),
        "present": is_present,
        "alive": state.is_alive(),
        "life": life,
        "columns": cells,
        "rejected": rejected(connection, &table, &pk)?,
        "refused": refused(connection, &table, &pk)?,
    }))
}

/// Prints stamps.
struct Teller<'c> {
    connection: &'c Connection,
    own: SiteId,
}

impl Teller<'_> {
    fn stamp(&self, stamp: Stamp, is_unsent: bool) -> Result<Json> {
        let ms = i64::try_from(stamp.hlc.unix_ms()).unwrap_or(i64::MAX);
        // Milliseconds 0 are those of rows that were there before.
        let time: Option<String> = self
            .connection
            .prepare_cached("select strftime('%Y-%m-%dT%H:%M:%fZ', nullif(?1, 0) / 1000.0, 'unixepoch')")?
            .query_row([ms], |row| row.get(0))
            .doing("print a time")?;
        Ok(json!({
            "version": stamp.hlc.to_sql(),
            "time": time,
            "site": stamp.site.to_string(),
            "own": stamp.site == self.own,
            "unsent": is_unsent,
        }))
    }
}

/// The state that the metadata holds.
fn known_state(replica: &Replica<'_>, table: &TrackedTable, key: &[Value]) -> Result<Option<RowState>> {
    let sql = format!(
        "select {} from {} where {}",
        metadata::state_columns(""),
        table.metadata(),
        table.log_key_is(1)
    );
    let mut statement = replica.connection.prepare(&sql)?;
    let mut rows = statement.query(rusqlite::params_from_iter(binds(key)))?;
    match rows.next().doing("read metadata")? {
        Some(row) => metadata::state(&replica.sites, table, row, 0),
        None => Ok(None),
    }
}

/// The key as the file stores it, of a row that it knows; otherwise as it was given.
pub(crate) fn stored_key(connection: &Connection, table: &TrackedTable, key: &[Value]) -> Result<Vec<Value>> {
    let places = [
        (table.key_columns(""), table.quoted(), table.key_is(1)),
        (table.log_key(""), table.metadata(), table.log_key_is(1)),
    ];
    for (names, from, condition) in places {
        let mut statement = connection.prepare(&format!("select {names} from {from} where {condition}"))?;
        let mut rows = statement.query(rusqlite::params_from_iter(binds(key)))?;
        if let Some(row) = rows.next().doing("look for a row")? {
            return columns(row, 0, table.key.len());
        }
    }
    Ok(key.to_vec())
}

fn unsent(
    replica: &mut Replica<'_>,
    table: &TrackedTable,
    pk: &[u8],
    state: &RowState,
    is_baseline: bool,
) -> Result<Unsent> {
    let connection = replica.connection;
    let acknowledged = log::acknowledged(connection)?;
    let first = DbVersion::new(acknowledged.get() + 1);
    let newest = log::newest(connection)?;
    let mut unsent = Unsent::default();
    let is_unsent_baseline = table.baseline.is_some_and(|baseline| baseline > acknowledged.get());
    if is_baseline && is_unsent_baseline {
        unsent.life = true;
        unsent.columns = table.column_ids().into_iter().collect();
    }
    for_each_logged_row(replica, table, (first, newest), Wanted::State, &mut |replica, row| {
        if encode_key(refs(&row.key)) != pk {
            return Ok(());
        }
        let mut row = row.clone();
        row.state = Some(state.clone());
        unsent.columns.add(&own_columns(replica, table, &row));
        let is_life = |captured: &Captured| match captured {
            Captured::Inserted => state.is_alive(),
            Captured::Deleted | Captured::Look => !state.is_alive(),
            Captured::Updated(_) | Captured::Baseline | Captured::Mark => false,
        };
        let is_own = state.life_stamp().site == replica.own();
        unsent.life |= is_own && row.entries.iter().any(|entry| is_life(&entry.captured));
        Ok(())
    })?;
    Ok(unsent)
}

/// Why the server did not accept the row, null when it did.
fn rejected(connection: &Connection, table: &TrackedTable, pk: &[u8]) -> Result<Json> {
    let sql = "select sqlstate, message from main.cloudsync_rejected where tbl = ?1 and pk = ?2";
    let found = connection
        .query_row(sql, params![table.name, pk], |row| {
            Ok(json!({ "sqlstate": row.get::<_, String>(0)?, "message": row.get::<_, String>(1)? }))
        })
        .optional()
        .doing("read a rejection")?;
    Ok(found.unwrap_or(Json::Null))
}

/// Why changes of the row that came from elsewhere are not in the table.
fn refused(connection: &Connection, table: &TrackedTable, pk: &[u8]) -> Result<Vec<String>> {
    let sql = "select reason from main.cloudsync_parked where tbl = ?1 and pk = ?2 and kind = 'refused' order by id";
    connection
        .prepare(sql)?
        .query_map(params![table.id, pk], |row| row.get(0))
        .and_then(Iterator::collect)
        .doing("read refused changes")
}
