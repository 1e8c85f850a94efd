//! Merges remote changes into the file: everything of one call in one atomic unit.
//!
//! Rows are merged one by one by `shared-format` and written whole, by statements that are prepared once; a
//! payload is read in place, so that what is held does not grow with the number of its rows. The user's
//! triggers and cascades run as for any write, and what they do to other rows stays a local write. Creations
//! and updates come first, deletions last. A row that this file's own constraints refuse is parked and tried
//! again at each sync; it never holds up others.

mod buried;
mod collected;
pub(crate) mod evicted;
pub(crate) mod foreign_keys;
mod incoming;
mod intake;
mod lost;
pub(crate) mod rebase;
pub(crate) mod reload;
mod row;
mod ruled;
mod settle;
mod skim;
mod statements;
mod triggers;
mod waiting;

use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

use shared_format::payload::{Collection, Limits, Payload, decode_frame};
use shared_format::{Hlc, RowKind, SiteId, Value};

pub(crate) use self::collected::{HORIZON, RESUME, drop_tombstones};
use self::incoming::{BatchRows, Change, Mappings};
use self::intake::Gathering;
pub(crate) use self::intake::{Intake, LostCell};
use self::lost::Unsent;
use self::statements::RowStatements;
pub(crate) use self::triggers::TriggersOff;
use self::triggers::{Softened, has_foreign_effects, rollback_tables};
use self::waiting::{Aside, Refusal, Waiting};
use crate::catalog::Replica;
use crate::conflicts;
use crate::connection::{Applying, foreign_keys_open};
use crate::error::{Doing, Error, Reading, Result};
use crate::fold::fold;
use crate::log::{self, DbVersion};
use crate::settings::Sites;
use crate::tracked_table::TrackedTable;

/// What one frame may be: a message of one row with the largest cell, even where nothing compresses.
const FRAME: Limits = Limits { compressed_max: 64 * 1024 * 1024, ..Limits::UPLOAD };

/// Where changes come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A payload that a caller handed over; nobody checked its clocks.
    File,
    /// The server's log.
    Log,
    /// The server's snapshot.
    Snapshot,
    /// A site that uploads to this file as its centre.
    Upload(SiteId),
}

impl Source {
    /// Whether the changes were not looked at by a server.
    const fn is_unchecked(self) -> bool {
        matches!(self, Self::File | Self::Upload(_))
    }
}

/// What an apply did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Applied {
    /// Changes that had an effect.
    pub(crate) rows: usize,
    /// Tables that they touched.
    pub(crate) tables: BTreeSet<String>,
    /// What a centre noted of an upload.
    pub(crate) intake: Option<Intake>,
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

/// Attempts without looking at foreign keys row by row: each names further rows to leave out.
const ATTEMPTS_MAX: usize = 16;

/// How an attempt goes about foreign keys.
#[derive(Debug, Default)]
struct Caution {
    /// Rows that are refused because they left references to nothing.
    refused: foreign_keys::Rows,
    /// Whether every row is checked on its own.
    is_careful: bool,
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
    /// Rows that are refused because they left references to nothing.
    refused: &'r foreign_keys::Rows,
    /// What rows hold in truth that were moved aside.
    aside: Aside,
    /// Newest number before this apply; all up to it is folded.
    folded: DbVersion,
    /// What this site wrote and the server has not acknowledged, read when first needed.
    unsent: Option<Unsent>,
    /// Whether cells that lost at the server wait for what won, asked when first needed.
    has_lost_at_server: Option<bool>,
    mark: Option<DbVersion>,
    staged: HashMap<(u32, Vec<u8>), Staged>,
    /// One entry for each table of the replica.
    statements: Vec<RowStatements<'c>>,
    /// Whether the row before was new here; then the next one probably is.
    expects_unseen: bool,
    /// How many rows in a row, up to the last one, held what came already.
    held_so_far: usize,
    waiting: Vec<Waiting>,
    /// Whether rows wait to be forgotten.
    has_evictions: bool,
    applied: Applied,
    /// What a centre notes of an upload.
    gathering: Option<Gathering>,
    /// Cells of the change that is being merged which lose.
    lost: Vec<LostCell>,
}

/// How far one pass came.
struct Passed<'f> {
    /// Frames behind the last one.
    rest: &'f [u8],
    /// Frames that have rows of other kinds.
    others: Vec<&'f [u8]>,
    /// What the last frame says of tombstones; it was the last because of that.
    collections: Vec<Collection>,
}

