//! Apply: merges a payload into tracked tables with the rights of the caller (DESIGN section 8).
//!
//! Everything at first in one savepoint; when the database refuses that for good, by halves, and the rows that
//! it refuses alone are told. Registry, sites and metadata are read as the owner; only the data
//! statements run as the caller.

mod author;
pub(crate) mod chunks;
mod conflicts;
mod constraints;
mod decide;
mod guess;
mod incoming;
mod local;
pub(crate) mod parked;
mod ruled;
mod unique;
mod write;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use pgrx::{pg_sys, warning};
use serde_json::Value as Json;
use shared_format::payload::{Limits, Payload, decode_frame};
use shared_format::{Hlc, SiteId, Stamp};

use crate::catalog;
use crate::edge::memory::Context;
use crate::edge::query::{self, Argument};
use crate::edge::session::{self, RolePart, as_owner};
use crate::edge::subtransaction::{Caught, RolledBack, subtransaction};
use crate::error::SyncError;
use crate::{collect, sites, stage, version};
pub(crate) use author::Author;
pub(crate) use conflicts::{Collected, keep_collected};
use constraints::Constraints;
pub(crate) use incoming::to_json as key_json;
use incoming::{Incoming, IncomingRow};
pub(crate) use local::{key_columns, same_key};

/// How far a stamp may be ahead of our clock: see DESIGN section 3.
const CLOCK_AHEAD_MS_MAX: i64 = 60_000;

/// Tries while rows change under the merge: see DESIGN section 8.
const ATTEMPTS_MAX: u32 = 10;

/// Refusals of one upload: see DESIGN section 15.
const REFUSALS_MAX: usize = 1_000;

/// Lost cells that an answer names: as many as refusals.
const LOST_MAX: usize = 1_000;

/// A row that the database refused.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub(crate) table: String,
    pub(crate) row_key: Vec<u8>,
    pub(crate) key: Json,
    pub(crate) sqlstate: String,
    pub(crate) message: String,
}

/// What an apply did.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    /// Rows that changed, data or metadata.
    pub(crate) changed: i64,
    pub(crate) refusals: Vec<Refusal>,
    /// Columns that no tracked table has: table, column.
    pub(crate) skipped: Vec<(String, String)>,
    /// Cells of the author that did not stay, the first of them.
    pub(crate) lost: Vec<Lost>,
    /// How many of them the author may be told of.
    told: usize,
    /// How many more of those there were.
    pub(crate) lost_more: u64,
}

/// A cell of an upload's author that was older than what is here.
#[derive(Clone, Debug)]
pub(crate) struct Lost {
    pub(crate) table_id: i32,
    pub(crate) table: String,
    pub(crate) key: Json,
    pub(crate) column: String,
    /// Its stamp.
    pub(crate) stamp: Stamp,
    /// What it held, in the text form of its type.
    pub(crate) value: Option<String>,
    /// The stamp that stays.
    pub(crate) won: Stamp,
    /// Whether the row is here.
    pub(crate) is_alive: bool,
    /// Whether the author may be told.
    pub(crate) is_tellable: bool,
}

/// What a try did.
#[derive(Debug, Default)]
struct Settled {
    changed: i64,
    lost: Vec<write::LostOf>,
}

impl Applied {
    fn count(&mut self, incoming: &Incoming, settled: Settled) {
        self.changed = self.changed.saturating_add(settled.changed);
        for one in settled.lost {
            let Some(row) = incoming.rows.get(one.row) else { continue };
            let table = incoming.table(row);
            let Some(column) = table.columns.get(one.cell.place) else { continue };
            let held = if one.is_tellable { self.told } else { self.lost.len().saturating_sub(self.told) };
            if held >= LOST_MAX {
                self.lost_more = self.lost_more.saturating_add(u64::from(one.is_tellable));
                continue;
            }
            self.told = self.told.saturating_add(usize::from(one.is_tellable));
            self.lost.push(Lost {
                table_id: table.table_id,
                table: table.client_name.clone(),
                key: row.key_json(),
                column: column.name.clone(),
                stamp: one.cell.stamp,
                value: one.cell.value,
                won: one.cell.won,
                is_alive: one.cell.is_alive,
                is_tellable: one.is_tellable,
            });
        }
    }
}

