//! Finds the values of this site that a merge is about to lose, and that the server has not acknowledged yet, or has
//! under the same stamp as another value.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use rusqlite::{Connection, params};
use shared_format::{CellOutcome, Hlc, Plan, RowState, RowWrite, Stamp, Value, ValueRef};

use super::incoming::Change;
use super::row::{Held, aside_of};
use crate::catalog::Replica;
use crate::conflicts::{Cell, Conflict, Reason, has_lost_at_server, record};
use crate::error::{Doing, Result};
use crate::log::{self, Captured, ColumnSet, DbVersion};
use crate::sql::column;
use crate::tracked_table::TrackedTable;

/// Columns written here and not acknowledged, by row. A row takes 16 bytes: its hash, and a bit for each
/// column id below 63, or all of them.
#[derive(Debug, Default)]
pub(super) struct Unsent {
    rows: HashMap<u64, u64>,
    baselines: HashSet<u32>,
}

/// One cell that is about to lose.
#[derive(Debug)]
pub(super) struct Losing {
    place: usize,
    lost: (Value, Stamp),
    won: (Value, Stamp),
    reason: Reason,
    /// Whether the server had not acknowledged it, and what won is something else.
    is_new: bool,
}

impl Unsent {
    /// Reads the log above what was acknowledged, up to where it is folded.
    pub(super) fn read(replica: &Replica<'_>, last: DbVersion) -> Result<Self> {
        let mut unsent = Self::default();
        let first = log::acknowledged(replica.connection)?;
        for table in &replica.tables {
            unsent.read_table(replica.connection, table, first, last)?;
        }
        Ok(unsent)
    }

    fn read_table(
        &mut self,
        connection: &Connection,
        table: &TrackedTable,
        after: DbVersion,
        last: DbVersion,
    ) -> Result<()> {
        let key = table.log_key("");
        let sql =
            format!("select cols, {key} from main.cloudsync_log where seq > ?1 and seq <= ?2 and tbl = ?3");
        let mut statement = connection.prepare(&sql).doing("read the capture log")?;
        let mut rows = statement.query(params![after.get(), last.get(), table.id])?;
        while let Some(row) = rows.next().doing("read the capture log")? {
            let columns = match Captured::read(column(row, 0)?)? {
                Captured::Inserted => u64::MAX,
                Captured::Updated(set) => bits(table, &set),
                Captured::Baseline => {
                    self.baselines.insert(table.id);
                    continue;
                }
                Captured::Deleted | Captured::Look | Captured::Mark => continue,
            };
            let mut key = Vec::with_capacity(table.key.len());
            for at in 0..table.key.len() {
                key.push(column(row, at + 1)?);
            }
            *self.rows.entry(hash(table.id, key.into_iter())).or_insert(0) |= columns;
        }
        Ok(())
    }

    /// Whether a cell of this site was not acknowledged.
    fn has(&self, change: &Change<'_>, place: usize, stamp: Stamp) -> bool {
        let table = &change.table;
        if stamp.hlc == Hlc::ZERO && self.baselines.contains(&table.id) {
            return true;
        }
        let row = self.rows.get(&hash(table.id, change.key.iter().map(|part| part.as_value())));
        row.is_some_and(|columns| columns & bit(table.columns[place].id.get()) != 0)
    }
}

fn bit(id: u16) -> u64 {
    if id < 63 { 1 << id } else { 1 << 63 }
}

fn bits(table: &TrackedTable, set: &ColumnSet) -> u64 {
    let ids = table.columns.iter().map(|column| column.id).filter(|id| set.contains(*id));
    ids.fold(0, |bits, id| bits | bit(id.get()))
}

/// Two rows with one hash would at worst report a conflict too much.
fn hash<'a>(table: u32, key: impl Iterator<Item = ValueRef<'a>>) -> u64 {
    let mut hasher = DefaultHasher::new();
    table.hash(&mut hasher);
    for part in key {
        match part {
            ValueRef::Integer(v) => v.hash(&mut hasher),
            ValueRef::Real(v) => v.to_bits().hash(&mut hasher),
            ValueRef::Text(v) => v.hash(&mut hasher),
            ValueRef::Blob(v) | ValueRef::RawText(v) => v.hash(&mut hasher),
            _null => 0_u8.hash(&mut hasher),
        }
    }
    hasher.finish()
}

