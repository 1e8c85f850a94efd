//! Turns captured log entries into row metadata, in order, before anything is merged or sent.
//!
//! Whether a row exists is taken from the user's table, never guessed from the log; the log says which
//! columns were written and when.

mod ruled;

use rusqlite::{Row, params};
use shared_format::{ColumnId, Hlc, LocalWrite, RowState, SiteId, Value, encode_key};

use crate::catalog::{Replica, clock_offset_ms};
use crate::error::{Doing, Result};
use crate::log::{self, Captured, DbVersion};
use crate::metadata::{self, Registers};
use crate::parked;
use crate::settings::{self, Setting};
use crate::sql::{column, columns, join, refs};
use crate::tracked_table::{TrackedTable, log_key_name};

/// Entries above which opening a file folds: see DESIGN section 15.
pub(crate) const FOLD_ON_OPEN: i64 = 10_000;

/// Greatest correction of the clock that one statement adds; more than any wall time of a clock.
const OFFSET_MS_MAX: i64 = 1 << 50;

/// One entry of a row, in order.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) captured: Captured,
    pub(crate) wall_ms: i64,
    pub(crate) seq: DbVersion,
}

/// All entries of one row in a range of the log, with what the file holds for it.
#[derive(Clone, Debug)]
pub(crate) struct LoggedRow {
    pub(crate) key: Vec<Value>,
    pub(crate) entries: Vec<Entry>,
    pub(crate) is_present: bool,
    pub(crate) state: Option<RowState>,
    /// The columns that are no key, where they were asked for and the row is there.
    pub(crate) values: Vec<Value>,
}

/// What is wanted of rows with entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Entries and metadata.
    State,
    /// The same, of rows whose metadata does not hold an entry of the range yet.
    Unfolded,
    /// Entries, metadata and the user's values.
    Values,
}

/// Brings the metadata up to the newest entry of the log.
pub(crate) fn fold(replica: &mut Replica<'_>) -> Result<DbVersion> {
    let newest = log::newest(replica.connection)?;
    let folded = log::folded(replica.connection)?;
    if folded >= newest {
        return Ok(newest);
    }
    let first = DbVersion::new(folded.get() + 1);
    for table in replica.tables.clone() {
        let entries = count_entries(replica, &table, first, newest)?;
        if entries.all > 0 && fold_created(replica, &table, (first, newest), &entries)? < entries.all {
            fold_table(replica, &table, first, newest)?;
        }
    }
    settings::store(replica.connection, Setting::Folded, &Value::Integer(newest.get()))?;
    Ok(newest)
}

/// How many entries of a table in a range say something of a row.
struct Entries {
    all: usize,
    /// Whether each of them is a creation.
    are_created: bool,
    /// Whether their keys seem to come in order: a sample of them does.
    are_ascending: bool,
}