/// Up to where the author of a payload file had dropped the tombstones of a table.
fn author_horizon(payload: &Payload<'_>, table: u32, incarnation: u64) -> Hlc {
    let is_it = |notice: &Collection| (notice.table, notice.incarnation) == (table, incarnation);
    let horizons = payload.collections().into_iter().filter(is_it).map(|notice| notice.horizon);
    horizons.max().unwrap_or(Hlc::ZERO)
}

/// Applies concatenated frames inside the caller's unit, which leaves no trace when this fails.
pub(crate) fn apply(
    replica: &mut Replica<'_>,
    applying: &Applying,
    frames: &[u8],
    source: Source,
) -> Result<Applied> {
    let connection = replica.connection;
    if source.is_unchecked() && frames.is_empty() {
        // A server may have nothing to send, but a payload without bytes has lost them.
        decode_frame(frames, &FRAME).reading("frame")?;
    }
    fold(replica)?;
    if !foreign_keys::can_open(connection)? {
        // A savepoint would copy every page that is written; the caller's unit undoes a failure.
        let (applied, _mark) = attempt(replica, applying, frames, source, &Caution::default())?;
        return Ok(applied);
    }
    // A caller's own transaction may have open keys already; then they are the caller's until COMMIT.
    let was_open = foreign_keys_open(connection)?;
    let defers: bool = connection.query_row("pragma defer_foreign_keys", [], |row| row.get(0))?;
    connection.execute_batch("pragma defer_foreign_keys = on; savepoint cloudsync_apply")?;
    let mut caution = Caution::default();
    let mut outcome = attempt(replica, applying, frames, source, &caution);
    for attempts in 1.. {
        let Ok((_, mark)) = &outcome else { break };
        if was_open || !foreign_keys_open(connection)? {
            break;
        }
        if caution.is_careful {
            outcome = Err(Error::ForeignKeysOpen);
            break;
        }
        let known = caution.refused.len();
        if let Some(mark) = mark.filter(|_| attempts < ATTEMPTS_MAX) {
            caution.refused.extend(foreign_keys::offenders(replica, mark)?);
        }
        caution.is_careful = caution.refused.len() == known;
        connection.execute_batch("rollback to cloudsync_apply").doing("undo an apply")?;
        replica.sites = Sites::load(connection)?.ok_or(Error::NothingTracked)?;
        outcome = attempt(replica, applying, frames, source, &caution);
    }
    let end = if outcome.is_ok() { "" } else { "rollback to cloudsync_apply;" };
    let defers = if defers { "on" } else { "off" };
    let sql = format!("{end} release cloudsync_apply; pragma defer_foreign_keys = {defers}");
    let ended = connection.execute_batch(&sql).doing("end an apply");
    let (applied, _mark) = outcome?;
    ended?;
    Ok(applied)
}

fn attempt(
    replica: &mut Replica<'_>,
    applying: &Applying,
    frames: &[u8],
    source: Source,
    caution: &Caution,
) -> Result<(Applied, Option<DbVersion>)> {
    let connection = replica.connection;
    let is_watched = has_foreign_effects(connection)?;
    let _writing = applying.begin();
    let softened = is_watched.then(|| Softened::soften(connection)).transpose()?;
    let aborting = rollback_tables(connection)?;
    let statements = replica
        .tables
        .iter()
        .map(|table| RowStatements::new(connection, Rc::clone(table), aborting.contains(&table.name)))
        .collect();
    let folded = log::folded(connection)?;
    let mut session = Session {
        folded,
        unsent: None,
        has_lost_at_server: None,
        corrected_ms: replica.corrected_ms()?,
        replica,
        source,
        is_watched,
        is_careful: caution.is_careful,
        refused: &caution.refused,
        aside: Aside::new(),
        mark: None,
        staged: HashMap::new(),
        statements,
        expects_unseen: true,
        held_so_far: 0,
        waiting: Vec::new(),
        has_evictions: evicted::are_waiting(connection)?,
        applied: Applied::default(),
        gathering: matches!(source, Source::Upload(_)).then(Gathering::default),
        lost: Vec::new(),
    };
    let triggers = TriggersOff::when(connection, !is_watched)?;
    let mut mappings = Mappings::default();
    let mut rest = frames;
    while !rest.is_empty() {
        let passed = session.pass(rest, &mut mappings, |kind| kind != RowKind::Deleted)?;
        for frame in passed.others {
            session.pass(frame, &mut mappings, |kind| kind == RowKind::Deleted)?;
        }
        session.collect(&passed.collections, &mappings)?;
        rest = passed.rest;
    }
    session.retry(&mut mappings)?;
    drop(triggers);
    if is_watched {
        session.settle()?;
    }
    session.forget_evicted()?;
    softened.map_or(Ok(()), Softened::restore)?;
    conflicts::expire(connection, session.corrected_ms)?;
    session.applied.intake = session.gathering.take().map(Gathering::finish);
    Ok((session.applied, session.mark))
}