/// Why a try ended without an error of the server.
enum Stop {
    /// It would have worked.
    Rehearsed,
    /// Rows are not as the merge saw them.
    Changed,
    /// A policy or a trigger kept a write from its row.
    Hidden(&'static str),
    /// The caller lacks a right on a table.
    Denied(String),
    /// Nothing is in the way of another row that can be moved.
    Unmoved,
    /// Something is wrong with us.
    Broken(SyncError),
}

impl From<SyncError> for Stop {
    fn from(error: SyncError) -> Self {
        Self::Broken(error)
    }
}

/// Why rows were not applied.
#[derive(Clone, Debug)]
struct Refused {
    sqlstate: String,
    message: String,
}

impl Refused {
    fn without_right(message: String) -> Self {
        Self { sqlstate: "42501".into(), message }
    }

    /// What the rows behind the first [`REFUSALS_MAX`] are told.
    fn too_many() -> Self {
        let message = format!("too_many_refused: more than {REFUSALS_MAX} rows of the upload were refused");
        Self { sqlstate: "CS002".into(), message }
    }
}

impl Refusal {
    /// The same row, refused because others were.
    fn one_of_too_many(self) -> Self {
        let Refused { sqlstate, message } = Refused::too_many();
        Self { sqlstate, message, ..self }
    }
}

/// Merges a payload for a person: a file of frames, or bare bytes. Returns how many rows changed.
pub(crate) fn payload(bytes: &[u8]) -> Result<i64, SyncError> {
    if stage::is_standing() {
        return Err(SyncError::Nested);
    }
    let author = if session::is_of_owner() { Author::Trusted } else { Author::Person };
    let mut changed = 0_i64;
    for body in bodies(bytes)? {
        let applied = run(&Payload::parse(&body)?, author)?;
        changed = changed.saturating_add(applied.changed);
        for refusal in &applied.refusals {
            warning!(
                "a row of table {} was refused: {} {}",
                refusal.table,
                refusal.sqlstate,
                refusal.message
            );
        }
        keep(here(), &applied, 0, 0);
    }
    Ok(changed)
}

/// The site that this database is.
fn here() -> SiteId {
    as_owner(|| sites::site(sites::self_ordinal())).unwrap_or(SiteId::ZERO)
}

fn bodies(bytes: &[u8]) -> Result<Vec<Vec<u8>>, SyncError> {
    if !bytes.starts_with(b"CSY1") {
        return Ok(vec![bytes.to_vec()]);
    }
    let mut bodies = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (body, consumed) = decode_frame(rest, &Limits::UPLOAD)?;
        bodies.push(body);
        rest = rest.get(consumed..).unwrap_or_default();
    }
    Ok(bodies)
}

/// Keeps refusals and skipped columns of a site until it has confirmed them, and its values that lost.
pub(crate) fn keep(site: SiteId, applied: &Applied, first: i64, last: i64) {
    as_owner(|| {
        for refusal in &applied.refusals {
            query::run(
                include_str!("../../../sql/postgres/library/keep_refusal.sql"),
                &[
                    Argument::bytea(site.as_bytes()),
                    Argument::text(&refusal.table),
                    Argument::bytea(&refusal.row_key),
                    Argument::text(&refusal.key.to_string()),
                    Argument::text(&refusal.sqlstate),
                    Argument::text(&refusal.message),
                    Argument::bigint(first),
                    Argument::bigint(last),
                ],
            );
        }
        for lost in &applied.lost {
            conflicts::keep(lost);
        }
        for (table, column) in &applied.skipped {
            query::run(
                include_str!("../../../sql/postgres/library/keep_skipped_column.sql"),
                &[Argument::text(table), Argument::text(column), Argument::bytea(site.as_bytes())],
            );
        }
    });
}

/// Merges a payload.
pub(crate) fn run(payload: &Payload<'_>, author: Author) -> Result<Applied, SyncError> {
    if stage::is_standing() {
        return Err(SyncError::Nested);
    }
    version::check()?;
    let mut incoming = incoming::read(payload, as_owner(catalog::tables), author, here())?;
    hold(&incoming)?;
    if author.site().is_none() {
        // Of a site the hub knows what it has received.
        incoming.horizons = as_owner(|| incoming.tables.iter().map(collect::horizon).collect());
    }
    check_clock(&incoming)?;
    let mut applied = Applied {
        refusals: std::mem::take(&mut incoming.refusals),
        skipped: std::mem::take(&mut incoming.skipped),
        ..Applied::default()
    };
    let all: Vec<usize> = (0..incoming.rows.len()).collect();
    apply_rows(&incoming, &all, &mut applied)?;
    Ok(applied)
}

