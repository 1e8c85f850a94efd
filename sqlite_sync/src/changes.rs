//! Which rows travel: everything since a number for a payload file, ranges of the capture log for uploads.

mod created;

use std::collections::HashSet;

use rusqlite::types::ToSql;
use rusqlite::{Connection, OptionalExtension, params};
use shared_format::payload::{PayloadBuilder, TableAlgorithm, encode_frame};
use shared_format::{ColumnId, RowKind, RowState, Stamp, Value, ValueRef, encode_key};

use crate::catalog::{Replica, baseline_after};
use crate::emit::TableRows;
use crate::error::{Doing, Result};
use crate::fold::{LoggedRow, Wanted, fold, for_each_logged_row};
use crate::log::{self, BASELINE, BASELINE_SPAN, Captured, ColumnSet, DbVersion, MARK};
use crate::metadata::{self, STATE_COLUMNS};
use crate::outbox::{self, Upload};
use crate::parked;
use crate::register_cells;
use crate::rejected::{self, Rejection, printed_key};
use crate::settings;
use crate::sql::{Unit, binds, borrowed, columns, refs};
use crate::table_settings;
use crate::tracked_table::TrackedTable;

/// Bytes of rows in one payload. Below the 8 MiB that an upload may have even when nothing compresses.
pub(crate) const PAYLOAD_BYTES: usize = 7 * 1024 * 1024;

/// Bytes of rows in one upload: most rows compress to a third or less, and what does not is cut again.
const UPLOAD_BODY_BYTES: usize = 16 * 1024 * 1024;

/// Entries that are looked at for one upload.
const UPLOAD_ENTRIES: i64 = 50_000;

/// Largest cell that travels: see DESIGN section 15.
pub(crate) const CELL_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Largest upload body, compressed: see DESIGN section 15.
const UPLOAD_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Most bytes of one upload in all its chunks, a little below what a value of SQLite can hold, as a central file gets
/// them. What is beyond becomes visible in parts.
const CHUNKED_BYTES_MAX: usize = 900 * 1024 * 1024;

/// Most chunks of one upload: what the hub takes.
const CHUNKS_MAX: usize = 256;

/// Encodes everything that changed here after a number and up to another, as frames; None when nothing did.
pub(crate) fn encode(connection: &Connection, since: DbVersion, until: DbVersion) -> Result<Option<Vec<u8>>> {
    if !settings::is_set_up(connection)? {
        return Ok(None);
    }
    let unit = Unit::begin(connection)?;
    let Some(mut replica) = Replica::load_current(connection)? else { return Ok(None) };
    fold(&mut replica)?;
    let mut frames = Vec::new();
    for table in replica.tables.iter().filter(|table| table.enabled) {
        encode_known(&replica, table, (since, until), &mut frames)?;
        if table.baseline.is_some_and(|baseline| baseline > since.get() && baseline <= until.get()) {
            encode_baseline(&replica, table, &mut frames)?;
        }
    }
    unit.commit()?;
    Ok((!frames.is_empty()).then_some(frames))
}

/// Rows of one table, cut into frames.
struct Frames<'t, 'f> {
    table: &'t TrackedTable,
    rows: TableRows<'t>,
    frames: &'f mut Vec<u8>,
}

impl<'t, 'f> Frames<'t, 'f> {
    fn new(table: &'t TrackedTable, frames: &'f mut Vec<u8>) -> Self {
        Self { table, rows: TableRows::new(table), frames }
    }

    fn cut(&mut self, bytes: usize) {
        if self.rows.rows() > 0 && self.rows.byte_len() >= bytes {
            let rows = std::mem::replace(&mut self.rows, TableRows::new(self.table));
            self.frames.extend(encode_frame(&rows.into_file_payload()));
        }
    }
}

