//! Direct capture: stamps and emits the rows of a statement without a plan of SQL, where nothing else in the
//! transaction has touched them.
//!
//! It does what the functions of `sql/postgres/040_capture.sql` do, and leaves to them what is not usual: rows
//! that this transaction has written before, keys that changed, rows that apply writes other than new ones. A statement that turns out
//! to be of that kind is given to them whole; what was stamped until then is stamped again, and greater.

use pgrx::pg_sys::Datum;
use shared_format::{Hlc, RowKind, Stamp, ValueRef};

use crate::audience::{Audience, Travel};
use crate::edge::heap::{Found, MetadataTable, Stored, Written};
use crate::edge::memory::Context;
use crate::edge::session;
use crate::edge::trigger::{Firing, Operation, Rows};
use crate::edge::tuple::Tuple;
use crate::emit::{Emitted, Emitter};
use crate::error::{SyncError, or_raise};
use crate::metadata::{self, Metadata};
use crate::plan::Plan;
use crate::{stage, too_large};

/// What was done with a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Its rows are stamped, and their messages are in the log.
    Captured,
    /// The general functions have to capture it.
    Unusual,
}

/// How often a row that others write without its data row is read again.
const TRIES: usize = 10;

/// Captures the rows of a statement.
pub(crate) fn capture(firing: &Firing, operation: Operation, plan: &Plan) -> Outcome {
    if plan.prints {
        return session::as_printer(|| capture_rows(firing, operation, plan));
    }
    capture_rows(firing, operation, plan)
}

fn capture_rows(firing: &Firing, operation: Operation, plan: &Plan) -> Outcome {
    let table = &plan.table;
    let mut work = Work {
        plan,
        metadata: MetadataTable::open(&plan.layout),
        emitter: plan.emitter(),
        // Read after the rows were locked.
        wall: session::wall_ms() << 16,
        memory: Context::new(c"cloudsync capture"),
        key: Vec::with_capacity(table.key.len()),
        metadata_is: Expected::Unknown,
        audience: None,
    };
    let done = match operation {
        Operation::Insert => firing.new_rows().map(|new| work.inserted(new)),
        Operation::Update => {
            firing.old_rows().zip(firing.new_rows()).map(|(old, new)| work.updated(old, new))
        }
        Operation::Delete => firing.old_rows().map(|old| work.deleted(old)),
    };
    if done == Some(true) {
        plan.finish(work.emitter);
        return Outcome::Captured;
    }
    Outcome::Unusual
}

/// Captures the rows that a statement of apply inserted, as far as no other statement has touched them. The general
/// functions find what is left, and of the others nothing left to do.
pub(crate) fn capture_staged(firing: &Firing, plan: &Plan) -> Result<Outcome, SyncError> {
    // Sites of others are looked up as the owner.
    if plan.prints {
        return session::as_printer(|| insert_staged(firing, plan));
    }
    session::as_owner(|| insert_staged(firing, plan))
}

fn insert_staged(firing: &Firing, plan: &Plan) -> Result<Outcome, SyncError> {
    let Some(mut new) = firing.new_rows() else { return Ok(Outcome::Unusual) };
    let table = &plan.table;
    let mut work = Staging {
        plan,
        metadata: MetadataTable::open(&plan.layout),
        emitter: plan.emitter(),
        key: Tuple {
            values: Vec::new(),
            types: table.key.iter().map(|column| column.codec.type_oid()).collect(),
        },
        image: Tuple { values: Vec::new(), types: plan.types.clone() },
    };
    work.metadata.expect_many();
    let memory = Context::new(c"cloudsync staged capture");
    let mut outcome = Outcome::Captured;
    while new.advance() {
        memory.reset();
        if !memory.run(|| work.row(&new))? {
            outcome = Outcome::Unusual;
        }
    }
    plan.finish(work.emitter);
    Ok(outcome)
}