impl Session<'_, '_> {
    /// Applies the rows whose kind is wanted, up to where tombstones go.
    fn pass<'f>(
        &mut self,
        frames: &'f [u8],
        mappings: &mut Mappings,
        wants: impl Fn(RowKind) -> bool,
    ) -> Result<Passed<'f>> {
        let mut passed = Passed { rest: frames, others: Vec::new(), collections: Vec::new() };
        while !passed.rest.is_empty() && passed.collections.is_empty() {
            let mut has_others = false;
            let (body, used) = decode_frame(passed.rest, &FRAME).reading("frame")?;
            let (frame, after) = passed.rest.split_at(used);
            passed.rest = after;
            let payload = Payload::parse(&body).reading("payload")?;
            mappings.learn(self.replica, &payload, self.source)?;
            if self.source == Source::Log && wants(RowKind::Cells) {
                reload::note(self.replica.connection, &payload, mappings)?;
            }
            for changes in payload.changes() {
                let Some(mut batch) = mappings.batch(changes)? else {
                    if let (Some(gathering), Some(unmapped)) =
                        (&mut self.gathering, mappings.unmapped(&changes))
                    {
                        gathering.refused_table(&changes, unmapped)?;
                    }
                    continue;
                };
                if self.source == Source::File {
                    batch.author_horizon = author_horizon(&payload, changes.table(), changes.incarnation());
                }
                let mut rows = BatchRows::new(&batch, &wants);
                let mut change = batch.blank();
                while rows.next_into(&mut change)? {
                    if !self.has_evictions && self.skims(&change) && !self.skim(&mut rows, &mut change)? {
                        break;
                    }
                    self.take(&change)?;
                }
                has_others |= rows.has_others;
            }
            if self.source == Source::Log && wants(RowKind::Cells) {
                self.evict(&payload, mappings)?;
            }
            if has_others {
                passed.others.push(frame);
            }
            if !self.source.is_unchecked() {
                passed.collections = payload.collections();
            }
        }
        Ok(passed)
    }

    /// Applies one change, or lets it wait when a constraint refuses it.
    fn take(&mut self, change: &Change<'_>) -> Result<()> {
        self.keep_evicted(change)?;
        match self.try_change(change)? {
            Some(refusal) => self.wait(change, refusal),
            None => Ok(()),
        }
    }

    /// Applies one change; says why when this file refuses it.
    fn try_change(&mut self, change: &Change<'_>) -> Result<Option<Refusal>> {
        if !change.key_survives {
            return Ok(Some(Refusal::because("the row key would not come back as it was sent")));
        }
        if !self.refused.is_empty() && self.refused.contains(&(change.table.id, change.pk())) {
            return Ok(Some(Refusal::of(&Error::ForeignKeysOpen)));
        }
        let connection = self.replica.connection;
        if self.is_careful {
            connection.execute_batch("savepoint cloudsync_row").doing("apply a row")?;
        }
        let restamped = self.restamped(change)?;
        let change = restamped.as_ref().unwrap_or(change);
        self.lost.clear();
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
                if let Some(gathering) = &mut self.gathering {
                    gathering.merged(change, is_changed, std::mem::take(&mut self.lost));
                }
                if is_changed {
                    self.applied.rows += 1;
                    self.applied.tables.insert(change.table.name.clone());
                }
                Ok(None)
            }
            // Where the transaction ended all the same, there is nothing to go on in.
            Err(error) if error.is_refusal() && !connection.is_autocommit() => Ok(Some(Refusal::of(&error))),
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

    /// The number of this apply; an entry is made when the first row changes.
    fn mark(&mut self) -> Result<DbVersion> {
        if let Some(mark) = self.mark {
            return Ok(mark);
        }
        let mark = log::append_mark(self.replica.connection)?;
        self.mark = Some(mark);
        Ok(mark)
    }
}
