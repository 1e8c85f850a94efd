//! Merges one change into one row and carries the plan out: the row first, so that a constraint can still
//! refuse, then what is parked, then the metadata.

use std::cell::OnceCell;
use std::cmp::Ordering;
use std::rc::Rc;

use rusqlite::types::ToSql;
use shared_format::{
    CellOutcome, CellStamp, ColumnId, Hlc, Incoming, Plan, RowKind, RowState, RowWrite, Stamp, Value,
    ValueRef, encode_key, merge,
};

use super::incoming::Change;
use super::{Session, Source, Staged};
use crate::changes::read_row;
use crate::error::{Doing, Error, Result};
use crate::metadata;
use crate::parked;
use crate::sql::{binds, refs};
use crate::tracked_table::TrackedTable;

/// How far a stamp may be ahead of the corrected clock: see DESIGN section 3.
const AHEAD_MS_MAX: u64 = 60_000;

/// One millisecond of an [`Hlc`]: what a stamp may be beyond one that is held already.
const MILLISECOND: u64 = 1 << 16;

impl Session<'_, '_> {
    /// Merges a change; says whether anything changed.
    pub(super) fn merge_change(&mut self, change: &Change) -> Result<bool> {
        let table = Rc::clone(&change.table);
        let connection = self.replica.connection;
        let local = self.local_state(&table, &change.key)?;
        self.check_clock(change, &local)?;
        let stamps: Vec<CellStamp> = change
            .cells
            .iter()
            .map(|(at, stamp, _)| CellStamp { column: table.columns[*at].id, stamp: *stamp })
            .collect();
        let incoming = Incoming {
            kind: change.kind,
            stamp: change.stamp,
            cells: &stamps,
            uncarried: &uncarried(&table, change),
        };
        let held = Held {
            connection,
            table: &table,
            key: &change.key,
            is_alive: local.is_alive(),
            read: OnceCell::new(),
        };
        let mut plan = merge(&local, &incoming, &mut |at| {
            let (place, _, value) = &change.cells[at];
            held.compare(value, table.columns[*place].id)
        })?;
        if !plan.changed {
            return Ok(false);
        }
        let seq = self.mark()?;
        let moved = held.moved(&plan)?;
        let written = self.write_row(change, &plan, &moved)?;
        if !plan.state.is_alive() && !plan.state.cells.is_empty() {
            let values = parked_values(&held, change, &plan, moved);
            // A row that a user's trigger deleted meanwhile took its values along.
            plan.state.cells.retain(|cell| values.iter().any(|(id, _)| *id == cell.column));
            parked::store_cells(connection, &table, &change.key, &plan.state, &values)?;
        } else if !local.is_alive() && !local.cells.is_empty() {
            parked::forget_cells(connection, &table, &encode_key(refs(&change.key)))?;
        }
        metadata::write(connection, &mut self.replica.sites, &table, &change.key, &plan.state, seq)?;
        if self.is_watched && plan.write != RowWrite::Keep {
            self.stage(change, &plan, written);
        }
        Ok(true)
    }

    /// What this file knows of a row; a row without metadata was there before `cloudsync_init`.
    fn local_state(&self, table: &TrackedTable, key: &[Value]) -> Result<RowState> {
        let connection = self.replica.connection;
        if let Some(state) = metadata::read(connection, &self.replica.sites, table, key)? {
            return Ok(state);
        }
        Ok(match read_row(connection, table, key)? {
            Some(_row) => RowState::baseline(Stamp { site: self.replica.own(), ..Stamp::ZERO }),
            None => RowState::unseen(),
        })
    }

    /// Refuses stamps from far ahead in payload files; what the server sends was checked there.
    fn check_clock(&self, change: &Change, local: &RowState) -> Result<()> {
        if self.source != Source::File {
            return Ok(());
        }
        let limit = u64::try_from(self.corrected_ms).unwrap_or(0).saturating_add(AHEAD_MS_MAX);
        let check = |hlc: Hlc, held: Hlc| {
            let is_ahead = hlc.unix_ms() > limit && hlc.raw() > held.raw().saturating_add(MILLISECOND);
            if is_ahead { Err(hlc.unix_ms().saturating_sub(limit)) } else { Ok(()) }
        };
        let life = if change.kind == RowKind::Cells { Hlc::ZERO } else { change.stamp.hlc };
        let cells = change
            .cells
            .iter()
            .map(|(at, stamp, _)| check(stamp.hlc, local.stamp_of(change.table.columns[*at].id).hlc));
        let refuse = |beyond_ms: u64| Error::ClockAhead {
            ahead_ms: beyond_ms.saturating_add(AHEAD_MS_MAX),
            ahead_ms_max: AHEAD_MS_MAX,
        };
        check(life, local.life_stamp().hlc).map_err(refuse)?;
        cells.into_iter().try_for_each(|checked| checked.map_err(refuse))
    }

