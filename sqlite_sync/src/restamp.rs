//! Gives other stamps to what was not sent yet: under a new site when the file is a copy, under later clocks
//! when this device's clock was ahead.

use std::collections::BTreeSet;
use std::rc::Rc;

use shared_format::{Hlc, OwnEntries, Register, RowState, SiteId, Stamp, Value, encode_key};

use crate::catalog::Replica;
use crate::changes::own_columns;
use crate::error::{Error, Result};
use crate::fold::{LoggedRow, Wanted, fold, for_each_logged_row};
use crate::log::{self, ColumnSet, DbVersion};
use crate::metadata::{self, Registers};
use crate::outbox;
use crate::parked;
use crate::settings::Sites;
use crate::sql::refs;
use crate::tracked_table::TrackedTable;

/// How far a stamp may be ahead of the server's clock: see DESIGN section 3.
const AHEAD_MS_MAX: u64 = 60_000;

/// Why unsent stamps change.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reason {
    /// Another file writes under this site.
    SiteConflict,
    /// Stamps were too far ahead of the server.
    ClockAhead {
        /// Greatest clock that the server has accepted from this site.
        accepted: Hlc,
        /// The server's time.
        server_ms: i64,
    },
}

/// Changes the stamps of everything unsent, keeping its order, and drops the upload that was refused.
pub(crate) fn restamp_unsent(replica: &mut Replica<'_>, reason: Reason) -> Result<()> {
    let newest = fold(replica)?;
    let first = DbVersion::new(log::acknowledged(replica.connection)?.get() + 1);
    outbox::discard(replica.connection)?;
    let former = replica.own();
    match reason {
        Reason::SiteConflict => {
            let unsent = unsent_rows(replica, first, newest)?;
            Sites::renew(replica.connection)?;
            replica.sites = Sites::load(replica.connection)?.ok_or(Error::NothingTracked)?;
            let own = replica.own();
            for row in unsent {
                store(replica, row, former, &|stamp| Stamp { site: own, ..stamp })?;
            }
        }
        Reason::ClockAhead { accepted, server_ms } => {
            let unsent = unsent_rows(replica, first, newest)?;
            let clocks = later_clocks(&unsent, former, accepted, server_ms);
            for row in unsent {
                store(replica, row, former, &|stamp| later(&clocks, stamp))?;
            }
        }
    }
    Ok(())
}

/// A row with what of it is not sent.
struct Unsent {
    table: Rc<TrackedTable>,
    row: LoggedRow,
    state: RowState,
    registers: Registers,
    has_life: bool,
    columns: ColumnSet,
}

fn unsent_rows(replica: &mut Replica<'_>, first: DbVersion, last: DbVersion) -> Result<Vec<Unsent>> {
    let mut unsent = Vec::new();
    for table in replica.tables.clone() {
        let has_baseline = table.baseline.is_some_and(|baseline| baseline >= first.get());
        for_each_logged_row(replica, &table, (first, last), Wanted::State, &mut |replica, row| {
            let Some(state) = row.state.clone() else { return Ok(()) };
            let is_own = state.life.is_some_and(|life| life.stamp.site == replica.own());
            let is_born = row.entries.iter().any(|entry| entry.captured == log::Captured::Inserted);
            let is_baseline = has_baseline && state.life_stamp().hlc == Hlc::ZERO;
            let has_life = is_own && (is_born || is_baseline || !state.is_alive());
            let columns = own_columns(replica, &table, row);
            let registers = metadata::registers_of(replica.connection, &table, &row.key)?;
            let table = Rc::clone(&table);
            unsent.push(Unsent { table, row: row.clone(), state, registers, has_life, columns });
            Ok(())
        })?;
    }
    Ok(unsent)
}

