//! Changes that this file refused: tried again when the rest is in, together where they only hinder each
//! other, and parked when nothing helps. A parked change is tried again by every later apply.

use std::collections::HashMap;

use rusqlite::Connection;
use shared_format::payload::Payload;
use shared_format::{CellOutcome, RowKind, RowWrite, Value, ValueRef};

use super::incoming::{Change, Mappings};
use super::row::{Held, decide};
use super::triggers::TriggersOff;
use super::{Session, Source};
use crate::changes::single_row;
use crate::error::{Doing, Error, Reading, Result};
use crate::parked;
use crate::sql::refs;
use crate::tracked_table::TrackedTable;

/// Refused changes that are held in memory; further ones are parked at once and tried once more at the end.
const HELD_MAX: usize = 10_000;

/// Changes that are tried together: each further round costs as much as the one before.
const GROUP_MAX: usize = 1_000;

/// Rounds of one group: a chain of rows that wait for each other may lose one row a round.
const GROUP_ROUNDS_MAX: usize = 64;

/// Values in truth of rows that were moved aside, by table and row key.
pub(super) type Aside = HashMap<(u32, Vec<u8>), Vec<(usize, Value)>>;

/// Why a change was refused.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) reason: String,
    pub(super) sqlstate: &'static str,
    /// Whether another row has a value that has to be unique.
    pub(super) is_unique: bool,
}

impl Refusal {
    pub(super) fn of(error: &Error) -> Self {
        Self { reason: error.line(), sqlstate: error.sqlstate(), is_unique: error.is_unique_conflict() }
    }

    pub(super) fn because(reason: &str) -> Self {
        Self { reason: reason.to_owned(), sqlstate: "42804", is_unique: false }
    }
}

/// A refused change, waiting for its next try.
pub(super) struct Waiting {
    change: Change<'static>,
    refusal: Refusal,
    /// Its number, if it was parked by an earlier apply.
    parked: Option<i64>,
}

impl Session<'_, '_> {
    /// Lets a refused change wait.
    pub(super) fn wait(&mut self, change: &Change<'_>, refusal: Refusal) -> Result<()> {
        if self.waiting.len() >= HELD_MAX {
            return self.give_up(change, &refusal);
        }
        self.waiting.push(Waiting { change: change.clone().into_owned(), refusal, parked: None });
        Ok(())
    }

    /// Tries refused changes again, those of earlier syncs too, as long as one goes in; parks the rest.
    pub(super) fn retry(&mut self, mappings: &mut Mappings) -> Result<()> {
        let connection = self.replica.connection;
        // What a centre refused is its author's to keep.
        let parked = if self.gathering.is_some() { Vec::new() } else { parked::refused(connection)? };
        let mut waiting = Vec::new();
        for id in &parked {
            let Some(change) = self.parked_change(mappings, *id)? else { continue };
            if waiting.len() < HELD_MAX {
                waiting.push(Waiting { change, refusal: Refusal::because(""), parked: Some(*id) });
            } else if self.try_change(&change)?.is_none() {
                parked::forget(connection, *id)?;
            }
        }
        waiting.append(&mut self.waiting);
        loop {
            self.retry_each(&mut waiting)?;
            if !self.retry_together(&mut waiting)? {
                break;
            }
        }
        for one in waiting.iter().filter(|one| one.parked.is_none()) {
            self.give_up(&one.change, &one.refusal)?;
        }
        Ok(())
    }

    /// Leaves a refused change out: it is parked, or told to the site that uploaded it.
    fn give_up(&mut self, change: &Change<'_>, refusal: &Refusal) -> Result<()> {
        match &mut self.gathering {
            Some(gathering) => {
                gathering.refused(change, refusal);
                Ok(())
            }
            None => self.park(change, refusal),
        }
    }