/// Rows with metadata that changed in a range, also those that came from elsewhere.
fn encode_known(
    replica: &Replica<'_>,
    table: &TrackedTable,
    (since, until): (DbVersion, DbVersion),
    frames: &mut Vec<u8>,
) -> Result<()> {
    let key_len = table.key.len();
    let sql = format!(
        "select {}, t.{} is not null, {}{} from {} as m left join {} as t on {} where m.seq > ?1 and m.seq <= ?2{}",
        metadata::state_columns("m."),
        table.key[0].quoted(),
        table.log_key("m."),
        table.and_other_columns("t."),
        table.metadata(),
        table.quoted(),
        table.key_equals_log("t", "m"),
        table.shares_in_main("t").map(|shared| format!(" and (m.alive = 0 or {shared})")).unwrap_or_default(),
    );
    let mut statement = replica.connection.prepare(&sql).doing("read changed rows")?;
    let mut rows = statement.query([since.get(), until.get()])?;
    let mut out = Frames::new(table, frames);
    while let Some(row) = rows.next().doing("read changed rows")? {
        let Some(state) = metadata::state(&replica.sites, table, row, 0)? else { continue };
        let key = borrowed(row, STATE_COLUMNS + 1, key_len)?;
        if state.is_alive() {
            let values = borrowed(row, STATE_COLUMNS + 1 + key_len, table.columns.len())?;
            if row.get(STATE_COLUMNS)? && fits(replica, table, &key, &values, since)? {
                let sent = register_cells::sent(table, &metadata::registers(table, row, 0)?);
                out.rows.whole(&state, &key, &register_cells::laid_over(&values, &sent));
            }
        } else {
            if let Some(life) = state.life {
                out.rows.deleted(life.stamp, &owned(&key));
            }
            if !state.cells.is_empty() {
                let parked = parked::cells(replica.connection, table, &encode_key(key.iter().copied()))?;
                out.rows.parked(&state, &owned(&key), &parked);
            }
        }
        out.cut(PAYLOAD_BYTES);
    }
    out.cut(0);
    Ok(())
}

/// Rows without metadata: they were there before `cloudsync_init`.
fn encode_baseline(replica: &Replica<'_>, table: &TrackedTable, frames: &mut Vec<u8>) -> Result<()> {
    let mut out = Frames::new(table, frames);
    for_each_baseline_row(replica, table, None, &mut |has_metadata, key, values, state| {
        if !has_metadata && fits(replica, table, key, values, DbVersion::default())? {
            out.rows.whole(state, key, values);
            out.cut(PAYLOAD_BYTES);
        }
        Ok(true)
    })?;
    out.cut(0);
    Ok(())
}

/// Takes a live row: whether it has metadata, its key, its other columns, its state.
pub(crate) type LiveRow<'a> =
    dyn FnMut(bool, &[ValueRef<'_>], &[ValueRef<'_>], &RowState) -> Result<bool> + 'a;

/// Hands over the rows whose creation is the baseline, in key order after a key, until told to stop. Says
/// whether all were handed over.
pub(crate) fn for_each_baseline_row(
    replica: &Replica<'_>,
    table: &TrackedTable,
    after: Option<&[Value]>,
    each: &mut LiveRow<'_>,
) -> Result<bool> {
    for_each_row(replica, table, (Rows::Baseline, after), each)
}

/// Hands over all rows that others may have.
pub(crate) fn for_each_live_row(
    replica: &Replica<'_>,
    table: &TrackedTable,
    each: &mut LiveRow<'_>,
) -> Result<bool> {
    for_each_row(replica, table, (Rows::Live, None), each)
}

/// Which rows are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rows {
    /// All that are alive.
    Live,
    /// Those whose creation is the baseline.
    Baseline,
}

