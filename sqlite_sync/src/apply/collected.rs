//! Drops tombstones where the server says so, and refuses what could bring back rows whose tombstones are gone.
//!
//! A replica never collects on its own: the horizon of a table is an event in the server's stream, and all drop
//! the same tombstones at the same place. From then on a creation that is older than the horizon, of a row that
//! nobody here knows, is either late or long deleted. The server only sends such a creation when it is alive; a
//! payload file may be from any time. So a file says in each frame up to where its author had dropped
//! tombstones: an author that was as far as this file has seen every deletion that this file forgot.

use std::collections::HashSet;

use rusqlite::Connection;
use shared_format::payload::{Collection, TableAlgorithm};
use shared_format::{ColumnRule, Hlc, Register, RowKind, RowState, Stamp, Value, ValueRef, encode_key};

use super::Session;
use super::incoming::{Change, Mappings};
use super::rebase::unsent;
use crate::catalog::Replica;
use crate::central::audience;
use crate::conflicts::{Conflict, Reason, record};
use crate::error::{Doing, Error, Result};
use crate::metadata::{self, STATE_COLUMNS};
use crate::parked;
use crate::settings::{self, Setting};
use crate::sql::{Bind, binds, columns, refs};
use crate::table_settings;
use crate::tracked_table::TrackedTable;

/// Tombstones that are looked at before some are dropped: bounds what a collection holds.
const PAGE: usize = 10_000;

/// Key of the table's setting that holds its horizon.
pub(crate) const HORIZON: &str = "horizon";

/// Key of a centre's table that holds the row key at which its collection goes on.
pub(crate) const RESUME: &str = "collected_up_to";

/// A row that is not alive, with its parked cells.
struct Tombstone {
    key: Vec<Value>,
    state: RowState,
}

impl Tombstone {
    /// Whether every stamp of it is below a horizon.
    fn is_below(&self, horizon: Hlc) -> bool {
        self.state.life_stamp().hlc < horizon && self.state.cells.iter().all(|cell| cell.stamp.hlc < horizon)
    }
}

impl Change<'_> {
    /// Whether this may be a row whose tombstone this file dropped, from an author that never saw it.
    pub(super) fn may_be_collected(&self) -> bool {
        let horizon = self.table.horizon;
        self.kind == RowKind::Created && self.stamp.hlc < horizon && self.author_horizon < horizon
    }
}

/// Refuses a creation that is older than the horizon and whose row nobody here knows.
pub(super) fn check_horizon(connection: &Connection, change: &Change<'_>, local: &RowState) -> Result<()> {
    if !change.may_be_collected() || local.life.is_some() {
        return Ok(());
    }
    let time = |hlc: Hlc| -> Result<String> {
        let ms = i64::try_from(hlc.unix_ms()).unwrap_or(i64::MAX);
        let sql =
            "select coalesce(strftime('%Y-%m-%dT%H:%M:%fZ', nullif(?1, 0) / 1000.0, 'unixepoch'), 'none')";
        connection.prepare_cached(sql)?.query_row([ms], |row| row.get(0)).doing("print a time")
    };
    Err(Error::BehindHorizon {
        table: change.table.name.clone(),
        created: time(change.stamp.hlc)?,
        author: time(change.author_horizon)?,
        horizon: time(change.table.horizon)?,
    })
}

impl Session<'_, '_> {
    /// Drops the tombstones that notices of the server name.
    pub(super) fn collect(&self, collections: &[Collection], mappings: &Mappings) -> Result<()> {
        for collection in collections {
            if let Some(table) = mappings.table(collection.table, collection.incarnation)? {
                self.collect_table(&table, collection.horizon)?;
            }
        }
        Ok(())
    }

    fn collect_table(&self, table: &TrackedTable, horizon: Hlc) -> Result<()> {
        // There a deletion stands for good.
        if table.rules.table == TableAlgorithm::Dws || horizon <= table.horizon {
            return Ok(());
        }
        let unsent = unsent(self.replica, table)?;
        let mut after = None;
        loop {
            after = drop_tombstones(self.replica, table, horizon, after.as_deref(), &unsent)?;
            if after.is_none() {
                break;
            }
        }
        let horizon = Value::Integer(horizon.to_sql());
        table_settings::store(self.replica.connection, table.id, "", HORIZON, &horizon)
    }
}