fn apply_rows(incoming: &Incoming, which: &[usize], applied: &mut Applied) -> Result<(), SyncError> {
    if which.is_empty() {
        return Ok(());
    }
    if guess::are_new(incoming, which)?
        && let Some(settled) = settle_new(incoming, which)?
    {
        applied.count(incoming, settled);
        return Ok(());
    }
    match settle(incoming, which)? {
        Ok(settled) => applied.count(incoming, settled),
        // A single row is tried again too: another transaction may have created it since it was read.
        Err(_) => without_the_refused(incoming, which, applied)?,
    }
    Ok(())
}

/// Merges again what this database, or the one that it was copied from, had committed before: as the owners of
/// the tables, since whoever wrote it had the right to. Returns how many rows changed and how many were refused.
pub(crate) fn replay(bytes: &[u8]) -> Result<(i64, i64), SyncError> {
    if stage::is_standing() {
        return Err(SyncError::Nested);
    }
    version::check()?;
    let mut incoming =
        incoming::read(&Payload::parse(bytes)?, as_owner(catalog::tables), Author::Trusted, here())?;
    hold(&incoming)?;
    let mut applied = Applied { refusals: std::mem::take(&mut incoming.refusals), ..Applied::default() };
    let mut rows: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    let mut owners: HashMap<usize, u32> = HashMap::new();
    for (at, row) in (0..).zip(&incoming.rows) {
        let read = || as_owner(|| incoming.table(row).owner()).to_u32();
        rows.entry(*owners.entry(row.table).or_insert_with(read)).or_default().push(at);
    }
    // Users' triggers run in it: no setting of theirs stays.
    let _part = RolePart::begin();
    let unread = applied.refusals.len();
    // Twice, where rows of one owner may wait for those of another.
    for _ in 0..rows.len().min(2) {
        applied.refusals.truncate(unread);
        for (owner, which) in &rows {
            session::as_user(pg_sys::Oid::from(*owner), || apply_rows(&incoming, which, &mut applied))?;
        }
        if applied.refusals.len() == unread {
            break;
        }
    }
    for refusal in &applied.refusals {
        let Refusal { table, sqlstate, message, .. } = refusal;
        warning!("a row of table {table} could not be brought back: {sqlstate} {message}");
    }
    Ok((applied.changed, i64::try_from(applied.refusals.len()).unwrap_or(i64::MAX)))
}

/// Keeps the tables of the payload from being changed while it is applied. One that was changed since the
/// registry was read makes the apply fail as a whole: the next try sees the new definition.
fn hold(incoming: &Incoming) -> Result<(), SyncError> {
    let used: BTreeSet<usize> = incoming.rows.iter().map(|row| row.table).collect();
    for table in used.into_iter().filter_map(|at| incoming.tables.get(at)) {
        table.hold()?;
        if as_owner(|| catalog::table(table.table_id))?.version != table.version {
            return Err(SyncError::Moved(table.name.clone()));
        }
    }
    Ok(())
}

/// Halves what the database refuses until the rows are found that it refuses alone. They are tried again after the
/// rest, as long as that gets any further: a later row may be what they wait for, or takes their value.
fn without_the_refused(incoming: &Incoming, which: &[usize], applied: &mut Applied) -> Result<(), SyncError> {
    let mut waiting = apply_alone(incoming, which, applied)?;
    let mut refused = Vec::new();
    while !waiting.is_empty() {
        refused = again(incoming, &waiting, applied)?;
        if refused.len() == waiting.len() {
            break;
        }
        // The other way round: of rows that wait in a chain, many are freed at once.
        waiting = refused.iter().rev().map(|(at, _)| *at).collect();
    }
    applied.refusals.extend(refused.into_iter().map(|(at, refused)| refusal(incoming, at, refused)));
    Ok(())
}

