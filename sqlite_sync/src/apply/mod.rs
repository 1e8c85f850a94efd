//! Merges remote changes into the file: everything of one call in one atomic unit.
//!
//! Rows are merged one by one by `shared-format` and written whole, by statements that are prepared once; a
//! payload is read in place, so that what is held does not grow with the number of its rows. The user's triggers and cascades run as for any write, and
//! what they do to other rows stays a local write. Creations and updates come first, deletions last. A row
//! that this file's own constraints refuse is parked and tried again at each sync; it never holds up others.

mod incoming;
mod lost;
mod row;
mod settle;
mod statements;

use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

use rusqlite::Connection;
use rusqlite::config::DbConfig;
use shared_format::payload::{Limits, Payload, decode_frame};
use shared_format::{RowKind, Value};

use self::incoming::{Change, Mappings};
use self::lost::Unsent;
use self::statements::RowStatements;
use crate::capture::TRIGGER_PREFIX;
use crate::catalog::Replica;
use crate::changes::single_row;
use crate::conflicts;
use crate::connection::{Applying, foreign_keys_open};
use crate::error::{Doing, Error, Reading, Result};
use crate::fold::fold;
use crate::log::{self, DbVersion};
use crate::parked;
use crate::settings::{self, Setting, Sites};
use crate::sql::refs;
use crate::tracked_table::TrackedTable;

/// What one frame may be: a message of one row with the largest cell, even where nothing compresses.
const FRAME: Limits = Limits { compressed_max: 64 * 1024 * 1024, ..Limits::UPLOAD };

/// Where changes come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A payload that a caller handed over; nobody checked its clocks.
    File,
    /// The server's log; what this site wrote itself is an echo.
    Log,
    /// The server's snapshot; what this site wrote itself may be all that is left of it.
    Snapshot,
}

/// What an apply did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Applied {
    /// Changes that had an effect.
    pub(crate) rows: usize,
    /// Tables that they touched.
    pub(crate) tables: BTreeSet<String>,
}

/// A written row, and what was asked for.
#[derive(Clone, Debug)]
struct Staged {
    table: Rc<TrackedTable>,
    key: Vec<Value>,
    is_alive: bool,
    has_life: bool,
    cells: Vec<(usize, Value)>,
}

/// A change that a constraint refused, waiting for its next try.
struct Waiting {
    change: Change<'static>,
    reason: String,
    /// Its number, if it was parked by an earlier apply.
    parked: Option<i64>,
}

/// One attempt to apply everything.
struct Session<'r, 'c> {
    replica: &'r mut Replica<'c>,
    source: Source,
    corrected_ms: i64,
    /// Whether users' triggers or cascades may do more than was asked.
    is_watched: bool,
    /// Whether every row is checked for foreign keys on its own.
    is_careful: bool,
    /// Newest number before this apply; all up to it is folded.
    folded: DbVersion,
    /// What this site wrote and the server has not acknowledged, read when first needed.
    unsent: Option<Unsent>,
    mark: Option<DbVersion>,
    staged: HashMap<(u32, Vec<u8>), Staged>,
    /// One entry for each table of the replica.
    statements: Vec<RowStatements<'c>>,
    /// Whether the row before was new here; then the next one probably is.
    expects_unseen: bool,
    waiting: Vec<Waiting>,
    applied: Applied,
}

/// Applies concatenated frames inside the caller's unit, which leaves no trace when this fails.
pub(crate) fn apply(
    replica: &mut Replica<'_>,
    applying: &Applying,
    frames: &[u8],
    source: Source,
) -> Result<Applied> {
    let connection = replica.connection;
    if source == Source::File && frames.is_empty() {
        // A server may have nothing to send, but a payload without bytes has lost them.
        decode_frame(frames, &FRAME).reading("frame")?;
    }
    fold(replica)?;
    // A caller's own transaction may have open keys already; then they are the caller's until COMMIT.
    let was_open = foreign_keys_open(connection)?;
    let defers: bool = connection.query_row("pragma defer_foreign_keys", [], |row| row.get(0))?;
    connection.execute_batch("pragma defer_foreign_keys = on; savepoint cloudsync_apply")?;
    let mut outcome = attempt(replica, applying, frames, source, false);
    if outcome.is_ok() && !was_open && foreign_keys_open(connection)? {
        connection.execute_batch("rollback to cloudsync_apply").doing("undo an apply")?;
        replica.sites = Sites::load(connection)?.ok_or(Error::NothingTracked)?;
        outcome = attempt(replica, applying, frames, source, true);
        if outcome.is_ok() && foreign_keys_open(connection)? {
            outcome = Err(Error::ForeignKeysOpen);
        }
    }
    let end = if outcome.is_ok() { "" } else { "rollback to cloudsync_apply;" };
    let defers = if defers { "on" } else { "off" };
    let sql = format!("{end} release cloudsync_apply; pragma defer_foreign_keys = {defers}");
    let ended = connection.execute_batch(&sql).doing("end an apply");
    let applied = outcome?;
    ended?;
    Ok(applied)
}