/// Drops tombstones below a horizon, but those of `unsent` rows, as far as one call goes; the row key behind which the
/// next one goes on.
pub(crate) fn drop_tombstones(
    replica: &Replica<'_>,
    table: &TrackedTable,
    horizon: Hlc,
    after: Option<&[Value]>,
    unsent: &HashSet<Vec<u8>>,
) -> Result<Option<Vec<Value>>> {
    let tombstones = page(replica, table, after)?;
    for tombstone in tombstones.iter().filter(|tombstone| tombstone.is_below(horizon)) {
        drop_tombstone(replica, table, tombstone, unsent)?;
    }
    if tombstones.len() < PAGE {
        return Ok(None);
    }
    Ok(tombstones.into_iter().last().map(|tombstone| tombstone.key))
}

/// Drops one tombstone, unless the server does not know it yet or a parked change waits for its row.
fn drop_tombstone(
    replica: &Replica<'_>,
    table: &TrackedTable,
    tombstone: &Tombstone,
    unsent: &HashSet<Vec<u8>>,
) -> Result<()> {
    let connection = replica.connection;
    let pk = encode_key(refs(&tombstone.key));
    if unsent.contains(&pk) || !parked::refused_of_row(connection, table, &pk)?.is_empty() {
        return Ok(());
    }
    if !tombstone.state.cells.is_empty() {
        report_parked(replica, table, tombstone, &pk)?;
        parked::forget_cells(connection, table, &pk)?;
    }
    audience::forget(connection, table, &pk)?;
    metadata::forget(connection, table, &tombstone.key)
}

/// Keeps the parked cells of this site as conflicts, at a centre those of all sites, and counts the others.
fn report_parked(
    replica: &Replica<'_>,
    table: &TrackedTable,
    tombstone: &Tombstone,
    pk: &[u8],
) -> Result<()> {
    let connection = replica.connection;
    let own = replica.own();
    let is_kept = |stamp: Stamp| stamp.site == own || table.is_of_centre();
    let mut others: i64 = 0;
    for (id, value) in parked::cells(connection, table, pk)? {
        let stamp = tombstone.state.stamp_of(id);
        let Some(at) = table.position(id).filter(|_| is_kept(stamp)) else {
            others += 1;
            continue;
        };
        let value = visible(table.rules.of(id), value, table.default_of(id))?;
        let conflict = Conflict {
            column: &table.columns[at].name,
            lost: (value.as_ref(), stamp),
            won: (ValueRef::Null, tombstone.state.life_stamp()),
            reason: Reason::Collected,
        };
        record(connection, table, &tombstone.key, &[conflict], replica.corrected_ms()?)?;
    }
    let before = settings::integer(connection, Setting::ParkedCollected)?.unwrap_or(0);
    settings::store(connection, Setting::ParkedCollected, &Value::Integer(before.saturating_add(others)))
}

/// What a user would see of a parked cell.
fn visible(rule: &ColumnRule, value: Value, default: ValueRef<'_>) -> Result<Value> {
    match &value {
        Value::Blob(bytes) if rule.is_register() => Ok(Register::decode(rule, bytes)?.visible(rule, default)),
        _plain => Ok(value),
    }
}

/// The next rows of a table that are not alive, in key order.
fn page(replica: &Replica<'_>, table: &TrackedTable, after: Option<&[Value]>) -> Result<Vec<Tombstone>> {
    let key = table.log_key("");
    let beyond = after.map(|_| format!("({key}) > ({}) and ", table.key_places(1))).unwrap_or_default();
    let sql = format!(
        "select {}, {key} from {} where {beyond}not alive order by {key} limit {PAGE}",
        metadata::state_columns(""),
        table.metadata(),
    );
    let mut statement = replica.connection.prepare(&sql).doing("look for tombstones")?;
    let after: Vec<Bind<'_>> = binds(after.unwrap_or_default());
    let mut rows = statement.query(rusqlite::params_from_iter(after))?;
    let mut tombstones = Vec::new();
    while let Some(row) = rows.next().doing("look for tombstones")? {
        if let Some(state) = metadata::state(&replica.sites, table, row, 0)? {
            tombstones.push(Tombstone { key: columns(row, STATE_COLUMNS, table.key.len())?, state });
        }
    }
    Ok(tombstones)
}
