//! One try: lock, read, merge, stage, write. The data statements run as the caller and touch only the columns
//! that change; the capture triggers write the metadata of the rows that they see.

use std::collections::{BTreeMap, HashMap};

use pgrx::pg_sys::{self, Datum};
use shared_format::payload::{ChangesBuilder, PayloadBuilder, SCOPE_EVERYBODY};
use shared_format::{RowKind, RowRegisters, SiteId, ValueRef};

use super::decide::{Decision, LostCell, Write, decide};
use super::incoming::{Incoming, IncomingRow};
use super::local::{self, Local};
use super::{Settled, Stop, constraints, parked, unique};
use crate::audience;
use crate::catalog::Tracked;
use crate::edge::codec;
use crate::edge::query::{self, Input, InputColumn};
use crate::edge::session::{self, as_owner};
use crate::edge::tuple;
use crate::emit;
use crate::error::SyncError;
use crate::metadata::Metadata;
use crate::sites;
use crate::stage::{self, Asked, Expected, Stage, Staged, Standing};

/// A row with what was found and decided.
pub(super) struct Decided<'a> {
    pub(super) table: &'a Tracked,
    pub(super) row: &'a IncomingRow,
    pub(super) local: Local,
    pub(super) decision: Decision,
}

/// A lost cell with the number of its row.
#[derive(Debug)]
pub(super) struct LostOf {
    pub(super) row: usize,
    pub(super) cell: LostCell,
    /// Whether the caller may be told.
    pub(super) is_tellable: bool,
}

/// Applies some rows; an error means that nothing of it may stay. `checks` is whether deferred constraints are,
/// `moves` whether rows are moved aside first whose UNIQUE values others take.
pub(super) fn attempt(
    incoming: &Incoming,
    which: &[usize],
    checks: bool,
    moves: bool,
) -> Result<Settled, Stop> {
    attempt_with(incoming, which, local::locked(incoming, which)?, (checks, moves))
}

/// Applies some rows as if none of them was known here; what is known makes it fail.
pub(super) fn attempt_new(incoming: &Incoming, which: &[usize], checks: bool) -> Result<Settled, Stop> {
    attempt_with(incoming, which, HashMap::new(), (checks, false))
}

fn attempt_with(
    incoming: &Incoming,
    which: &[usize],
    locals: HashMap<usize, Local>,
    (checks, moves): (bool, bool),
) -> Result<Settled, Stop> {
    let (decided, lost) = decide_all(incoming, which, locals)?;
    if !decided.is_empty() {
        carry_out(incoming, &decided, (checks, moves))?;
    }
    let changed = i64::try_from(decided.len()).unwrap_or(i64::MAX);
    Ok(Settled { changed, lost: local::mark_tellable(incoming, lost) })
}

fn carry_out(
    incoming: &Incoming,
    decided: &[Decided<'_>],
    (checks, moves): (bool, bool),
) -> Result<(), Stop> {
    check_rights(decided)?;
    let ordinals = ordinals(decided);
    let mut stage = Stage::new(ordinals.clone(), incoming.here);
    let mut order: Vec<&Decided<'_>> = decided.iter().collect();
    order.sort_by_key(|one| (one.table.table_id, &one.row.row_key));
    for one in order {
        stage.add(one.table, one.row.row_key.clone(), staged(one), decided.len());
    }
    let standing = Standing::begin(stage);
    if moves && !stage::aside(|| unique::move_aside(decided)) {
        return Err(Stop::Unmoved);
    }
    write_data(incoming, decided);
    as_owner(|| write_metadata(decided, &ordinals))?;
    if checks {
        query::run(constraints::CHECK, &[]);
    }
    check_seen(decided)?;
    drop(standing);
    as_owner(|| tell_parked(decided));
    Ok(())
}

fn decide_all<'a>(
    incoming: &'a Incoming,
    which: &[usize],
    mut locals: HashMap<usize, Local>,
) -> Result<(Vec<Decided<'a>>, Vec<LostOf>), SyncError> {
    let mut decided = Vec::with_capacity(which.len());
    let mut lost = Vec::new();
    for at in which {
        let Some(row) = incoming.rows.get(*at) else { continue };
        let table = incoming.table(row);
        let local = locals.remove(at).unwrap_or_default();
        incoming.check_horizon(row, local.metadata.is_some() || local.values.is_some())?;
        let parked = parked::read(table, row, &local.state)?;
        let mut decision = decide(table, row, &local, parked, (incoming.author, incoming.here))?;
        lost.extend(decision.lost.drain(..).map(|cell| LostOf { row: *at, cell, is_tellable: false }));
        if decision.changed {
            decided.push(Decided { table, row, local, decision });
        }
    }
    Ok((decided, lost))
}