/// Tries rows once more, those together that take values from one another; gives those that are refused.
fn again(
    incoming: &Incoming,
    waiting: &[usize],
    applied: &mut Applied,
) -> Result<Vec<(usize, Refused)>, SyncError> {
    let mut refused = Vec::new();
    match settle(incoming, waiting)? {
        Ok(settled) => applied.count(incoming, settled),
        Err(_) => {
            for group in unique::groups(incoming, waiting)? {
                halve(incoming, &group, applied, &mut refused)?;
            }
        }
    }
    together(incoming, refused, applied)
}

/// Tries the rows together that are refused for one reason, as those are that refer to each other; gives the others.
fn together(
    incoming: &Incoming,
    refused: Vec<(usize, Refused)>,
    applied: &mut Applied,
) -> Result<Vec<(usize, Refused)>, SyncError> {
    let mut reasons: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (at, refused) in &refused {
        reasons.entry(refused.sqlstate.clone()).or_default().push(*at);
    }
    let mut freed = BTreeSet::new();
    let is_one = reasons.len() == 1;
    for which in reasons.into_values().filter(|which| which.len() > 1 && !is_one) {
        if let Ok(settled) = settle(incoming, &which)? {
            applied.count(incoming, settled);
            freed.extend(which);
        }
    }
    Ok(refused.into_iter().filter(|(at, _)| !freed.contains(at)).collect())
}

/// Applies what the database takes; gives the others.
fn apply_alone(incoming: &Incoming, which: &[usize], applied: &mut Applied) -> Result<Vec<usize>, SyncError> {
    let mut failed = Vec::new();
    halve(incoming, &incoming.by_dependence(which), applied, &mut failed)?;
    Ok(failed.into_iter().map(|(at, _)| at).collect())
}

fn halve(
    incoming: &Incoming,
    which: &[usize],
    applied: &mut Applied,
    failed: &mut Vec<(usize, Refused)>,
) -> Result<(), SyncError> {
    if failed.len() >= REFUSALS_MAX {
        failed.extend(which.iter().map(|at| (*at, Refused::too_many())));
        return Ok(());
    }
    match (settle(incoming, which)?, which) {
        (Ok(settled), _) => applied.count(incoming, settled),
        (Err(refused), [at]) => failed.push((*at, refused)),
        (Err(_), _) => {
            let (first, second) = which.split_at(which.len() / 2);
            halve(incoming, first, applied, failed)?;
            halve(incoming, second, applied, failed)?;
        }
    }
    Ok(())
}

fn refusal(incoming: &Incoming, at: usize, refused: Refused) -> Refusal {
    let (table, row_key, key) = incoming.rows.get(at).map_or_else(Default::default, |row| {
        (incoming.table(row).client_name.clone(), row.row_key.clone(), row.key_json())
    });
    Refusal { table, row_key, key, sqlstate: refused.sqlstate, message: refused.message }
}

/// Applies some rows in one savepoint, reading and merging again while they change under it. The outer error
/// is ours; the inner one is why the database refuses them.
fn settle(incoming: &Incoming, which: &[usize]) -> Result<Result<Settled, Refused>, SyncError> {
    let mut is_rehearsal = incoming.constraints == Constraints::Rehearsed;
    let mut taken: Option<Refused> = None;
    let mut attempts = 0;
    while attempts < ATTEMPTS_MAX {
        attempts += 1;
        let checks = is_rehearsal || incoming.constraints == Constraints::Checked;
        let attempt = || match write::attempt(incoming, which, checks, taken.is_some()) {
            Ok(_) if is_rehearsal => Err(Stop::Rehearsed),
            tried => tried,
        };
        // What a try reads goes with it: by halves a payload may be tried many times.
        let memory = Context::new(c"cloudsync try");
        stage::take_overtaken();
        let tried = memory.run(|| subtransaction(attempt));
        drop(memory);
        match tried {
            Ok(settled) => return Ok(Ok(settled)),
            Err(RolledBack::GaveUp(Stop::Changed)) => {
                is_rehearsal = incoming.constraints == Constraints::Rehearsed;
            }
            Err(RolledBack::GaveUp(Stop::Rehearsed)) => {
                is_rehearsal = false;
                attempts -= 1;
            }
            Err(RolledBack::GaveUp(Stop::Broken(error))) => return Err(error),
            Err(RolledBack::GaveUp(Stop::Unmoved)) => {
                return Ok(Err(taken.expect("only a refused try is made again")));
            }
            Err(RolledBack::GaveUp(Stop::Hidden(message))) => {
                return Ok(Err(taken.unwrap_or_else(|| Refused::without_right(message.into()))));
            }
            Err(RolledBack::GaveUp(Stop::Denied(message))) => {
                return Ok(Err(taken.unwrap_or_else(|| Refused::without_right(message))));
            }
            Err(RolledBack::Raised(caught)) if caught.sqlstate == "CS001" || stage::take_overtaken() => {
                is_rehearsal = incoming.constraints == Constraints::Rehearsed;
            }
            Err(RolledBack::Raised(caught)) => {
                let refused = permanent(caught);
                if taken.is_some() || which.len() < 2 || !unique::is_taken(&refused.sqlstate) {
                    return Ok(Err(taken.unwrap_or(refused)));
                }
                // Rows may take values from one another: once more, what is in the way moved aside.
                taken = Some(refused);
                is_rehearsal = incoming.constraints == Constraints::Rehearsed;
            }
        }
    }
    Err(SyncError::Contention { attempts: ATTEMPTS_MAX })
}