    /// Reads a parked change; None when this file has no longer a place for it, and when it cannot be read, which
    /// then stands as its reason.
    fn parked_change(&mut self, mappings: &mut Mappings, id: i64) -> Result<Option<Change<'static>>> {
        match self.read_parked(mappings, id) {
            Err(error @ Error::Format { .. }) => {
                parked::explain(self.replica.connection, id, &error.line())?;
                Ok(None)
            }
            read => read,
        }
    }

    fn read_parked(&mut self, mappings: &mut Mappings, id: i64) -> Result<Option<Change<'static>>> {
        let Some(bytes) = parked::refused_change(self.replica.connection, id)? else { return Ok(None) };
        let payload = Payload::parse(&bytes).reading("parked change")?;
        mappings.learn(self.replica, &payload, Source::File)?;
        for changes in payload.changes() {
            let Some(batch) = mappings.batch(changes)? else { continue };
            let mut rows = batch.changes.rows();
            while let Some(row) = rows.next_row().reading("parked change")? {
                let mut change = batch.blank();
                if batch.fill(&mut change, row)? {
                    return Ok(Some(change.into_owned()));
                }
            }
        }
        Ok(None)
    }

    /// Tries each change on its own as long as one goes in.
    fn retry_each(&mut self, waiting: &mut Vec<Waiting>) -> Result<()> {
        let mut before = usize::MAX;
        while !waiting.is_empty() && waiting.len() < before {
            before = waiting.len();
            for mut one in std::mem::take(waiting) {
                match self.try_change(&one.change)? {
                    None => self.forget_parked(&one)?,
                    Some(refusal) => {
                        one.refusal = refusal;
                        waiting.push(one);
                    }
                }
            }
        }
        Ok(())
    }

    fn forget_parked(&self, one: &Waiting) -> Result<()> {
        one.parked.map_or(Ok(()), |id| parked::forget(self.replica.connection, id))
    }

    /// Tries changes that take each other's unique values: their rows are moved aside first. Says whether some
    /// went in. A change that is refused even so leaves the group, and the others try without it.
    fn retry_together(&mut self, waiting: &mut Vec<Waiting>) -> Result<bool> {
        let mut group: Vec<usize> = Vec::new();
        group.extend((0..waiting.len()).filter(|at| waiting[*at].refusal.is_unique).take(GROUP_MAX));
        let connection = self.replica.connection;
        for _round in 0..GROUP_ROUNDS_MAX {
            if group.len() < 2 {
                break;
            }
            connection.execute_batch("savepoint cloudsync_aside").doing("move rows aside")?;
            let before = self.applied.clone();
            if let Some(gathering) = &mut self.gathering {
                gathering.begin_group();
            }
            let mut refused = Vec::new();
            for at in &group {
                if self.move_aside(&waiting[*at].change)?.is_some() {
                    refused.push(*at);
                }
            }
            for at in &group {
                if !refused.contains(at)
                    && let Some(refusal) = self.try_change(&waiting[*at].change)?
                {
                    waiting[*at].refusal = refusal;
                    refused.push(*at);
                }
            }
            self.aside.clear();
            if let Some(gathering) = &mut self.gathering {
                gathering.end_group(refused.is_empty());
            }
            if refused.is_empty() {
                connection.execute_batch("release cloudsync_aside").doing("move rows aside")?;
                group.iter().try_for_each(|at| self.forget_parked(&waiting[*at]))?;
                let mut at = 0;
                waiting.retain(|_| {
                    at += 1;
                    !group.contains(&(at - 1))
                });
                return Ok(true);
            }
            let undo = "rollback to cloudsync_aside; release cloudsync_aside";
            connection.execute_batch(undo).doing("put rows back")?;
            for at in &group {
                self.forget_rolled_back(&waiting[*at].change)?;
            }
            self.applied = before;
            group.retain(|at| !refused.contains(at));
        }
        Ok(false)
    }

    /// Gives a live row other values in the unique columns that a change is about to write, without triggers and
    /// CHECKs: the change writes them all. Says why it could not.
    fn move_aside(&mut self, change: &Change<'_>) -> Result<Option<Refusal>> {
        let connection = self.replica.connection;
        let (local, _) = self.local_state(change)?;
        if !change.key_survives || !local.is_alive() {
            return Ok(None);
        }
        let statements = &mut self.statements[change.table_at];
        let mut held = Held::new(statements, change, true, &[]);
        let plan = decide(change, &local, &mut held)?;
        if !matches!(plan.write, RowWrite::Update | RowWrite::Replace) {
            return Ok(None);
        }
        let unique = unique_columns(connection, &change.table)?;
        let mut truth = Vec::new();
        for (place, outcome) in change.places.iter().zip(&plan.cells) {
            let column = &change.table.columns[*place];
            if *outcome == CellOutcome::Taken && unique.contains(&column.name) {
                truth.extend(held.value(*place)?.map(|value| (*place, value)));
            }
        }
        if truth.is_empty() {
            return Ok(None);
        }
        let mut aside = Vec::with_capacity(truth.len());
        for (place, value) in &truth {
            let may_be_null = change.table.columns[*place].may_be_null;
            aside.push((*place, if may_be_null { Value::Null } else { another(value)? }));
        }
        let _quiet = TriggersOff::when(connection, true)?;
        let ignored: bool = connection.query_row("pragma ignore_check_constraints", [], |row| row.get(0))?;
        connection.execute_batch("pragma ignore_check_constraints = on")?;
        let put = self.statements[change.table_at].put_aside(&change.key, &aside);
        let ignored = if ignored { "on" } else { "off" };
        connection.execute_batch(&format!("pragma ignore_check_constraints = {ignored}"))?;
        match put {
            Ok(_count) => {
                self.aside.insert((change.table.id, change.pk()), truth);
                Ok(None)
            }
            Err(error) if error.is_refusal() => Ok(Some(Refusal::of(&error))),
            Err(error) => Err(error),
        }
    }

    /// Parks a change, in place of older ones of its row that it says all of.
    fn park(&mut self, change: &Change<'_>, refusal: &Refusal) -> Result<()> {
        let connection = self.replica.connection;
        let (table, key) = (&*change.table, change.key_values());
        let mut mappings = Mappings::default();
        for id in parked::refused_of_row(connection, table, &change.pk())? {
            let Some(known) = self.parked_change(&mut mappings, id)? else { continue };
            if says_all_of(&known, change) {
                return Ok(());
            }
            if says_all_of(change, &known) {
                parked::forget(connection, id)?;
            }
        }
        let cells: Vec<_> = change.cells().map(|(at, cell, value)| (at, cell.stamp, value)).collect();
        let bytes = single_row(table, change.kind, change.stamp, &key, &cells);
        parked::refuse(connection, table, &refs(&key), &bytes, &refusal.reason)
    }
}