fn count_entries(
    replica: &Replica<'_>,
    table: &TrackedTable,
    first: DbVersion,
    last: DbVersion,
) -> Result<Entries> {
    let sql = format!(
        "with recursive place (n) as (select 0 union all select n + 1 from place where n < 15)
         select count(*), count(*) filter (where cols = ?5), (
           select count(*)
           from place
           cross join main.cloudsync_log as a on a.seq = ?1 + (?2 - ?1) / 16 * n and a.tbl = ?3
           cross join main.cloudsync_log as b on b.seq = a.seq + (?2 - ?1) / 16 and b.tbl = ?3
           where ({}) > ({}))
         from main.cloudsync_log
         where {}",
        table.log_key("a."),
        table.log_key("b."),
        in_range(table)
    );
    let mut statement = replica.connection.prepare_cached(&sql)?;
    let range = params![first.get(), last.get(), table.id, log::BASELINE, log::INSERTED];
    let (all, created, descending): (u32, u32, u32) = statement
        .query_row(range, |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .doing("count entries")?;
    Ok(Entries {
        all: usize::try_from(all).unwrap_or(usize::MAX),
        are_created: created == all,
        are_ascending: descending == 0,
    })
}

/// Folds, in one statement, the rows whose only entry is their creation and that have no metadata yet: most of
/// what an app writes. Returns their number; [`fold_table`] folds the others and would fold these the same way.
fn fold_created(
    replica: &Replica<'_>,
    table: &TrackedTable,
    range: (DbVersion, DbVersion),
    entries: &Entries,
) -> Result<usize> {
    // Elsewhere a creation says more than that all cells have the stamp of the row.
    if !table.rules.are_plain() {
        return Ok(0);
    }
    let connection = replica.connection;
    if entries.are_created && entries.are_ascending {
        // Where every entry makes a row of metadata, every key has one entry, and nothing has to be sorted.
        connection.execute_batch("savepoint cloudsync_created").doing("fold created rows")?;
        let folded = fold_selected(replica, table, range, "and")?;
        let end = if folded == entries.all { "" } else { "rollback to cloudsync_created;" };
        connection.execute_batch(&format!("{end} release cloudsync_created")).doing("fold created rows")?;
        if folded == entries.all {
            return Ok(folded);
        }
    }
    let key = table.log_key("");
    fold_selected(replica, table, range, &format!("group by {key} having count(*) = 1 and"))
}

/// Makes metadata of creations; `alone` begins the condition that a row has no other entry, and may sort.
fn fold_selected(
    replica: &Replica<'_>,
    table: &TrackedTable,
    (first, last): (DbVersion, DbVersion),
    alone: &str,
) -> Result<usize> {
    let key = table.log_key("");
    let sql = format!(
        "insert into {metadata} ({key}, alive, hlc, site, cols, seq)
         select {key}, 1, case at when 0 then 1 else at << 16 end, ?5, null, seq
         from (
           select {key}, seq, min(max(ms + ?6, 0), {ms_max}) as at
           from main.cloudsync_log
           where {in_range}
           {alone} cols = {inserted} and ms between 0 and {ms_max} and typeof(ms) = 'integer'
         ) as l
         where exists (select 1 from {table} as t where {row_joined})
         on conflict do nothing",
        metadata = table.metadata(),
        ms_max = Hlc::from_parts(i64::MAX, 0).unix_ms(),
        in_range = in_range(table),
        inserted = log::INSERTED,
        table = table.quoted(),
        row_joined = table.key_equals_log("t", "l"),
    );
    let own = replica.sites.own_ordinal();
    // Far beyond what the clamp leaves, and small enough to be added to.
    let offset_ms = clock_offset_ms(replica.connection)?.clamp(-OFFSET_MS_MAX, OFFSET_MS_MAX);
    let row = params![first.get(), last.get(), table.id, log::BASELINE, own, offset_ms];
    replica.connection.prepare_cached(&sql)?.execute(row).doing("fold created rows")
}

fn fold_table(
    replica: &mut Replica<'_>,
    table: &TrackedTable,
    first: DbVersion,
    last: DbVersion,
) -> Result<()> {
    if !table.rules.are_plain() {
        return ruled::fold_table(replica, table, first, last);
    }
    let offset_ms = clock_offset_ms(replica.connection)?;
    let own = replica.own();
    let all = table.column_ids();
    for_each_logged_row(replica, table, (first, last), Wanted::Unfolded, &mut |replica, row| {
        let before = row.state.clone();
        let Some(state) = fold_row(table, row, &all, own, offset_ms) else { return Ok(()) };
        if before.as_ref() == Some(&state) {
            return Ok(());
        }
        if before.is_some_and(|before| !before.is_alive() && !before.cells.is_empty()) {
            parked::forget_cells(replica.connection, table, &encode_key(refs(&row.key)))?;
        }
        let seq = row.entries.last().map_or(last, |entry| entry.seq);
        metadata::write(replica.connection, &mut replica.sites, table, &row.key, &state, seq)
    })
}

/// Takes a row as it will be after a fold: key, state, registers, number.
pub(crate) type Overlaid<'a> = dyn FnMut(&[Value], RowState, Registers, DbVersion) + 'a;

/// Hands over the rows that have entries which are not folded yet, as they will be then. Writes nothing.
pub(crate) fn overlay(
    replica: &mut Replica<'_>,
    table: &TrackedTable,
    each: &mut Overlaid<'_>,
) -> Result<()> {
    if !table.rules.are_plain() {
        return ruled::overlay(replica, table, each);
    }
    let newest = log::newest(replica.connection)?;
    let first = DbVersion::new(log::folded(replica.connection)?.get() + 1);
    let offset_ms = clock_offset_ms(replica.connection)?;
    let own = replica.own();
    let all = table.column_ids();
    for_each_logged_row(replica, table, (first, newest), Wanted::State, &mut |_, row| {
        let state = fold_row(table, row, &all, own, offset_ms);
        let seq = row.entries.last().map_or(newest, |entry| entry.seq);
        if let Some(state) = state.filter(|state| row.state.as_ref() != Some(state)) {
            each(&row.key, state, Registers::new(), seq);
        }
        Ok(())
    })
}

/// State of a row after its entries; None when nobody has to hear of it.
fn fold_row(
    table: &TrackedTable,
    row: &LoggedRow,
    all: &[ColumnId],
    own: SiteId,
    offset_ms: i64,
) -> Option<RowState> {
    let is_rewritten = |entry: &Entry| matches!(entry.captured, Captured::Inserted | Captured::Deleted);
    let had_baseline = row.state.is_none() && table.baseline.is_some();
    let baseline = || metadata::baseline(table, own);
    let last = row.entries.last()?;
    let at = |entry: &Entry| entry.wall_ms.saturating_add(offset_ms);
    let mut state = row.state.clone().unwrap_or_else(RowState::unseen);
    if !row.is_present {
        if state.is_alive() || had_baseline {
            state.write_local(LocalWrite::Delete, at(last), own);
            return Some(state);
        }
        return None;
    }
    let mut rest = row.entries.as_slice();
    if had_baseline && !row.entries.iter().any(is_rewritten) {
        state = baseline();
    } else if !state.is_alive() {
        let born = row.entries.iter().rposition(is_rewritten).unwrap_or(0);
        state.write_local(LocalWrite::Create, at(&row.entries[born]), own);
        rest = &row.entries[born + 1..];
    }
    for entry in rest {
        match &entry.captured {
            Captured::Updated(set) => {
                let written: Vec<ColumnId> = all.iter().copied().filter(|id| set.contains(*id)).collect();
                if !written.is_empty() {
                    state.write_local(LocalWrite::Update(&written), at(entry), own);
                }
            }
            // A live row deleted and inserted between two folds is one update of all its columns.
            Captured::Inserted if !all.is_empty() => {
                state.write_local(LocalWrite::Update(all), at(entry), own);
            }
            Captured::Inserted | Captured::Deleted | Captured::Look | Captured::Baseline | Captured::Mark => {
            }
        }
    }
    Some(state)
}

/// Hands over every row of a table that has entries in a range, in key order.
///
/// The statement sorts by key before it returns its first row, and each row is looked up by its key, so the
/// metadata of rows that were handed over may be written meanwhile.
pub(crate) fn for_each_logged_row(
    replica: &mut Replica<'_>,
    table: &TrackedTable,
    (first, last): (DbVersion, DbVersion),
    wanted: Wanted,
    each: &mut dyn FnMut(&mut Replica<'_>, &LoggedRow) -> Result<()>,
) -> Result<()> {
    let connection = replica.connection;
    let sql = logged_rows_sql(table, wanted);
    let mut statement = connection.prepare_cached(&sql).doing("read the capture log")?;
    let mut rows = statement.query(params![first.get(), last.get(), table.id, log::BASELINE])?;
    let mut logged: Option<LoggedRow> = None;
    while let Some(row) = rows.next().doing("read the capture log")? {
        let (key, entry) = read_entry(row, table.key.len())?;
        match &mut logged {
            Some(logged) if logged.key == key => logged.entries.push(entry),
            before => {
                let is_present = row.get(3)?;
                let has_values = is_present && wanted == Wanted::Values;
                let count = if has_values { table.columns.len() } else { 0 };
                let values = columns(row, 4 + metadata::STATE_COLUMNS + table.key.len(), count)?;
                let state = metadata::state(&replica.sites, table, row, 4)?;
                let next = LoggedRow { key, entries: vec![entry], is_present, state, values };
                if let Some(done) = before.replace(next) {
                    each(replica, &done)?;
                }
            }
        }
    }
    logged.map_or(Ok(()), |last| each(replica, &last))
}

/// Sorts the entries before anything is looked up, so that the lookups go through table and metadata in order.
fn logged_rows_sql(table: &TrackedTable, wanted: Wanted) -> String {
    let first_key = table.key.first().expect("a tracked table has a key").quoted();
    format!(
        "select l.seq, l.cols, l.ms, t.{first_key} is not null, {state}, {key}{values}
         from (
           select seq, cols, ms, {bare_key}
           from main.cloudsync_log
           where {in_range}
           order by {bare_key}, seq
           limit -1
         ) as l
         left join {table} as t on {row_joined}
         left join {metadata} as m on {metadata_joined}
         {unfolded}",
        state = metadata::state_columns("m."),
        key = table.log_key("l."),
        values = if wanted == Wanted::Values { table.and_other_columns("t.") } else { String::new() },
        bare_key = table.log_key(""),
        in_range = in_range(table),
        table = table.quoted(),
        row_joined = table.key_equals_log("t", "l"),
        metadata = table.metadata(),
        metadata_joined = table.metadata_equals_log("m", "l"),
        unfolded = if wanted == Wanted::Unfolded { "where m.seq is null or m.seq < ?1" } else { "" },
    )
}

/// Entries from number ?1 to ?2 of table ?3 that name a row, all codes above ?4.
pub(crate) fn in_range(table: &TrackedTable) -> String {
    let whole = join(&table.key, " and ", |at, _| format!("{} is not null", log_key_name(at)));
    format!("seq between ?1 and ?2 and tbl = ?3 and cols > ?4 and {whole}")
}

fn read_entry(row: &Row<'_>, key_len: usize) -> Result<(Vec<Value>, Entry)> {
    let entry = Entry {
        captured: Captured::read(column(row, 1)?)?,
        wall_ms: row.get(2)?,
        seq: DbVersion::new(row.get(0)?),
    };
    Ok((columns(row, 4 + metadata::STATE_COLUMNS, key_len)?, entry))
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;
    use crate::catalog;
    use crate::checks::Skipped;
    use crate::sql::Unit;

    /// Everything in the metadata, after folding in a unit that leaves no trace.
    fn folded(connection: &Connection, fold_all: impl FnOnce(&mut Replica<'_>)) -> Vec<String> {
        let _undone = Unit::begin(connection).unwrap();
        let mut replica = Replica::open(connection).unwrap();
        fold_all(&mut replica);
        let sql =
            "select hex(pk) || pk || alive || ' ' || hlc || site || quote(cols) || seq from t_cloudsync";
        let mut statement = connection.prepare(sql).unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().collect::<rusqlite::Result<_>>().unwrap()
    }

    fn check(connection: &Connection) -> usize {
        let at_once = folded(connection, |replica| {
            fold(replica).unwrap();
        });
        let row_by_row = folded(connection, |replica| {
            let first = DbVersion::new(log::folded(replica.connection).unwrap().get() + 1);
            let last = log::newest(replica.connection).unwrap();
            for table in replica.tables.clone() {
                fold_table(replica, &table, first, last).unwrap();
            }
        });
        assert_eq!(at_once, row_by_row);
        at_once.len()
    }

    fn step(connection: &Connection, random: u64) {
        let key = random >> 8 & 31;
        let sql = match random & 7 {
            0..=3 => format!("insert or ignore into t values ('{key}', {random}, 'x')"),
            4 => format!("update t set a = {random} where id = '{key}'"),
            5 => format!("update t set b = '{random}' where id = '{key}'"),
            6 => format!("delete from t where id = '{key}'"),
            _replaced => format!("replace into t values ('{key}', {random}, 'y')"),
        };
        connection.execute_batch(&sql).unwrap();
        // Devices with a wrong clock, before 1970 and long after.
        match random >> 16 & 63 {
            0 => connection.execute_batch("update cloudsync_log set ms = 0 where seq % 3 = 0").unwrap(),
            1 => connection.execute_batch("update cloudsync_log set ms = -5 where seq % 5 = 0").unwrap(),
            2 => connection.execute_batch("update cloudsync_log set ms = 1 << 60 where seq % 7 = 0").unwrap(),
            _right => {}
        }
    }

    #[test]
    fn folding_in_one_statement_equals_folding_row_by_row() {
        let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
        for seed in seed.map_or(1..25_u64, |seed| seed..seed + 1) {
            let connection = Connection::open_in_memory().unwrap();
            connection.execute_batch("create table t (id text not null primary key, a, b)").unwrap();
            if seed % 2 == 0 {
                connection.execute_batch("insert into t values ('1', 1, 1), ('2', 2, 2)").unwrap();
            }
            catalog::init(&connection, "t", None, Skipped::default()).unwrap();
            let offset = [0, 1_500, -90_000, i64::MAX, i64::MIN][usize::try_from(seed % 5).unwrap()];
            settings::store(&connection, Setting::ClockOffset, &Value::Integer(offset)).unwrap();
            let mut random = seed;
            let mut found = 0;
            for key in 100..140 {
                connection.execute_batch(&format!("insert into t values ('{key}', 1, 'x')")).unwrap();
            }
            if seed % 3 == 0 {
                // A second creation of the same key: the keys are in order still.
                connection.execute_batch("replace into t values ('139', 2, 'y')").unwrap();
            }
            check(&connection);
            for _round in 0..6 {
                for _step in 0..20 {
                    random = random
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407);
                    step(&connection, random >> 20);
                }
                found = check(&connection);
                let mut replica = Replica::open(&connection).unwrap();
                fold(&mut replica).unwrap();
            }
            assert!(found > 0, "SEED={seed} folds something");
        }
    }
}