fn attempt(
    replica: &mut Replica<'_>,
    applying: &Applying,
    frames: &[u8],
    source: Source,
    is_careful: bool,
) -> Result<Applied> {
    let connection = replica.connection;
    let is_watched = has_foreign_effects(connection)?;
    let _writing = applying.begin();
    let statements =
        replica.tables.iter().map(|table| RowStatements::new(connection, Rc::clone(table))).collect();
    let folded = log::folded(connection)?;
    let mut session = Session {
        folded,
        unsent: None,
        corrected_ms: replica.corrected_ms()?,
        replica,
        source,
        is_watched,
        is_careful,
        mark: None,
        staged: HashMap::new(),
        statements,
        expects_unseen: true,
        waiting: Vec::new(),
        applied: Applied::default(),
    };
    let triggers = TriggersOff::when(connection, !is_watched)?;
    let mut mappings = Mappings::default();
    if session.pass(frames, &mut mappings, |kind| kind != RowKind::Deleted)? {
        session.pass(frames, &mut mappings, |kind| kind == RowKind::Deleted)?;
    }
    session.retry(&mut mappings)?;
    drop(triggers);
    if is_watched {
        session.settle()?;
    }
    conflicts::expire(connection, session.corrected_ms)?;
    Ok(session.applied)
}

impl Session<'_, '_> {
    /// Applies the rows whose kind is wanted; says whether there were others.
    fn pass(
        &mut self,
        frames: &[u8],
        mappings: &mut Mappings,
        wants: impl Fn(RowKind) -> bool,
    ) -> Result<bool> {
        let own = self.replica.own();
        let mut rest = frames;
        let mut has_others = false;
        while !rest.is_empty() {
            let (body, used) = decode_frame(rest, &FRAME).reading("frame")?;
            rest = rest.get(used..).unwrap_or_default();
            let payload = Payload::parse(&body).reading("payload")?;
            mappings.learn(self.replica, &payload)?;
            for changes in payload.changes() {
                let Some(batch) = mappings.batch(changes)? else { continue };
                let mut rows = batch.changes.rows();
                let mut change = batch.blank();
                while let Some(row) = rows.next_row().reading("row")? {
                    if !wants(row.kind) {
                        has_others = true;
                    } else if batch.fill(&mut change, row, self.source, own) {
                        self.take(&change)?;
                    }
                }
            }
        }
        Ok(has_others)
    }

    /// Applies one change, or lets it wait when a constraint refuses it.
    fn take(&mut self, change: &Change<'_>) -> Result<()> {
        if let Some(reason) = self.try_change(change)? {
            let change = change.clone().into_owned();
            self.waiting.push(Waiting { change, reason, parked: None });
        }
        Ok(())
    }

    /// Applies one change; returns the reason when this file refuses it.
    fn try_change(&mut self, change: &Change<'_>) -> Result<Option<String>> {
        if !change.key_survives {
            return Ok(Some(String::from("the row key would not come back as it was sent")));
        }
        let connection = self.replica.connection;
        if self.is_careful {
            connection.execute_batch("savepoint cloudsync_row").doing("apply a row")?;
        }
        let mut outcome = self.merge_change(change);
        if self.is_careful {
            if outcome.is_ok() && foreign_keys_open(connection)? {
                outcome = Err(Error::ForeignKeysOpen);
            }
            if outcome.is_err() {
                connection.execute_batch("rollback to cloudsync_row").doing("undo a row")?;
                self.forget_rolled_back(change)?;
            }
            connection.execute_batch("release cloudsync_row").doing("apply a row")?;
        }
        match outcome {
            Ok(is_changed) => {
                if is_changed {
                    self.applied.rows += 1;
                    self.applied.tables.insert(change.table.name.clone());
                }
                Ok(None)
            }
            // A raised ROLLBACK ends the whole transaction; then there is nothing to go on in.
            Err(error) if error.is_constraint() && !connection.is_autocommit() => Ok(Some(error.line())),
            Err(error) => Err(error),
        }
    }