/// Applies rows of which none is known here; None, and nothing done, when that was wrong or they are refused.
fn settle_new(incoming: &Incoming, which: &[usize]) -> Result<Option<Settled>, SyncError> {
    if incoming.constraints == Constraints::Rehearsed {
        return Ok(None);
    }
    let memory = Context::new(c"cloudsync try");
    stage::take_overtaken();
    let checks = incoming.constraints == Constraints::Checked;
    let tried = memory.run(|| subtransaction(|| write::attempt_new(incoming, which, checks)));
    drop(memory);
    let is_overtaken = stage::take_overtaken();
    match tried {
        Ok(settled) => Ok(Some(settled)),
        Err(RolledBack::GaveUp(Stop::Broken(error))) => Err(error),
        Err(RolledBack::GaveUp(_)) => Ok(None),
        Err(RolledBack::Raised(caught)) => {
            if !is_overtaken {
                permanent(caught);
            }
            Ok(None)
        }
    }
}

/// A refusal, unless the error may pass: then it is raised again, and the whole apply fails.
fn permanent(caught: Caught) -> Refused {
    if caught.is_transient() {
        caught.rethrow();
    }
    Refused { sqlstate: caught.sqlstate, message: caught.message }
}

/// Refuses stamps far ahead of our clock, except where we hold one as great already.
fn check_clock(incoming: &Incoming) -> Result<(), SyncError> {
    let server_ms = session::wall_ms();
    let limit = Hlc::from_parts(server_ms.saturating_add(CLOCK_AHEAD_MS_MAX), u16::MAX);
    let ahead: Vec<usize> =
        (0..).zip(&incoming.rows).filter(|(_, row)| row.greatest() > limit).map(|(at, _)| at).collect();
    if ahead.is_empty() {
        return Ok(());
    }
    let locals = local::read(incoming, &ahead)?;
    for at in ahead {
        let Some(row) = incoming.rows.get(at) else { continue };
        let held = locals.get(&at).map(|local| &local.state);
        if let Some(stamp) = too_far(row, held, limit) {
            return Err(SyncError::ClockAhead { stamp_ms: stamp.unix_ms(), server_ms });
        }
    }
    Ok(())
}

/// A stamp beyond the limit that is more than 1 ms beyond the one held for the same cell or life.
fn too_far(row: &IncomingRow, held: Option<&shared_format::RowState>, limit: Hlc) -> Option<Hlc> {
    const ONE_MS: u64 = 1 << 16;
    let beyond = |stamp: Hlc, held: Hlc| stamp > limit && stamp.raw() > held.raw().saturating_add(ONE_MS);
    row.changes.iter().find_map(|change| {
        let life = held.map_or(Hlc::ZERO, |state| state.life_stamp().hlc);
        let own = change.life_stamp().filter(|stamp| beyond(*stamp, life));
        own.or_else(|| {
            change.cells.iter().map(|cell| (cell.stamp.hlc, cell.column)).find_map(|(stamp, column)| {
                let held = held.map_or(Hlc::ZERO, |state| state.stamp_of(column).hlc);
                beyond(stamp, held).then_some(stamp)
            })
        })
    })
}