/// A statement of apply that is being captured.
struct Staging<'a> {
    plan: &'a Plan,
    metadata: MetadataTable,
    emitter: Emitter,
    /// Key of the present row, and all of it.
    key: Tuple,
    image: Tuple,
}

impl Staging<'_> {
    /// Stamps and emits one row as the stage says; false when it is for the general functions.
    fn row(&mut self, new: &Rows) -> Result<bool, SyncError> {
        let table = &self.plan.table;
        self.image.values.clear();
        self.image.values.extend((1..).take(self.plan.types.len()).map(|number| new.attribute(number)));
        self.key.values.clear();
        self.key.values.extend(table.key.iter().map(|column| self.image.attribute(column.id)));
        let Some((staged, had_metadata)) = stage::first_insert(table.table_id, &self.key, &self.image) else {
            return Ok(false);
        };
        let metadata = staged.metadata;
        let stored = Stored {
            alive: metadata.alive,
            hlc: metadata.hlc,
            site: metadata.site,
            cols: metadata.cols,
            scopes: None,
        };
        self.write(&stored, had_metadata)?;
        self.emitter.row(&Emitted {
            kind: staged.kind,
            hlc: stored.hlc,
            site: stored.site,
            cols: &stored.cols,
            carried: Some(&staged.carried),
            key: &self.key,
            image: &self.image,
            audience: None,
        })?;
        Ok(true)
    }

    /// Writes metadata in the place of what the merge saw.
    fn write(&mut self, stored: &Stored, had_metadata: bool) -> Result<(), SyncError> {
        let key: Vec<Datum> = self.key.values.iter().copied().flatten().collect();
        // What had a tombstone may have lost it meanwhile.
        let found = if had_metadata { self.metadata.find(&key) } else { None };
        let written = match &found {
            None => self.metadata.insert(&key, stored),
            Some(found) => {
                let mut cols = found.stored.cols.clone();
                metadata::trim(&mut cols);
                let Stored { alive, hlc, site, .. } = found.stored;
                let is = Metadata { alive, hlc, site, cols, registers: Vec::new() };
                if stage::is_unchanged(self.plan.table.table_id, &self.key, &is) {
                    self.metadata.update(&key, found, stored)
                } else {
                    Written::Raced
                }
            }
        };
        match written {
            Written::Done => Ok(()),
            Written::Raced => {
                stage::note_overtaken();
                Err(SyncError::Overtaken(self.plan.table.name.clone()))
            }
        }
    }
}

/// A statement that is being captured.
struct Work<'a> {
    plan: &'a Plan,
    metadata: MetadataTable,
    emitter: Emitter,
    wall: i64,
    /// Holds what one row needs.
    memory: Context,
    /// Key of the present row.
    key: Vec<Datum>,
    metadata_is: Expected,
    /// Of the present row, where its readers are not everybody.
    audience: Option<Audience>,
}

/// Whether the rows of a statement had metadata before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// The first one shows.
    Unknown,
    /// Those that were inserted until now had not, so the next one is not looked for first.
    Absent,
    /// Some had: rows that were deleted once.
    Mixed,
}

/// What happened to a row.
#[derive(Clone, Copy)]
enum Change<'a> {
    Created,
    /// These columns have other values, by place.
    Updated(&'a [bool]),
    Deleted,
}

