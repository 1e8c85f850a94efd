//! What this database holds of the incoming rows: locked as the caller, read as the owner.

use std::collections::{BTreeMap, HashMap, HashSet};

use pgrx::pg_sys::{self, Datum};
use shared_format::{Hlc, Life, RowState, Stamp};

use super::incoming::Incoming;
use super::write::LostOf;
use crate::catalog::Tracked;
use crate::edge::codec;
use crate::edge::query::{self, Input, InputColumn};
use crate::edge::session::{self, as_owner};
use crate::error::SyncError;
use crate::metadata::Metadata;
use crate::ruled::{self, Registers};
use crate::sites;

/// Rows up to which a join needs no more memory than the session gives.
const FEW_ROWS: usize = 64;

/// A row as it is here.
#[derive(Clone, Debug, Default)]
pub(super) struct Local {
    /// Values of the columns beside the key; None when there is no row.
    pub(super) values: Option<Vec<Option<Datum>>>,
    /// Its metadata row, if it has one.
    pub(super) metadata: Option<Metadata>,
    /// What merge works with.
    pub(super) state: RowState,
    /// Registers of a live row.
    pub(super) registers: Registers,
}

/// Rows by table.
pub(super) fn by_table(incoming: &Incoming, which: &[usize]) -> BTreeMap<usize, Vec<usize>> {
    let mut tables: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for at in which {
        if let Some(row) = incoming.rows.get(*at) {
            tables.entry(row.table).or_default().push(*at);
        }
    }
    tables
}

/// Columns key_1 .. of a relation of ours.
pub(crate) fn key_columns(table: &Tracked) -> Vec<InputColumn> {
    let column = |(place, column): (usize, &crate::catalog::Column)| InputColumn {
        name: format!("key_{place}"),
        type_oid: column.codec.type_oid(),
        collation: column.collation,
    };
    (1..).zip(&table.key).map(column).collect()
}

/// Compares the key of a row `left` of the table with key_1 .. of `right`.
pub(crate) fn same_key(table: &Tracked, left: &str, right: &str) -> String {
    let parts = (1..).zip(&table.key).map(|(place, column): (usize, _)| {
        format!("{left}.{} {} {right}.key_{place}", column.quoted(), column.equality)
    });
    parts.collect::<Vec<_>>().join(" and ")
}

/// Locks the rows that the caller may update, in the order of their keys. Says whether it locked any.
fn lock(incoming: &Incoming, which: &[usize]) -> bool {
    let user = session::current_user();
    let mut is_locked = false;
    for (table, rows) in by_table(incoming, which) {
        let Some(table) = incoming.tables.get(table) else { continue };
        let rights = [pg_sys::ACL_SELECT, pg_sys::ACL_UPDATE];
        if !rights.iter().all(|right| session::has_right(table.relation, user, *right)) {
            continue;
        }
        let key: Vec<String> = table.key.iter().map(|column| format!("d.{}", column.quoted())).collect();
        let sql = format!(
            "select 1 from {} as d where exists (select from cloudsync_rows as s where {}) \
             order by {} for no key update of d",
            table.scan(),
            same_key(table, "d", "s"),
            key.join(", "),
        );
        is_locked |= query::run_with_rows(&sql, &[], &keys(incoming, table, &rows)).count > 0;
    }
    is_locked
}

fn keys(incoming: &Incoming, table: &Tracked, rows: &[usize]) -> Input {
    let mut columns = key_columns(table);
    columns.push(InputColumn {
        name: "place".into(),
        type_oid: pg_sys::INT8OID,
        collation: pg_sys::InvalidOid,
    });
    let row = |at: &usize| {
        let key = &incoming.rows.get(*at)?.key;
        let place = Some(Datum::from(i64::try_from(*at).ok()?));
        let mut row = Vec::with_capacity(key.len().saturating_add(1));
        row.extend(key.iter().copied().chain([place]));
        Some(row)
    };
    Input { columns, rows: rows.iter().filter_map(row).collect() }
}

/// What is here of the rows; those that are here are locked, and then read again.
pub(super) fn locked(incoming: &Incoming, which: &[usize]) -> Result<HashMap<usize, Local>, SyncError> {
    let mut locals = read(incoming, which)?;
    let is_here = |at: &usize| locals.get(at).is_some_and(|local| local.values.is_some());
    let here: Vec<usize> = which.iter().copied().filter(is_here).collect();
    if !here.is_empty() && lock(incoming, &here) {
        for at in &here {
            locals.remove(at);
        }
        locals.extend(read(incoming, &here)?);
    }
    Ok(locals)
}