fn store(
    replica: &mut Replica<'_>,
    unsent: Unsent,
    former: SiteId,
    restamp: &dyn Fn(Stamp) -> Stamp,
) -> Result<()> {
    let Unsent { table, row, mut state, mut registers, has_life, columns } = unsent;
    let before = (state.clone(), registers.clone());
    if let Some(life) = state.life.as_mut().filter(|_| has_life) {
        life.stamp = restamp(life.stamp);
    }
    for cell in state.cells.iter_mut().filter(|cell| columns.contains(cell.column)) {
        cell.stamp = restamp(cell.stamp);
    }
    let base = state.life_stamp();
    state.cells.retain(|cell| cell.stamp > base || cell.stamp == Stamp::ZERO);
    for (id, kept) in &mut registers {
        let sent = kept.own.sent_hlc;
        let is_unsent = |stamp: Stamp| columns.contains(*id) && stamp.site == former && stamp.hlc > sent;
        kept.register.restamp(&is_unsent, restamp, &mut kept.own);
        if has_life {
            kept.register.rebase(base);
        }
        match kept.register.greatest() {
            Some(stamp) => state.set_cell(*id, stamp),
            None if state.cell(*id) != Some(Stamp::ZERO) => state.clear_cell(*id),
            None => {}
        }
    }
    if (&state, &registers) == (&before.0, &before.1) {
        return Ok(());
    }
    if !state.is_alive() && !state.cells.is_empty() && table.rules.have_registers() {
        restamp_parked(replica, &table, &row, &state, &columns, former, restamp)?;
    }
    let seq = row.entries.last().map_or(DbVersion::default(), |entry| entry.seq);
    metadata::write_row(replica.connection, &mut replica.sites, &table, &row.key, &state, &registers, seq)
}

/// Gives other stamps to what is inside of the registers that are kept beside a row that is not alive.
fn restamp_parked(
    replica: &Replica<'_>,
    table: &TrackedTable,
    row: &LoggedRow,
    state: &RowState,
    columns: &ColumnSet,
    former: SiteId,
    restamp: &dyn Fn(Stamp) -> Stamp,
) -> Result<()> {
    let connection = replica.connection;
    let mut parked = parked::cells(connection, table, &encode_key(refs(&row.key)))?;
    for (id, value) in parked.iter_mut().filter(|(id, _)| columns.contains(*id)) {
        let rule = table.rules.of(*id);
        if let Value::Blob(bytes) = value
            && rule.is_register()
        {
            let mut register = Register::decode(rule, bytes)?;
            let is_own = |stamp: Stamp| stamp.site == former;
            let mut own = OwnEntries {
                origin: register.stamps().into_iter().find(|s| is_own(*s)),
                ..OwnEntries::default()
            };
            register.restamp(&is_own, restamp, &mut own);
            *bytes = register.encode();
        }
    }
    parked::store_cells(connection, table, &row.key, state, &parked)
}

/// Pairs of an unsent clock and the clock that takes its place, in order.
fn later_clocks(unsent: &[Unsent], own: SiteId, accepted: Hlc, server_ms: i64) -> Vec<(Hlc, Hlc)> {
    let mut mine = BTreeSet::new();
    // The server's clock itself may have been ahead; what it accepted then would be refused now.
    let is_ahead = accepted.unix_ms() > u64::try_from(server_ms).unwrap_or(0).saturating_add(AHEAD_MS_MAX);
    let mut floor = if is_ahead { Hlc::ZERO } else { accepted };
    for one in unsent {
        let life = one.state.life_stamp();
        let cells = one.state.cells.iter().map(|cell| (one.columns.contains(cell.column), cell.stamp));
        let entries = one.registers.iter().flat_map(|(id, kept)| {
            let is_unsent = |stamp: Stamp| one.columns.contains(*id) && stamp.hlc > kept.own.sent_hlc;
            kept.register.stamps().into_iter().map(move |stamp| (is_unsent(stamp), stamp))
        });
        for (is_unsent, stamp) in cells.chain([(one.has_life, life)]).chain(entries) {
            if is_unsent && stamp.site == own && stamp.hlc != Hlc::ZERO {
                mine.insert(stamp.hlc);
            } else if stamp.site != own {
                floor = floor.max(stamp.hlc);
            }
        }
    }
    let mut next = Hlc::after(server_ms, floor);
    let mut clocks = Vec::with_capacity(mine.len());
    for clock in mine {
        clocks.push((clock, next));
        next = next.next();
    }
    clocks
}

fn later(clocks: &[(Hlc, Hlc)], stamp: Stamp) -> Stamp {
    match clocks.binary_search_by_key(&stamp.hlc, |(former, _)| *former) {
        Ok(at) => Stamp { hlc: clocks[at].1, ..stamp },
        Err(_sent) => stamp,
    }
}