    /// Writes the row and returns the places and values that were asked for.
    fn write_row(
        &mut self,
        change: &Change,
        plan: &Plan,
        moved: &[(ColumnId, Value)],
    ) -> Result<Vec<(usize, Value)>> {
        let table = &change.table;
        let taken = change.cells.iter().zip(&plan.cells);
        let mut asked: Vec<(usize, Value)> = taken
            .filter(|(_, outcome)| **outcome == CellOutcome::Taken)
            .map(|((at, _, value), _)| (*at, value.clone()))
            .collect();
        for column in &plan.show {
            let value = moved.iter().find(|(id, _)| id == column).map(|(_, value)| value.clone());
            asked.extend(table.position(*column).zip(value));
        }
        asked.sort_by_key(|(at, _)| *at);
        let places: Vec<usize> = asked.iter().map(|(at, _)| *at).collect();
        let sql = match plan.write {
            RowWrite::Keep => return Ok(asked),
            RowWrite::Delete => Rc::from(table.sql.row_delete.as_str()),
            RowWrite::Insert => self.statement(table, "insert", &places, || insert_sql(table, &places)),
            RowWrite::Update => self.statement(table, "update", &places, || update_sql(table, &places, &[])),
            RowWrite::Replace => {
                let defaults = defaulted(table, plan, &places);
                if places.is_empty() && defaults.is_empty() {
                    return Ok(asked);
                }
                Rc::from(update_sql(table, &places, &defaults))
            }
        };
        let mut values = binds(&change.key);
        if plan.write != RowWrite::Delete {
            values.extend(binds(asked.iter().map(|(_, value)| value)));
        }
        let parameters: Vec<&dyn ToSql> = values.iter().map(|bind| bind as &dyn ToSql).collect();
        let mut statement = self.replica.connection.prepare_cached(&sql).doing("write a row")?;
        statement.execute(parameters.as_slice()).doing("write a row")?;
        Ok(asked)
    }

    fn statement(
        &mut self,
        table: &TrackedTable,
        what: &'static str,
        places: &[usize],
        make: impl FnOnce() -> String,
    ) -> Rc<str> {
        let name = (table.id, what, places.to_vec());
        Rc::clone(self.statements.entry(name).or_insert_with(|| Rc::from(make())))
    }

    /// Remembers what was asked for, to tell it later from what users' triggers made of it.
    fn stage(&mut self, change: &Change, plan: &Plan, asked: Vec<(usize, Value)>) {
        let row = (change.table.id, encode_key(refs(&change.key)));
        let staged = self.staged.entry(row).or_insert_with(|| Staged {
            table: Rc::clone(&change.table),
            key: change.key.clone(),
            is_alive: true,
            has_life: false,
            cells: Vec::new(),
        });
        staged.is_alive = plan.state.is_alive();
        staged.has_life |= plan.write != RowWrite::Update;
        if !staged.is_alive {
            staged.cells.clear();
            return;
        }
        if plan.write == RowWrite::Replace {
            let gone = defaulted(&change.table, plan, &[]);
            staged.cells.retain(|(at, _)| !gone.contains(at));
        }
        for (at, value) in asked {
            staged.cells.retain(|(known, _)| *known != at);
            staged.cells.push((at, value));
        }
    }
}

/// Values of a row that merge may ask for.
struct Held<'a> {
    connection: &'a rusqlite::Connection,
    table: &'a TrackedTable,
    key: &'a [Value],
    is_alive: bool,
    read: OnceCell<Vec<(ColumnId, Value)>>,
}