/// Whether merging `one` makes `other` say nothing more.
fn says_all_of(one: &Change<'_>, other: &Change<'_>) -> bool {
    let lives = |change: &Change<'_>| (change.kind != RowKind::Cells).then_some(change.stamp);
    let same = lives(one) == lives(other) && one.kind == other.kind;
    let begins_later = lives(one).is_some_and(|stamp| lives(other).is_none_or(|other| other < stamp));
    let has_life = same || other.kind == RowKind::Cells || begins_later;
    has_life
        && other.cells().all(|(_, cell, value)| {
            let held = one.cells().find(|(_, held, _)| held.column == cell.column);
            let is_void = lives(one).is_some_and(|life| cell.stamp < life);
            is_void
                || held.is_some_and(|(_, held, held_value)| {
                    held.stamp > cell.stamp || (held.stamp == cell.stamp && held_value == value)
                })
        })
}

/// Columns of UNIQUE indexes beside the key.
fn unique_columns(connection: &Connection, table: &TrackedTable) -> Result<Vec<String>> {
    let sql = "select distinct part.name
        from pragma_index_list(?1, 'main') as indexes, pragma_index_xinfo(indexes.name, 'main') as part
        where indexes.\"unique\" and indexes.origin <> 'pk' and part.key and part.name is not null";
    let mut statement = connection.prepare_cached(sql)?;
    let names = statement.query_map([&table.name], |row| row.get(0)).and_then(Iterator::collect);
    names.doing("read the indexes")
}

/// A value of the same type that no other row has.
fn another(value: &Value) -> Result<Value> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|_no_source| Error::Random)?;
    let bits = u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|at| bytes[at]));
    Ok(match value.as_ref() {
        ValueRef::Integer(_) => Value::Integer(bits.cast_signed()),
        // Between 1 and 2, so that it is a number.
        ValueRef::Real(_) => Value::Real(f64::from_bits(bits >> 12 | 1.0_f64.to_bits())),
        ValueRef::Text(_) => Value::Text(bytes.iter().map(|byte| format!("{byte:02x}")).collect()),
        _blob => Value::Blob(bytes.to_vec()),
    })
}