    /// Brings memory back in line after a row was undone.
    fn forget_rolled_back(&mut self, change: &Change<'_>) -> Result<()> {
        let connection = self.replica.connection;
        self.replica.sites = Sites::load(connection)?.ok_or(Error::NothingTracked)?;
        self.staged.remove(&(change.table.id, change.pk()));
        self.mark = self.mark.filter(|mark| log::newest(connection).is_ok_and(|newest| newest >= *mark));
        Ok(())
    }

    /// Tries refused changes again, those of earlier syncs too, as long as one goes in; parks the rest.
    fn retry(&mut self, mappings: &mut Mappings) -> Result<()> {
        let connection = self.replica.connection;
        let mut waiting = Vec::new();
        for refused in parked::refused(connection)? {
            let payload = Payload::parse(&refused.change).reading("parked change")?;
            mappings.learn(self.replica, &payload)?;
            for changes in payload.changes() {
                let Some(batch) = mappings.batch(changes)? else { continue };
                let mut rows = batch.changes.rows();
                while let Some(row) = rows.next_row().reading("parked change")? {
                    let mut change = batch.blank();
                    if batch.fill(&mut change, row, Source::Snapshot, self.replica.own()) {
                        let (change, parked) = (change.into_owned(), Some(refused.id));
                        waiting.push(Waiting { change, reason: String::new(), parked });
                    }
                }
            }
        }
        waiting.append(&mut self.waiting);
        let mut before = usize::MAX;
        while !waiting.is_empty() && waiting.len() < before {
            before = waiting.len();
            for mut one in std::mem::take(&mut waiting) {
                match self.try_change(&one.change)? {
                    None => one.parked.map_or(Ok(()), |id| parked::forget(connection, id))?,
                    Some(reason) => {
                        one.reason = reason;
                        waiting.push(one);
                    }
                }
            }
        }
        for one in waiting.iter().filter(|one| one.parked.is_none()) {
            let change = &one.change;
            let cells: Vec<_> = change.cells().map(|(at, cell, value)| (at, cell.stamp, value)).collect();
            let key = change.key_values();
            let bytes = single_row(&change.table, change.kind, change.stamp, &key, &cells);
            parked::refuse(connection, &change.table, &refs(&key), &bytes, &one.reason)?;
        }
        Ok(())
    }

    /// The number of this apply; an entry is made when the first row changes.
    fn mark(&mut self) -> Result<DbVersion> {
        if let Some(mark) = self.mark {
            return Ok(mark);
        }
        let connection = self.replica.connection;
        let mark = log::append_mark(connection)?;
        // Everything below was folded before, and a mark has nothing to fold.
        settings::store(connection, Setting::Folded, &Value::Integer(mark.get()))?;
        self.mark = Some(mark);
        Ok(mark)
    }
}

/// Whether a write to a tracked table can do more than was asked: users' triggers, foreign keys that act, and
/// constraints that are declared to replace rows.
fn has_foreign_effects(connection: &Connection) -> Result<bool> {
    let sql = "select exists (
        select 1 from main.sqlite_schema where type = 'trigger' and name not glob ?1
        union all
        select 1 from temp.sqlite_schema where type = 'trigger'
        union all
        select 1 from main.sqlite_schema where type = 'table' and sql like '%on conflict%')";
    if connection.prepare_cached(sql)?.query_row([format!("{TRIGGER_PREFIX}*")], |row| row.get(0))? {
        return Ok(true);
    }
    if !connection.db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY)? {
        return Ok(false);
    }
    let sql = "select exists (
        select 1 from main.sqlite_schema as s, pragma_foreign_key_list(s.name, 'main') as f
        where s.type = 'table'
          and (f.on_update not in ('NO ACTION', 'RESTRICT') or f.on_delete not in ('NO ACTION', 'RESTRICT')))";
    connection.prepare_cached(sql)?.query_row([], |row| row.get(0)).doing("look for cascades")
}

/// Keeps triggers from running until it is dropped.
struct TriggersOff<'c> {
    connection: &'c Connection,
    were_on: bool,
}

impl<'c> TriggersOff<'c> {
    fn when(connection: &'c Connection, wanted: bool) -> Result<Self> {
        let flag = DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER;
        let were_on = wanted && connection.db_config(flag)?;
        if were_on {
            connection.set_db_config(flag, false).doing("switch triggers off")?;
        }
        Ok(Self { connection, were_on })
    }
}

impl Drop for TriggersOff<'_> {
    fn drop(&mut self) {
        if self.were_on {
            let flag = DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER;
            let switched = self.connection.set_db_config(flag, true);
            debug_assert!(switched.is_ok(), "a flag that was switched off can be switched on");
        }
    }
}