impl Held<'_> {
    /// How a value orders against the one that this file holds for a column, live or parked.
    fn compare(&self, value: &Value, column: ColumnId) -> Result<Ordering> {
        let held = self.all()?.iter().find(|(id, _)| *id == column);
        Ok(value.as_ref().cmp_encoded(&held.map_or(ValueRef::Null, |(_, held)| held.as_ref())))
    }

    fn all(&self) -> Result<&Vec<(ColumnId, Value)>> {
        if let Some(values) = self.read.get() {
            return Ok(values);
        }
        let values = if self.is_alive {
            let values = read_row(self.connection, self.table, self.key)?.unwrap_or_default();
            self.table.columns.iter().map(|column| column.id).zip(values).collect()
        } else {
            parked::cells(self.connection, self.table, &encode_key(refs(self.key)))?
        };
        Ok(self.read.get_or_init(|| values))
    }

    /// Values that the plan moves between the row and its tombstone, or leaves beside it.
    fn moved(&self, plan: &Plan) -> Result<Vec<(ColumnId, Value)>> {
        let stays = !self.is_alive && !plan.state.is_alive() && !plan.state.cells.is_empty();
        if plan.park.is_empty() && plan.show.is_empty() && !stays {
            return Ok(Vec::new());
        }
        let mut values = self.all()?.clone();
        values.retain(|(id, _)| plan.park.contains(id) || plan.show.contains(id) || stays);
        Ok(values)
    }
}

/// Values to keep beside the tombstone: those there, those that lost their row, those that came.
fn parked_values(
    held: &Held<'_>,
    change: &Change,
    plan: &Plan,
    moved: Vec<(ColumnId, Value)>,
) -> Vec<(ColumnId, Value)> {
    let mut values = moved;
    for ((at, _, value), outcome) in change.cells.iter().zip(&plan.cells) {
        let id = held.table.columns[*at].id;
        if *outcome == CellOutcome::Parked {
            values.retain(|(known, _)| *known != id);
            values.push((id, value.clone()));
        }
    }
    values
}

/// Columns of ours that a creation's author does not know.
fn uncarried(table: &TrackedTable, change: &Change) -> Vec<ColumnId> {
    if change.kind != RowKind::Created {
        return Vec::new();
    }
    let carried = |at: usize| change.cells.binary_search_by_key(&at, |(place, _, _)| *place).is_ok();
    let columns = table.columns.iter().enumerate();
    columns.filter(|(at, _)| !carried(*at)).map(|(_, column)| column.id).collect()
}

/// Places of a replaced row that go to their default: neither written nor newer than the new base.
fn defaulted(table: &TrackedTable, plan: &Plan, written: &[usize]) -> Vec<usize> {
    let base = plan.state.life_stamp();
    let keeps = |id: ColumnId| plan.state.cell(id).is_some_and(|stamp| stamp > base);
    let columns = table.columns.iter().enumerate();
    columns.filter(|(at, column)| !written.contains(at) && !keeps(column.id)).map(|(at, _)| at).collect()
}

fn insert_sql(table: &TrackedTable, places: &[usize]) -> String {
    let mut names = vec![table.key_columns("")];
    names.extend(places.iter().map(|at| table.columns[*at].quoted()));
    let values: Vec<String> = (1..=table.key.len() + places.len()).map(|at| format!("?{at}")).collect();
    format!("insert into {} ({}) values ({})", table.quoted(), names.join(", "), values.join(", "))
}

fn update_sql(table: &TrackedTable, places: &[usize], defaults: &[usize]) -> String {
    let mut sets: Vec<String> = places
        .iter()
        .enumerate()
        .map(|(at, place)| format!("{} = ?{}", table.columns[*place].quoted(), table.key.len() + at + 1))
        .collect();
    sets.extend(defaults.iter().map(|at| {
        let column = &table.columns[*at];
        format!("{} = ({})", column.quoted(), column.default.as_deref().unwrap_or("null"))
    }));
    format!("update {} set {} where {}", table.quoted(), sets.join(", "), table.key_is(1))
}

/// Writes staged cells again where they differ from what was asked.
pub(super) fn rewrite_sql(table: &TrackedTable, places: &[usize]) -> String {
    let differs: Vec<String> = places
        .iter()
        .enumerate()
        .map(|(at, place)| format!("{} is not ?{}", table.columns[*place].quoted(), table.key.len() + at + 1))
        .collect();
    format!("{} and ({})", update_sql(table, places, &[]), differs.join(" or "))
}
