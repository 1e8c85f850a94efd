//! Gives other stamps to what was not sent yet: under a new site when the file is a copy, under later clocks
//! when this device's clock was ahead.

use std::collections::BTreeSet;
use std::rc::Rc;

use shared_format::{Hlc, RowState, SiteId, Stamp};

use crate::catalog::Replica;
use crate::changes::own_columns;
use crate::error::{Error, Result};
use crate::fold::{LoggedRow, Wanted, fold, for_each_logged_row};
use crate::log::{self, ColumnSet, DbVersion};
use crate::metadata;
use crate::outbox;
use crate::settings::Sites;
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
                store(replica, row, &|stamp| Stamp { site: own, ..stamp })?;
            }
        }
        Reason::ClockAhead { accepted, server_ms } => {
            let unsent = unsent_rows(replica, first, newest)?;
            let clocks = later_clocks(&unsent, former, accepted, server_ms);
            for row in unsent {
                store(replica, row, &|stamp| later(&clocks, stamp))?;
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
            unsent.push(Unsent { table: Rc::clone(&table), row: row.clone(), state, has_life, columns });
            Ok(())
        })?;
    }
    Ok(unsent)
}

fn store(replica: &mut Replica<'_>, unsent: Unsent, restamp: &dyn Fn(Stamp) -> Stamp) -> Result<()> {
    let Unsent { table, row, mut state, has_life, columns } = unsent;
    let before = state.clone();
    if let Some(life) = state.life.as_mut().filter(|_| has_life) {
        life.stamp = restamp(life.stamp);
    }
    for cell in state.cells.iter_mut().filter(|cell| columns.contains(cell.column)) {
        cell.stamp = restamp(cell.stamp);
    }
    let base = state.life_stamp();
    state.cells.retain(|cell| cell.stamp > base || cell.stamp == Stamp::ZERO);
    if state == before {
        return Ok(());
    }
    let seq = row.entries.last().map_or(DbVersion::default(), |entry| entry.seq);
    metadata::write(replica.connection, &mut replica.sites, &table, &row.key, &state, seq)
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
        for (is_unsent, stamp) in cells.chain([(one.has_life, life)]) {
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