impl Work<'_> {
    fn inserted(&mut self, mut new: Rows) -> bool {
        while new.advance() {
            self.look(None, Some(&new));
            if !self.read_key(&new) || !self.row(Change::Created, &new) {
                return false;
            }
        }
        true
    }

    fn deleted(&mut self, mut old: Rows) -> bool {
        while old.advance() {
            self.look(Some(&old), None);
            if !self.read_key(&old) || !self.row(Change::Deleted, &old) {
                return false;
            }
        }
        true
    }

    /// Old and new rows come in pairs: both are kept when a row is updated.
    fn updated(&mut self, mut old: Rows, mut new: Rows) -> bool {
        let mut changed = vec![false; self.plan.ids.len()];
        loop {
            match (old.advance(), new.advance()) {
                (false, false) => return true,
                (true, true) => {}
                (true, false) | (false, true) => return false,
            }
            let plan = self.plan;
            let same = |column: &crate::catalog::Column| {
                column.codec.same_image(old.attribute(column.id), new.attribute(column.id))
            };
            if !plan.table.key.iter().all(same) || !self.read_key(&new) {
                return false;
            }
            for (changed, column) in changed.iter_mut().zip(&plan.table.columns) {
                *changed = !same(column);
            }
            if changed.contains(&true) {
                self.look(Some(&old), Some(&new));
                if !self.row(Change::Updated(&changed), &new) {
                    return false;
                }
            }
        }
    }

    /// Notes who read the present row, and who reads it.
    fn look(&mut self, old: Option<&Rows>, new: Option<&Rows>) {
        let Some(evaluator) = &self.plan.evaluator else { return };
        let is_in = |rows: Option<&Rows>| rows.is_some_and(|rows| evaluator.matches(rows));
        let scopes = |rows: Option<&Rows>| rows.map(|rows| evaluator.scopes(rows)).unwrap_or_default();
        let was_in = is_in(old);
        let (from, now_in, to) = (scopes(old), is_in(new), scopes(new));
        self.audience = Some(Audience { was_in, was_out: !was_in, from, now_in, to });
    }

    /// Notes the key of a row; false for one without a key, which is no row of a table.
    fn read_key(&mut self, row: &Rows) -> bool {
        self.key.clear();
        self.key.extend(self.plan.table.key.iter().filter_map(|column| row.attribute(column.id)));
        self.key.len() == self.plan.table.key.len()
    }

    /// Stamps and emits one row; false when it is for the general functions.
    fn row(&mut self, change: Change<'_>, image: &Rows) -> bool {
        self.memory.reset();
        if self.metadata_is == Expected::Absent {
            self.metadata.expect_many();
        }
        for _try in 0..TRIES {
            let hopeful = self.metadata_is == Expected::Absent;
            let found = if hopeful { None } else { self.metadata.find(&self.key) };
            if found.as_ref().is_some_and(|found| found.own) {
                return false;
            }
            let (kind, stamp, mut stored) = self.decide(change, found.as_ref());
            stored.scopes = self.audience.as_ref().filter(|_| !stored.alive).map(Audience::last);
            let (metadata, key) = (&mut self.metadata, &self.key);
            let written = self.memory.run(|| match &found {
                None => metadata.insert(key, &stored),
                Some(found) => metadata.update(key, found, &stored),
            });
            match (written, &found) {
                (Written::Done, _) => {
                    if found.is_none() && kind == RowKind::Created && self.metadata_is == Expected::Unknown {
                        self.metadata_is = Expected::Absent;
                    }
                    self.emit(kind, stamp, &stored, change, image);
                    return true;
                }
                (Written::Raced, None) if hopeful => self.metadata_is = Expected::Mixed,
                // Whoever made it has not committed: the general functions wait for that.
                (Written::Raced, None) => return false,
                (Written::Raced, Some(_)) => {}
            }
        }
        false
    }

    /// The stamp of a write, and the metadata with it.
    fn decide(&self, change: Change<'_>, found: Option<&Found>) -> (RowKind, i64, Stored) {
        let before = found.map(|found| &found.stored);
        let above = |greatest: i64| self.wall.max(greatest.saturating_add(1));
        let whole = |kind: RowKind| {
            let stamp = before.map_or(self.wall, |stored| above(greatest(stored, None)));
            let alive = kind == RowKind::Created;
            (
                kind,
                stamp,
                Stored { alive, hlc: stamp, site: self.plan.ordinal, cols: Vec::new(), scopes: None },
            )
        };
        let changed = match change {
            Change::Created => return whole(RowKind::Created),
            Change::Deleted => return whole(RowKind::Deleted),
            Change::Updated(changed) => changed,
        };
        let ids = || self.plan.ids.iter().zip(changed).filter(|(_, changed)| **changed).map(|(id, _)| *id);
        let (hlc, site, mut cols, stamp) = match before {
            // It was there before the table was tracked.
            None => (1, self.plan.ordinal, Vec::new(), self.wall),
            Some(stored) if stored.alive => {
                let stamp = above(greatest(stored, Some(&mut ids())));
                (stored.hlc, stored.site, stored.cols.clone(), stamp)
            }
            Some(_) => return whole(RowKind::Created),
        };
        cols.resize(self.plan.cols_len.max(cols.len()), None);
        for id in ids() {
            let at = usize::try_from(id).unwrap_or(0).saturating_mul(2);
            if let Some([hlc, site]) = cols.get_mut(at.saturating_sub(2)..at) {
                *hlc = Some(stamp);
                *site = Some(i64::from(self.plan.ordinal));
            }
        }
        (RowKind::Cells, stamp, Stored { alive: true, hlc, site, cols, scopes: None })
    }

    fn emit(&mut self, kind: RowKind, stamp: i64, stored: &Stored, change: Change<'_>, image: &Rows) {
        let travel = self.audience.as_ref().map_or(Travel::AsIs, |audience| audience.travel(kind));
        match travel {
            Travel::Nothing => {}
            Travel::AsIs => self.emit_alike(kind, stamp, change, image),
            Travel::Whole | Travel::Departure => self.emit_row(kind, stored, image),
        }
    }

    /// Emits a row with all its stamps, or that readers lost it.
    fn emit_row(&mut self, kind: RowKind, stored: &Stored, image: &Rows) {
        let types = self.plan.table.key.iter().map(|column| column.codec.type_oid()).collect();
        let key = Tuple { values: self.key.iter().copied().map(Some).collect(), types };
        let (memory, emitter) = (&self.memory, &mut self.emitter);
        let row = Emitted {
            kind,
            hlc: stored.hlc,
            site: stored.site,
            cols: &stored.cols,
            carried: Some(&[]),
            key: &key,
            image: &image.tuple(),
            audience: self.audience.as_ref(),
        };
        or_raise(memory.run(|| session::as_owner(|| emitter.row(&row))));
    }

    fn emit_alike(&mut self, kind: RowKind, stamp: i64, change: Change<'_>, image: &Rows) {
        let table = &self.plan.table;
        let audience = self.audience.as_ref();
        let stamp = Stamp { hlc: Hlc::from_sql(stamp), site: self.plan.site };
        let (emitter, parts) = (&mut self.emitter, &self.key);
        self.memory.run(|| {
            let key: Vec<ValueRef<'_>> =
                table.key.iter().zip(parts).map(|(column, part)| column.codec.value(Some(*part))).collect();
            let carried = |place: usize| match change {
                Change::Updated(changed) if kind == RowKind::Cells => {
                    changed.get(place).copied().unwrap_or(false)
                }
                Change::Updated(_) | Change::Created => true,
                Change::Deleted => false,
            };
            let columns = table.columns.iter().enumerate().filter(|(place, _)| carried(*place));
            let cells = too_large::read(
                columns.map(|(place, column)| (place, None, &column.codec, image.attribute(column.id))),
            );
            emitter.alike(kind, stamp, &key, &cells, audience);
        });
    }
}

/// Greatest clock of a row's life and of its columns, or of some of its columns.
fn greatest(stored: &Stored, columns: Option<&mut dyn Iterator<Item = i16>>) -> i64 {
    let clock = |at: usize| stored.cols.get(at).copied().flatten();
    let cells = match columns {
        Some(ids) => {
            ids.filter_map(|id| clock(usize::try_from(id).ok()?.checked_mul(2)?.checked_sub(2)?)).max()
        }
        None => stored.cols.iter().step_by(2).copied().flatten().max(),
    };
    cells.map_or(stored.hlc, |cells| cells.max(stored.hlc))
}