/// What no data statement checks: a deletion of a row that is not there needs DELETE, a parked cell UPDATE.
fn check_rights(decided: &[Decided<'_>]) -> Result<(), Stop> {
    let user = session::current_user();
    for one in decided.iter().filter(|one| one.decision.write == Write::Nothing) {
        let right = if one.decision.buried { pg_sys::ACL_DELETE } else { pg_sys::ACL_UPDATE };
        if !session::has_right(one.table.relation, user, right) {
            return Err(Stop::Denied(format!("permission denied for table {}", one.table.name)));
        }
    }
    Ok(())
}

fn ordinals(decided: &[Decided<'_>]) -> HashMap<SiteId, i32> {
    let states = decided.iter().map(|one| &one.decision.state);
    let sites = states.flat_map(|state| {
        std::iter::once(state.life_stamp().site).chain(state.cells.iter().map(|cell| cell.stamp.site))
    });
    as_owner(|| {
        let own = sites::site(sites::self_ordinal());
        sites::ordinals(sites.chain(own))
    })
}

fn staged(one: &Decided<'_>) -> Staged {
    let decision = &one.decision;
    let asked = match decision.write {
        Write::Nothing => Asked::Nothing,
        Write::Insert | Write::Replace => Asked::Whole,
        Write::Update => Asked::Cells,
        Write::Delete => Asked::Gone,
    };
    let places = 0..one.table.columns.len();
    let carried = places.clone().map(|place| decision.asked.contains_key(&place)).collect();
    let unasked = |place: usize| {
        if let Some(value) = default_of(one, place) {
            return Expected { value: Some(value), sent: None };
        }
        let held = one.local.values.as_ref().filter(|_| decision.write == Write::Update);
        Expected { value: held.and_then(|values| values.get(place).copied().flatten()), sent: None }
    };
    let expected =
        places.map(|place| decision.asked.get(&place).cloned().unwrap_or_else(|| unasked(place))).collect();
    let full = RowRegisters { state: decision.state.clone(), registers: decision.registers.clone() };
    let travels = decision.travels.clone();
    Staged::new(asked, carried, travels, expected, one.local.metadata.clone(), full)
}

/// What a new row holds in a register column that nobody asks for: that is no write of anybody.
fn default_of(one: &Decided<'_>, place: usize) -> Option<Datum> {
    let column = one.table.columns.get(place).filter(|_| one.decision.write != Write::Update)?;
    let default = one.table.ruled.default_of(column.column_id());
    column.codec.stored_datum(default)
}

/// What rows of one statement have in common, in the order of statements: deletions last, rank, table, kind,
/// columns.
type Statement = (bool, i64, i32, Write, Vec<usize>);

/// Runs the data statements: creations and updates parents first, then deletions children first.
fn write_data(incoming: &Incoming, decided: &[Decided<'_>]) {
    let written: Vec<&Decided<'_>> =
        decided.iter().filter(|one| one.decision.write != Write::Nothing).collect();
    let is_alike = |a: &&Decided<'_>, b: &&Decided<'_>| {
        (a.table.table_id, a.decision.write) == (b.table.table_id, b.decision.write)
            && a.decision.asked.keys().eq(b.decision.asked.keys())
    };
    let mut groups: BTreeMap<Statement, Vec<&Decided<'_>>> = BTreeMap::new();
    for alike in written.chunk_by(is_alike) {
        let Some(one) = alike.first() else { continue };
        let rank = incoming.ranks.get(one.row.table).and_then(|rank| i64::try_from(*rank).ok()).unwrap_or(0);
        let is_deletion = one.decision.write == Write::Delete;
        let places: Vec<usize> = one.decision.asked.keys().copied().collect();
        let rank = if is_deletion { -rank } else { rank };
        groups
            .entry((is_deletion, rank, one.table.table_id, one.decision.write, places))
            .or_default()
            .extend(alike);
    }
    for ((_, _, _, write, places), rows) in groups {
        let Some(table) = rows.first().map(|one| one.table) else { continue };
        let sql = statement(table, write, &places);
        query::run_with_rows(&sql, &[], &input(table, &places, &rows));
    }
}

/// The rows of a statement: key_1 .., then c_<place> of what is asked.
fn input(table: &Tracked, places: &[usize], rows: &[&Decided<'_>]) -> Input {
    let mut columns = local::key_columns(table);
    for place in places {
        if let Some(column) = table.columns.get(*place) {
            columns.push(InputColumn {
                name: format!("c_{place}"),
                type_oid: column.codec.type_oid(),
                collation: column.collation,
            });
        }
    }
    let row = |one: &&Decided<'_>| {
        let asked = places.iter().map(|place| one.decision.asked.get(place).and_then(|asked| asked.value));
        one.row.key.iter().copied().chain(asked).collect()
    };
    Input { columns, rows: rows.iter().map(row).collect() }
}

fn statement(table: &Tracked, write: Write, places: &[usize]) -> String {
    let scan = table.scan();
    let named =
        |place: &usize| table.columns.get(*place).map(|column| (column.quoted(), format!("s.c_{place}")));
    let asked: Vec<(String, String)> = places.iter().filter_map(named).collect();
    let matching = local::same_key(table, "d", "s");
    match write {
        Write::Nothing => String::new(),
        Write::Delete => format!("delete from {scan} as d using cloudsync_rows as s where {matching}"),
        Write::Insert => {
            let keys = (1..)
                .zip(&table.key)
                .map(|(place, column): (usize, _)| (column.quoted(), format!("s.key_{place}")));
            let (columns, values): (Vec<String>, Vec<String>) = keys.chain(asked).unzip();
            format!(
                "insert into {} ({}) overriding system value select {} from cloudsync_rows as s",
                table.quoted(),
                columns.join(", "),
                values.join(", "),
            )
        }
        Write::Update | Write::Replace => {
            let mut sets: Vec<String> =
                asked.iter().map(|(column, value)| format!("{column} = {value}")).collect();
            if write == Write::Replace {
                let others = (0..).zip(&table.columns).filter(|(place, _)| !places.contains(place));
                sets.extend(others.map(|(_, column)| format!("{} = default", column.quoted())));
            }
            if sets.is_empty() {
                // A row of nothing but its key: touched, so that the trigger stamps it.
                let key = table.key.iter().take(1).map(|column| format!("{0} = d.{0}", column.quoted()));
                sets.extend(key);
            }
            format!("update {scan} as d set {} from cloudsync_rows as s where {matching}", sets.join(", "))
        }
    }
}

/// Writes the metadata that no data row carries, where it is still what the merge saw. Runs as the owner.
fn write_metadata(decided: &[Decided<'_>], ordinals: &HashMap<SiteId, i32>) -> Result<(), Stop> {
    let mut tables: BTreeMap<i32, Vec<&Decided<'_>>> = BTreeMap::new();
    for one in decided.iter().filter(|one| one.decision.write == Write::Nothing) {
        tables.entry(one.table.table_id).or_default().push(one);
    }
    for rows in tables.values() {
        let Some(table) = rows.first().map(|one| one.table) else { continue };
        let count = rows.len();
        let output = query::run_with_rows(&metadata_sql(table), &[], &metadata_input(table, rows, ordinals));
        if output.count != u64::try_from(count).unwrap_or(u64::MAX) {
            return Err(Stop::Changed);
        }
    }
    Ok(())
}

fn metadata_sql(table: &Tracked) -> String {
    let listed = |prefix: &str| {
        let keys = (1..=table.key.len()).map(|place| format!("{prefix}key_{place}"));
        keys.collect::<Vec<_>>().join(", ")
    };
    format!(
        "insert into {metadata} as m ({keys}, alive, hlc, site, cols) \
         select {from}, s.alive, s.hlc, s.site, s.cols from cloudsync_rows as s \
         on conflict ({keys}) do update set alive = excluded.alive, hlc = excluded.hlc, \
         site = excluded.site, cols = excluded.cols \
         where cloudsync.stage_unchanged({id}, row({own}), m.alive, m.hlc, m.site, m.cols)",
        metadata = table.metadata(),
        keys = listed(""),
        from = listed("s."),
        own = listed("m."),
        id = table.table_id,
    )
}

fn metadata_input(table: &Tracked, rows: &[&Decided<'_>], ordinals: &HashMap<SiteId, i32>) -> Input {
    let mut columns = local::key_columns(table);
    for (name, type_oid) in [
        ("alive", pg_sys::BOOLOID),
        ("hlc", pg_sys::INT8OID),
        ("site", pg_sys::INT4OID),
        ("cols", pg_sys::INT8ARRAYOID),
    ] {
        columns.push(InputColumn { name: name.into(), type_oid, collation: pg_sys::InvalidOid });
    }
    let row = |one: &&Decided<'_>| {
        let metadata = Metadata::of(&one.decision.state, ordinals);
        let stamps = [
            Some(Datum::from(metadata.alive)),
            Some(Datum::from(metadata.hlc)),
            Some(Datum::from(metadata.site)),
            metadata.cols_datum(),
        ];
        one.row.key.iter().copied().chain(stamps).collect()
    };
    Input { columns, rows: rows.iter().map(row).collect() }
}

/// Every row that was written must have been seen by its trigger. One that was not was kept away by a policy
/// or a trigger of the table; or it is gone since we read it.
fn check_seen(decided: &[Decided<'_>]) -> Result<(), Stop> {
    let unseen = stage::unseen();
    if unseen.is_empty() {
        return Ok(());
    }
    for one in decided {
        if !unseen.contains(&(one.table.table_id, one.row.row_key.clone())) {
            continue;
        }
        if one.decision.write == Write::Insert {
            return Err(Stop::Hidden(
                "a trigger of the table kept the row from being inserted, or changed its key",
            ));
        }
        if as_owner(|| exists(one)) {
            return Err(Stop::Hidden(
                "a row-level security policy or a trigger kept the row from being written",
            ));
        }
    }
    Err(Stop::Changed)
}

fn exists(one: &Decided<'_>) -> bool {
    let input = Input { columns: local::key_columns(one.table), rows: vec![one.row.key.clone()] };
    let sql = format!(
        "select true from {} as d, cloudsync_rows as s where {}",
        one.table.scan(),
        local::same_key(one.table, "d", "s"),
    );
    query::run_with_rows(&sql, &[], &input).first().is_some_and(codec::to_bool)
}

/// Stores parked values, and sends on what no trigger does: burials and newly parked cells. As the owner.
fn tell_parked(decided: &[Decided<'_>]) {
    let mut payload = PayloadBuilder::new();
    for one in decided {
        let Decided { table, row, local, decision } = one;
        let had_parked = !local.state.is_alive() && !local.state.cells.is_empty();
        if had_parked || !decision.parked.is_empty() {
            parked::write(table, row, &decision.state, &decision.parked);
        }
        if !decision.buried && decision.newly_parked.is_empty() {
            continue;
        }
        let readers = if table.has_audience() { Some(last_scopes(table, row)) } else { None };
        // It took no part when it went, or it was never here: nobody has it but its author.
        if readers.as_ref().is_some_and(Vec::is_empty) {
            continue;
        }
        let note = |changes: &mut ChangesBuilder, to: &[String]| {
            if let Some(readers) = &readers {
                audience::note(changes, readers, to);
            }
        };
        let mut changes = parked::start(table);
        if decision.buried {
            changes.row(RowKind::Deleted, decision.state.life_stamp(), &parked::key(table, row), &[]);
            note(&mut changes, &[]);
        }
        if !decision.newly_parked.is_empty() {
            let is_register = |place: usize| decision.travels.iter().any(|(known, _, _)| *known == place);
            let places: Vec<usize> =
                decision.newly_parked.iter().copied().filter(|place| !is_register(*place)).collect();
            if !places.is_empty() {
                parked::add_cells(&mut changes, table, row, &decision.state, &decision.parked, &places);
                note(&mut changes, readers.as_deref().unwrap_or_default());
            }
            for (place, stamp, part) in &decision.travels {
                let cell = (*place, None, ValueRef::Blob(&part.encode()));
                changes.row(RowKind::Cells, *stamp, &parked::key(table, row), &[cell]);
                note(&mut changes, readers.as_deref().unwrap_or_default());
            }
        }
        payload.push(changes);
    }
    if !payload.is_empty() {
        emit::changeset(&payload.finish());
    }
}

/// Who read a row last that is gone. Runs as the owner.
fn last_scopes(table: &Tracked, row: &IncomingRow) -> Vec<String> {
    let matching = (1..)
        .zip(&table.key)
        .map(|(place, column): (usize, _)| format!("m.key_{place} {} s.key_{place}", column.equality));
    let sql = format!(
        "select m.scopes from {} as m, cloudsync_rows as s where {}",
        table.metadata(),
        matching.collect::<Vec<_>>().join(" and "),
    );
    let input = Input { columns: local::key_columns(table), rows: vec![row.key.clone()] };
    let found = query::run_with_rows(&sql, &[], &input).first().map(tuple::to_texts);
    // It went before the table had a scope or a filter.
    found.unwrap_or_else(|| if table.scope.is_some() { Vec::new() } else { vec![SCOPE_EVERYBODY.to_owned()] })
}