impl super::Session<'_, '_> {
    /// Cells of this site that a plan takes away before the server had acknowledged them.
    pub(super) fn losing(
        &mut self,
        change: &Change<'_>,
        local: &RowState,
        plan: &Plan,
    ) -> Result<Vec<Losing>> {
        let own = self.replica.own();
        let mut cells = Vec::new();
        if plan.write == RowWrite::Update {
            for (place, cell, outcome) in taken(change, plan) {
                let held = local.stamp_of(cell.column);
                if held.site == own {
                    let reason = if cell.stamp == held { Reason::Equal } else { Reason::Newer };
                    cells.push((place, held, Some(outcome), reason));
                }
            }
        } else if local.life.is_some_and(|life| life.stamp.site == own)
            || local.cells.iter().any(|cell| cell.stamp.site == own)
        {
            cells = self.losing_of_life(change, local, plan);
        }
        if cells.is_empty() {
            return Ok(Vec::new());
        }
        if self.unsent.is_none() {
            self.unsent = Some(Unsent::read(self.replica, self.folded)?);
        }
        let Some(unsent) = &self.unsent else { return Ok(Vec::new()) };
        let connection = self.replica.connection;
        let has_told = match self.has_lost_at_server {
            Some(has) => has,
            None => *self.has_lost_at_server.insert(has_lost_at_server(connection)?),
        };
        let is_tie =
            |stamp: Stamp, cell: Option<usize>| cell.is_some_and(|at| change.stamps[at].stamp == stamp);
        cells.retain(|(place, stamp, cell, _)| {
            has_told || is_tie(*stamp, *cell) || unsent.has(change, *place, *stamp)
        });
        if cells.is_empty() {
            return Ok(Vec::new());
        }
        let statements = &mut self.statements[change.table_at];
        let mut held = Held::new(statements, change, local.is_alive(), aside_of(&self.aside, change));
        let mut losing = Vec::new();
        for (place, stamp, cell, reason) in cells {
            let Some(lost) = held.value(place)? else { continue };
            let won = match cell {
                Some(at) => (change.values[at].to_value(), change.stamps[at].stamp),
                None => (Value::Null, plan.state.life_stamp()),
            };
            let is_new = lost != won.0 && (is_tie(stamp, cell) || unsent.has(change, place, stamp));
            if is_new || (has_told && cell.is_some()) {
                losing.push(Losing { place, lost: (lost, stamp), won, reason, is_new });
            }
        }
        Ok(losing)
    }

    /// Own cells that do not come into the row's next life, or are replaced beside a row that is not alive.
    fn losing_of_life(
        &self,
        change: &Change<'_>,
        local: &RowState,
        plan: &Plan,
    ) -> Vec<(usize, Stamp, Option<usize>, Reason)> {
        let own = self.replica.own();
        let mut cells = Vec::new();
        for (place, column) in change.table.columns.iter().enumerate() {
            let held = if local.is_alive() { Some(local.stamp_of(column.id)) } else { local.cell(column.id) };
            let Some(held) = held.filter(|stamp| stamp.site == own) else { continue };
            let taken = taken(change, plan).find(|(at, _, _)| *at == place).map(|(_, _, cell)| cell);
            let stays = plan.state.cell(column.id) == Some(held) || plan.state.life == local.life;
            if taken.is_some() || !stays {
                let reason = match (plan.state.life == local.life, plan.state.is_alive()) {
                    (true, _) => Reason::Newer,
                    (false, true) => Reason::Replaced,
                    (false, false) => Reason::Deleted,
                };
                cells.push((place, held, taken, reason));
            }
        }
        cells
    }

    /// Keeps what lost; what is kept already because it lost at the server only learns what won.
    pub(super) fn keep_lost(&mut self, change: &Change<'_>, losing: &[Losing]) -> Result<()> {
        if losing.is_empty() {
            return Ok(());
        }
        let connection = self.replica.connection;
        let key = change.key_values();
        let mut fresh = Vec::with_capacity(losing.len());
        for one in losing {
            let column = &change.table.columns[one.place].name;
            let cell = Cell { table: &change.table, key: &key, column };
            let mut is_new = one.is_new;
            if self.has_lost_at_server == Some(true) {
                cell.settle(connection, one.won.0.as_ref(), one.won.1)?;
                is_new = is_new && !cell.is_known(connection, one.lost.1)?;
            }
            fresh.extend(is_new.then_some(one));
        }
        let conflicts: Vec<Conflict<'_>> = fresh
            .iter()
            .map(|cell| Conflict {
                column: &change.table.columns[cell.place].name,
                lost: (cell.lost.0.as_ref(), cell.lost.1),
                won: (cell.won.0.as_ref(), cell.won.1),
                reason: cell.reason,
            })
            .collect();
        let at_ms = self.corrected_ms;
        record(connection, &change.table, &key, &conflicts, at_ms)
    }
}

/// Cells that a plan takes: place, stamp, index.
fn taken<'a>(
    change: &'a Change<'_>,
    plan: &'a Plan,
) -> impl Iterator<Item = (usize, shared_format::CellStamp, usize)> + 'a {
    let cells = change.places.iter().zip(&change.stamps).zip(&plan.cells).enumerate();
    cells
        .filter(|(_, (_, outcome))| matches!(outcome, CellOutcome::Taken | CellOutcome::Parked))
        .map(|(index, ((place, cell), _))| (*place, *cell, index))
}