fn for_each_row(
    replica: &Replica<'_>,
    table: &TrackedTable,
    (wanted, after): (Rows, Option<&[Value]>),
    each: &mut LiveRow<'_>,
) -> Result<bool> {
    let key_len = table.key.len();
    let key = table.key_columns("t.");
    let beyond = after.map(|_| format!("({key}) > ({}) and ", table.key_places(1))).unwrap_or_default();
    let sql = format!(
        "select {}, {key}{} from {} as t left join {} as m on {} where {beyond}{}{} order by {key}",
        metadata::state_columns("m."),
        table.and_other_columns("t."),
        table.quoted(),
        table.metadata(),
        table.metadata_equals_key("m", "t"),
        table.key_is_whole("t."),
        table.shares_in_main("t").map(|shared| format!(" and {shared}")).unwrap_or_default(),
    );
    let mut statement = replica.connection.prepare(&sql).doing("read the baseline")?;
    let mut rows = statement.query(rusqlite::params_from_iter(binds(after.unwrap_or_default())))?;
    let baseline = metadata::baseline(table, replica.own());
    while let Some(row) = rows.next().doing("read the baseline")? {
        let state = metadata::state(&replica.sites, table, row, 0)?;
        let is_wanted = |state: &RowState| {
            state.is_alive() && (wanted == Rows::Live || state.life_stamp() == baseline.life_stamp())
        };
        if state.as_ref().is_some_and(|state| !is_wanted(state)) {
            continue;
        }
        let key = borrowed(row, STATE_COLUMNS, key_len)?;
        let values = borrowed(row, STATE_COLUMNS + key_len, table.columns.len())?;
        let sent = register_cells::sent(table, &metadata::registers(table, row, 0)?);
        let values = register_cells::laid_over(&values, &sent);
        if !each(state.is_some(), &key, &values, state.as_ref().unwrap_or(&baseline))? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether every cell is small enough to travel. One that is not is reported, the user's value stays.
pub(crate) fn fits(
    replica: &Replica<'_>,
    table: &TrackedTable,
    key: &[ValueRef<'_>],
    values: &[ValueRef<'_>],
    at: DbVersion,
) -> Result<bool> {
    let size = |value: &ValueRef<'_>| match value {
        ValueRef::Text(text) => text.len(),
        ValueRef::Blob(bytes) | ValueRef::RawText(bytes) => bytes.len(),
        _number => 0,
    };
    let total: usize = key.iter().chain(values).map(size).sum();
    if total < PAYLOAD_BYTES {
        return Ok(true);
    }
    let greatest = key.iter().chain(values).map(size).max().unwrap_or(0);
    let mut row = TableRows::new(table);
    row.whole(&RowState::baseline(Stamp::ZERO), key, values);
    let frame = encode_frame(&row.into_payload()).len();
    if greatest <= CELL_BYTES_MAX && frame <= UPLOAD_BYTES_MAX {
        return Ok(true);
    }
    let rejection = Rejection {
        id: None,
        table: table.name.clone(),
        key: printed_key(&owned(key)),
        sqlstate: String::from("54000"),
        message: format!(
            "too large: largest cell {greatest} bytes, row {frame} bytes compressed, \
             limits are {CELL_BYTES_MAX} and {UPLOAD_BYTES_MAX}"
        ),
        first: at,
        last: at,
    };
    rejected::store(replica, &[rejection])?;
    Ok(false)
}

fn owned(values: &[ValueRef<'_>]) -> Vec<Value> {
    values.iter().map(ValueRef::to_owned_value).collect()
}

/// What became of a range that was to be put into one payload.
enum Built {
    /// No row of it has to travel.
    Nothing,
    /// It is larger than one upload may be; about as many of its rows fit.
    TooLarge { fitting: i64 },
    /// One frame.
    Frame(Vec<u8>),
}

/// How an upload is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Everything that is unsent, in as many chunks as it takes: it is applied together.
    Chunks,
    /// As much as fits into one body.
    Bodies,
}

/// Stores the next upload in the outbox, behind those that are there, in the caller's transaction; None when nothing
/// more is unsent.
pub(crate) fn next_upload(replica: &mut Replica<'_>, cut: Cut) -> Result<Option<Upload>> {
    let connection = replica.connection;
    let folded = fold(replica)?;
    loop {
        let sent = log::acknowledged(connection)?.max(outbox::newest(connection)?);
        let first = DbVersion::new(sent.get() + 1);
        let baseline = first_baseline(connection, sent)?;
        let end = baseline.map_or(folded, |(at, _)| DbVersion::new(at.get() - 1));
        let Some(part) = next_part(replica, sent, end)? else {
            let Some((at, table)) = baseline else { return Ok(None) };
            if let Some(upload) = next_baseline_upload(replica, table, first, at)? {
                return Ok(Some(upload));
            }
            continue;
        };
        let Part { mut last, frame: Some(mut frame) } = part else {
            log::delete_range(connection, first, part.last)?;
            continue;
        };
        let id = outbox::new_id()?;
        let (mut chunks, mut bytes) = (1, frame.len());
        while cut == Cut::Chunks
            && chunks < CHUNKS_MAX
            && bytes < CHUNKED_BYTES_MAX
            && let Some(next) = next_part(replica, last, end)?
        {
            last = next.last;
            if let Some(next) = next.frame {
                bytes = bytes.saturating_add(next.len());
                chunks += 1;
                outbox::store_chunk(connection, &id, &frame)?;
                frame = next;
            }
        }
        return outbox::store(connection, id, first, last, frame).map(Some);
    }
}

/// What follows a number in the capture log, as much as fits into one frame.
struct Part {
    last: DbVersion,
    /// None if no row of it has to travel.
    frame: Option<Vec<u8>>,
}

/// The next part up to `end`; None if there are no more entries.
fn next_part(replica: &mut Replica<'_>, after: DbVersion, end: DbVersion) -> Result<Option<Part>> {
    let connection = replica.connection;
    let first = DbVersion::new(after.get() + 1);
    let Some(mut last) = range_end(connection, after, end, UPLOAD_ENTRIES)? else { return Ok(None) };
    let mut limit = UPLOAD_ENTRIES;
    loop {
        match build_range(replica, first, last, last == first || limit <= 1)? {
            Built::Nothing => return Ok(Some(Part { last, frame: None })),
            Built::Frame(frame) => return Ok(Some(Part { last, frame: Some(frame) })),
            Built::TooLarge { fitting } => {
                // A little less, since other rows may be larger; a row has one entry or more.
                let most = limit.min(count_range(connection, first, last)?) - 1;
                limit = (fitting - fitting / 8).min(most).max(1);
                last = range_end(connection, after, end, limit)?.unwrap_or(last);
            }
        }
    }
}

/// The first baseline that is not sent whole, with its table.
fn first_baseline(connection: &Connection, after: DbVersion) -> Result<Option<(DbVersion, u32)>> {
    let sql = "select seq, tbl from main.cloudsync_log where seq > ?1 and cols = ?2 order by seq limit 1";
    connection
        .prepare_cached(sql)?
        .query_row(params![after.get(), BASELINE], |row| Ok((DbVersion::new(row.get(0)?), row.get(1)?)))
        .optional()
        .doing("look for a baseline")
}

/// Number of the last of `limit` entries in a range; the end of the range when there are no more.
fn range_end(
    connection: &Connection,
    after: DbVersion,
    end: DbVersion,
    limit: i64,
) -> Result<Option<DbVersion>> {
    let sql = "select max(seq), count(*) from (select seq from main.cloudsync_log
        where seq > ?1 and seq <= ?2 and cols <> ?3 order by seq limit ?4)";
    let (last, count): (Option<i64>, i64) = connection
        .prepare_cached(sql)?
        .query_row(params![after.get(), end.get(), MARK, limit], |row| Ok((row.get(0)?, row.get(1)?)))
        .doing("cut the capture log")?;
    let newest = log::newest(connection)?;
    Ok(last.map(|last| if count < limit && end == newest { end } else { DbVersion::new(last) }))
}

fn count_range(connection: &Connection, first: DbVersion, last: DbVersion) -> Result<i64> {
    let sql = "select count(*) from main.cloudsync_log where seq between ?1 and ?2 and cols <> ?3";
    let mut statement = connection.prepare_cached(sql)?;
    statement.query_row(params![first.get(), last.get(), MARK], |row| row.get(0)).doing("count entries")
}

/// Puts the rows of a range into one frame, unless it grows too large and can still be cut.
fn build_range(
    replica: &mut Replica<'_>,
    first: DbVersion,
    last: DbVersion,
    is_single: bool,
) -> Result<Built> {
    let mut payload = PayloadBuilder::new();
    let (mut bytes, mut fitting) = (0, 0);
    for table in replica.tables.clone() {
        let bytes_max = if is_single { usize::MAX } else { UPLOAD_BODY_BYTES - bytes };
        let (rows, found) = match created::rows(replica, &table, (first, last), bytes_max)? {
            Some(created) => created,
            None => logged_rows(replica, &table, (first, last), bytes_max)?,
        };
        fitting += found;
        bytes += rows.byte_len();
        if bytes >= UPLOAD_BODY_BYTES && !is_single {
            return Ok(Built::TooLarge { fitting });
        }
        rows.finish(&mut payload);
    }
    if payload.is_empty() {
        return Ok(Built::Nothing);
    }
    let frame = encode_frame(&payload.finish());
    // Bytes that compress badly: half of the rows are sure to fit in the end.
    let is_large = frame.len() > UPLOAD_BYTES_MAX && !is_single;
    Ok(if is_large { Built::TooLarge { fitting: fitting / 2 } } else { Built::Frame(frame) })
}

/// Rows of a range as the log names them, and how many were looked at until they took up `bytes_max`.
fn logged_rows<'t>(
    replica: &mut Replica<'_>,
    table: &'t TrackedTable,
    range: (DbVersion, DbVersion),
    bytes_max: usize,
) -> Result<(TableRows<'t>, i64)> {
    let refused = rejected::keys(replica.connection, table)?;
    let mut rows = TableRows::new(table);
    let mut found = 0;
    for_each_logged_row(replica, table, range, Wanted::Values, &mut |replica, row| {
        if rows.byte_len() >= bytes_max {
            return Ok(());
        }
        found += 1;
        push_logged(replica, table, row, &refused, &mut rows)
    })?;
    Ok((rows, found))
}

/// Adds what one row's entries say, as far as this site still owns it.
fn push_logged(
    replica: &Replica<'_>,
    table: &TrackedTable,
    row: &LoggedRow,
    refused: &HashSet<Vec<u8>>,
    out: &mut TableRows<'_>,
) -> Result<()> {
    let own = replica.own();
    let Some(state) = &row.state else { return Ok(()) };
    if !state.is_alive() {
        if let Some(life) = state.life.filter(|life| life.stamp.site == own) {
            out.deleted(life.stamp, &row.key);
        }
        return push_parked(replica, table, row, state, out);
    }
    if !row.is_present {
        return Ok(());
    }
    let (key, values) = (refs(&row.key), refs(&row.values));
    let at = row.entries.last().map_or(DbVersion::default(), |entry| entry.seq);
    if !table_settings::is_shared(replica.connection, table, &row.key)?
        || !fits(replica, table, &key, &values, at)?
    {
        return Ok(());
    }
    let registers = metadata::registers_of(replica.connection, table, &row.key)?;
    let is_inserted = row.entries.iter().any(|entry| entry.captured == Captured::Inserted);
    let is_own = state.life_stamp().site == own;
    let is_one = matches!(table.rules.table, TableAlgorithm::Aws | TableAlgorithm::Gos);
    if ((is_inserted || is_one) && is_own) || refused.contains(&encode_key(key.iter().copied())) {
        let sent = register_cells::sent(table, &registers);
        out.whole(state, &key, &register_cells::laid_over(&values, &sent));
    } else if table.rules.are_plain() {
        out.cells(state, &row.key, &row.values, &own_columns(replica, table, row));
    } else {
        let named = named_columns(table, row);
        let part = register_cells::written_here(table, state, &registers, &row.values, &named, own);
        out.cells(&part.state, &row.key, &part.values, &part.columns);
    }
    Ok(())
}

/// Adds what was written here and is kept beside a deletion that came before it was sent: others have to show
/// it too when an older creation arrives.
fn push_parked(
    replica: &Replica<'_>,
    table: &TrackedTable,
    row: &LoggedRow,
    state: &RowState,
    out: &mut TableRows<'_>,
) -> Result<()> {
    let own = own_columns(replica, table, row);
    if !state.cells.iter().any(|cell| own.contains(cell.column)) {
        return Ok(());
    }
    let parked = parked::cells(replica.connection, table, &encode_key(refs(&row.key)))?;
    out.parked(state, &row.key, parked.iter().filter(|(id, _)| own.contains(*id)));
    Ok(())
}

/// Columns that a row's entries name and whose value this site still owns.
pub(crate) fn own_columns(replica: &Replica<'_>, table: &TrackedTable, row: &LoggedRow) -> ColumnSet {
    let own = replica.own();
    let named = named_columns(table, row);
    let state = row.state.clone().unwrap_or_default();
    // The greatest stamp of a register says nothing of its other entries.
    let is_own = |id: ColumnId| state.stamp_of(id).site == own || table.rules.of(id).is_register();
    table.column_ids().into_iter().filter(|id| named.contains(*id) && is_own(*id)).collect()
}

/// Columns that a row's entries name, with those of their groups.
fn named_columns(table: &TrackedTable, row: &LoggedRow) -> ColumnSet {
    let mut named = ColumnSet::default();
    for entry in &row.entries {
        match &entry.captured {
            Captured::Updated(set) => named.add(set),
            Captured::Inserted => named.add(&table.column_ids().into_iter().collect()),
            Captured::Deleted | Captured::Look | Captured::Baseline | Captured::Mark => {}
        }
    }
    if table.rules.are_plain() {
        return named;
    }
    let written: Vec<ColumnId> = table.column_ids().into_iter().filter(|id| named.contains(*id)).collect();
    table.rules.with_groups(&written).into_iter().collect()
}

/// Reads all columns of a row that are no key.
pub(crate) fn read_row(
    connection: &Connection,
    table: &TrackedTable,
    key: &[Value],
) -> Result<Option<Vec<Value>>> {
    let mut statement = connection.prepare_cached(&table.sql.row_read)?;
    let mut rows = statement.query(rusqlite::params_from_iter(binds(key)))?;
    match rows.next().doing("read a row")? {
        Some(row) => columns(row, 0, table.columns.len()).map(Some),
        None => Ok(None),
    }
}

/// Stores the next part of a baseline in the outbox; None when nothing of it was left to send.
fn next_baseline_upload(
    replica: &mut Replica<'_>,
    table: u32,
    first: DbVersion,
    at: DbVersion,
) -> Result<Option<Upload>> {
    let connection = replica.connection;
    let Some(table) = replica.table(table).cloned() else {
        log::delete_range(connection, first, at)?;
        return Ok(None);
    };
    let after = baseline_after(connection, table.id)?;
    let mut rows = TableRows::new(&table);
    let mut last_key = Vec::new();
    let is_last = for_each_baseline_row(replica, &table, after.as_deref(), &mut |_, key, values, state| {
        if rows.rows() > 0 && rows.byte_len() >= PAYLOAD_BYTES {
            return Ok(false);
        }
        if fits(replica, &table, key, values, at)? {
            rows.whole(state, key, values);
        }
        last_key = encode_key(key.iter().copied());
        Ok(true)
    })?;
    if rows.rows() == 0 {
        log::delete_range(connection, first, at)?;
        return Ok(None);
    }
    let part = first.get().max(at.get() - BASELINE_SPAN + 1);
    let last = if is_last { at } else { DbVersion::new(part) };
    let sql = "update main.cloudsync_tables set baseline_after = ?2 where id = ?1";
    let row: [&dyn ToSql; 2] = [&table.id, &last_key];
    connection.prepare_cached(sql)?.execute(row)?;
    outbox::store(connection, outbox::new_id()?, first, last, encode_frame(&rows.into_payload())).map(Some)
}

/// A change of one row as a payload of its own, in the form that this file stores.
pub(crate) fn single_row(
    table: &TrackedTable,
    kind: RowKind,
    stamp: Stamp,
    key: &[Value],
    cells: &[(usize, Stamp, ValueRef<'_>)],
) -> Vec<u8> {
    let mut rows = TableRows::new(table);
    let cells: Vec<_> =
        cells.iter().map(|(at, own, value)| (*at, (*own != stamp).then_some(*own), *value)).collect();
    rows.row(kind, stamp, key, &cells);
    rows.into_payload()
}