/// Reads rows and metadata, also what the caller may not see. Of a row that was never here there is nothing.
pub(super) fn read(incoming: &Incoming, which: &[usize]) -> Result<HashMap<usize, Local>, SyncError> {
    as_owner(|| {
        let own = sites::self_ordinal();
        let mut locals = HashMap::new();
        for (table, rows) in by_table(incoming, which) {
            let Some(table) = incoming.tables.get(table) else { continue };
            let keys = keys(incoming, table, &rows);
            let look = || query::run_with_rows(&read_sql(table), &[], &keys);
            let found = if rows.len() > FEW_ROWS { session::with_room(look) } else { look() };
            for row in &found.rows {
                let place = row.attribute(1).map_or(-1, codec::to_i64);
                let Ok(place) = usize::try_from(place) else { continue };
                let after = i16::try_from(table.columns.len()).unwrap_or(i16::MAX).saturating_add(7);
                let metadata = Metadata::from_tuple(row, 2).map(|found| found.with_registers(row, after));
                let exists = row.attribute(6).is_some_and(codec::to_bool);
                let values =
                    exists.then(|| row.values.iter().skip(6).take(table.columns.len()).copied().collect());
                let state = state(table, metadata.as_ref(), exists, own)?;
                let packed = metadata.as_ref().filter(|_| exists).map(|found| found.registers.as_slice());
                let registers = ruled::unpack(table, packed.unwrap_or_default())?;
                locals.insert(place, Local { values, metadata, state, registers });
            }
        }
        Ok(locals)
    })
}

/// Marks the cells that the caller may be told of: not those of rows that are here and that he may not see, since a
/// stamp would tell of them.
pub(super) fn mark_tellable(incoming: &Incoming, mut lost: Vec<LostOf>) -> Vec<LostOf> {
    let mut alive: Vec<usize> = lost.iter().filter(|one| one.cell.is_alive).map(|one| one.row).collect();
    alive.dedup();
    let user = session::current_user();
    let mut seen = HashSet::new();
    for (table, rows) in by_table(incoming, &alive) {
        let Some(table) = incoming.tables.get(table) else { continue };
        if !session::has_right(table.relation, user, pg_sys::ACL_SELECT) {
            continue;
        }
        let sql = format!(
            "select s.place from cloudsync_rows as s where exists (select from {} as d where {})",
            table.scan(),
            same_key(table, "d", "s"),
        );
        let found = query::run_with_rows(&sql, &[], &keys(incoming, table, &rows));
        let places = found.rows.iter().filter_map(|row| row.attribute(1).map(codec::to_i64));
        seen.extend(places.filter_map(|place| usize::try_from(place).ok()));
    }
    for one in &mut lost {
        one.is_tellable = !one.cell.is_alive || seen.contains(&one.row);
    }
    lost
}

/// place, alive, hlc, site, cols, whether the row exists, its columns; of a ruled table, registers. Of rows that have
/// data or metadata.
fn read_sql(table: &Tracked) -> String {
    let columns: String = table.columns.iter().map(|column| format!(", d.{}", column.quoted())).collect();
    let first = table.key.first().map(crate::catalog::Column::quoted).unwrap_or_default();
    let parts = (1..)
        .zip(&table.key)
        .map(|(place, column): (usize, _)| format!("m.key_{place} {} s.key_{place}", column.equality));
    let registers = if table.ruled.rules.are_plain() { "" } else { ", m.registers" };
    format!(
        "select s.place, m.alive, m.hlc, m.site, m.cols, d.{first} is not null{columns}{registers} \
         from cloudsync_rows as s left join {} as m on {} left join {} as d on {} \
         where m.alive is not null or d.{first} is not null",
        table.metadata(),
        parts.collect::<Vec<_>>().join(" and "),
        table.scan(),
        same_key(table, "d", "s"),
    )
}

/// The state of a row. The table has the last word on whether it exists: capture may have been off.
fn state(
    table: &Tracked,
    metadata: Option<&Metadata>,
    exists: bool,
    own: i32,
) -> Result<RowState, SyncError> {
    let Some(metadata) = metadata else {
        let site = sites::site(own).unwrap_or(shared_format::SiteId::ZERO);
        let baseline = Stamp { hlc: Hlc::BASELINE_CENTRE, site };
        return Ok(if exists { RowState::baseline(baseline) } else { RowState::unseen() });
    };
    let mut state = metadata.state(table)?;
    if state.is_alive() != exists {
        let stamp = state.life_stamp();
        state.cells.clear();
        state.life = Some(Life { alive: exists, stamp });
    }
    Ok(state)
}
