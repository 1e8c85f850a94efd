//! Walks through everything that changed in a range of numbers, row by row, as it would be after a fold.
//!
//! Writes nothing: entries that are not folded yet are laid over the metadata in memory. Reads in batches, so
//! that no statement stays open between two rows.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use rusqlite::Connection;
use rusqlite::types::ToSql;
use shared_format::{ColumnId, RowState, SiteId, Value, encode_key};

use crate::catalog::Replica;
use crate::changes::read_row;
use crate::error::{Doing, Result};
use crate::fold;
use crate::log::DbVersion;
use crate::metadata::{self, Registers, STATE_COLUMNS};
use crate::parked;
use crate::settings::Sites;
use crate::sql::{Bind, binds, columns, refs};
use crate::table_settings;
use crate::tracked_table::TrackedTable;

/// Rows that are read at a time.
const BATCH_ROWS: usize = 256;

/// Bytes after which a batch ends early.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// Which changes are wanted.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) after: DbVersion,
    pub(super) until: DbVersion,
    /// Only this table; None for all.
    pub(super) table: Option<String>,
}

/// A row that changed, with what it is now.
#[derive(Debug)]
pub(super) struct Changed {
    pub(super) table: Rc<TrackedTable>,
    pub(super) key: Vec<Value>,
    pub(super) state: RowState,
    pub(super) seq: DbVersion,
    /// Every column of a live row; otherwise what is parked beside it.
    pub(super) values: Vec<(ColumnId, Value)>,
    /// Of a live row.
    pub(super) registers: Registers,
}

/// Rows as they are after their unfolded entries, by encoded key.
type Overlay = HashMap<Vec<u8>, (Vec<Value>, RowState, Registers, DbVersion)>;

/// Where a table's rows come from, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Known,
    Unfolded,
    Baseline,
}

/// A walk that has come to a certain row.
pub(super) struct Walk {
    wanted: Wanted,
    sites: Option<Sites>,
    tables: VecDeque<(Rc<TrackedTable>, Overlay)>,
    part: Part,
    after: Option<Vec<Value>>,
    ready: VecDeque<Changed>,
}

impl Walk {
    /// Begins; of a file without tracked tables there is nothing to walk through.
    pub(super) fn begin(connection: &Connection, wanted: Wanted) -> Result<Self> {
        let mut tables = VecDeque::new();
        let mut sites = None;
        if let Some(mut replica) = Replica::load(connection)? {
            let wants = |table: &TrackedTable| {
                table.enabled
                    && wanted.table.as_ref().is_none_or(|name| name.eq_ignore_ascii_case(&table.name))
            };
            for table in replica.tables.clone().into_iter().filter(|table| wants(table)) {
                let mut overlay = Overlay::new();
                fold::overlay(&mut replica, &table, &mut |key, state, registers, seq| {
                    overlay.insert(encode_key(refs(key)), (key.to_vec(), state, registers, seq));
                })?;
                tables.push_back((table, overlay));
            }
            sites = Some(replica.sites);
        }
        Ok(Self { wanted, sites, tables, part: Part::Known, after: None, ready: VecDeque::new() })
    }

    /// This file's own site.
    pub(super) fn own(&self) -> SiteId {
        self.sites.as_ref().map_or(SiteId::ZERO, Sites::own)
    }

    /// The next row.
    pub(super) fn next_row(&mut self, connection: &Connection) -> Result<Option<Changed>> {
        loop {
            if let Some(row) = self.ready.pop_front() {
                return Ok(Some(row));
            }
            let Some((table, overlay)) = self.tables.pop_front() else { return Ok(None) };
            let is_part_done = match self.part {
                Part::Known => self.read_known(connection, &table, &overlay)?,
                Part::Unfolded => self.read_unfolded(connection, &table, &overlay)?,
                Part::Baseline => self.read_baseline(connection, &table, &overlay)?,
            };
            let next = match (is_part_done, self.part) {
                (false, part) => part,
                (true, Part::Known) => Part::Unfolded,
                (true, Part::Unfolded) => Part::Baseline,
                (true, Part::Baseline) => {
                    (self.part, self.after) = (Part::Known, None);
                    continue;
                }
            };
            if is_part_done {
                self.after = None;
            }
            self.part = next;
            self.tables.push_front((table, overlay));
        }
    }

    fn wants(&self, seq: DbVersion) -> bool {
        seq > self.wanted.after && seq <= self.wanted.until
    }

    fn push(
        &mut self,
        connection: &Connection,
        table: &Rc<TrackedTable>,
        key: Vec<Value>,
        (state, registers): (RowState, Registers),
        seq: DbVersion,
        row: Option<Vec<Value>>,
    ) -> Result<()> {
        let values = match row {
            Some(row) if state.is_alive() => {
                if !table_settings::is_shared(connection, table, &key)? {
                    return Ok(());
                }
                table.column_ids().into_iter().zip(row).collect()
            }
            None if state.is_alive() => return Ok(()),
            _dead if state.cells.is_empty() => Vec::new(),
            _dead => parked::cells(connection, table, &encode_key(refs(&key)))?,
        };
        self.ready.push_back(Changed { table: Rc::clone(table), key, state, seq, values, registers });
        Ok(())
    }

    /// Rows with metadata that no unfolded entry names; says whether there are no more.
    fn read_known(
        &mut self,
        connection: &Connection,
        table: &Rc<TrackedTable>,
        overlay: &Overlay,
    ) -> Result<bool> {
        let Some(sites) = self.sites.take() else { return Ok(true) };
        let key_len = table.key.len();
        let beyond = self.after.as_ref().map(|_| beyond(table, "m.", true)).unwrap_or_default();
        let sql = format!(
            "select {state}, t.{first} is not null, {key}{columns}
             from {metadata} as m left join {rows} as t on {joined}
             where m.seq > ?1 and m.seq <= ?2{beyond} order by {key}",
            state = metadata::state_columns("m."),
            first = table.key[0].quoted(),
            key = table.log_key("m."),
            columns = table.and_other_columns("t."),
            metadata = table.metadata(),
            rows = table.quoted(),
            joined = table.key_equals_log("t", "m"),
        );
        let mut statement = connection.prepare(&sql).doing("read changed rows")?;
        let (after, until) = (self.wanted.after.get(), self.wanted.until.get());
        let last = self.after.take().unwrap_or_default();
        let place = binds(&last);
        let mut parameters: Vec<&dyn ToSql> = vec![&after, &until];
        parameters.extend(place.iter().map(|bind: &Bind<'_>| bind as &dyn ToSql));
        let mut rows = statement.query(parameters.as_slice())?;
        let mut batch = Batch::default();
        while let Some(row) = rows.next().doing("read changed rows")? {
            let key = columns(row, STATE_COLUMNS + 1, key_len)?;
            let state = metadata::state(&sites, table, row, 0)?;
            let is_overlaid = overlay.contains_key(&encode_key(refs(&key)));
            if let Some(state) = state.filter(|_| !is_overlaid) {
                let is_present: bool = row.get(STATE_COLUMNS)?;
                let values = columns(row, STATE_COLUMNS + 1 + key_len, table.columns.len())?;
                let seq = DbVersion::new(row.get(STATE_COLUMNS - 1)?);
                batch.bytes += byte_len(&values);
                let kept = (state, metadata::registers(table, row, 0)?);
                self.push(connection, table, key.clone(), kept, seq, is_present.then_some(values))?;
            }
            if batch.is_full_after(key) {
                break;
            }
        }
        self.sites = Some(sites);
        self.after = batch.last;
        Ok(self.after.is_none())
    }

    fn read_unfolded(
        &mut self,
        connection: &Connection,
        table: &Rc<TrackedTable>,
        overlay: &Overlay,
    ) -> Result<bool> {
        let mut rows: Vec<_> = overlay.values().filter(|(_, _, _, seq)| self.wants(*seq)).collect();
        rows.sort_unstable_by_key(|(_, _, _, seq)| *seq);
        for (key, state, registers, seq) in rows {
            let row = read_row(connection, table, key)?;
            self.push(connection, table, key.clone(), (state.clone(), registers.clone()), *seq, row)?;
        }
        Ok(true)
    }

    /// Rows that were there before the table was tracked and were not written since.
    fn read_baseline(
        &mut self,
        connection: &Connection,
        table: &Rc<TrackedTable>,
        overlay: &Overlay,
    ) -> Result<bool> {
        let Some(seq) = table.baseline.map(DbVersion::new).filter(|seq| self.wants(*seq)) else {
            return Ok(true);
        };
        let key_len = table.key.len();
        let beyond = self.after.as_ref().map(|_| beyond(table, "t.", false)).unwrap_or_default();
        let sql = format!(
            "select {key}{columns} from {rows} as t
             where not exists (select 1 from {metadata} as m where {known}) and {whole}{beyond} order by {key}",
            key = table.key_columns("t."),
            columns = table.and_other_columns("t."),
            rows = table.quoted(),
            metadata = table.metadata(),
            known = table.metadata_equals_key("m", "t"),
            whole = table.key_is_whole("t."),
        );
        let mut statement = connection.prepare(&sql).doing("read the baseline")?;
        let last = self.after.take().unwrap_or_default();
        let mut rows = statement.query(rusqlite::params_from_iter(binds(&last)))?;
        let state = metadata::baseline(table, self.own());
        let mut batch = Batch::default();
        while let Some(row) = rows.next().doing("read the baseline")? {
            let key = columns(row, 0, key_len)?;
            if !overlay.contains_key(&encode_key(refs(&key))) {
                let values = columns(row, key_len, table.columns.len())?;
                batch.bytes += byte_len(&values);
                let kept = (state.clone(), Registers::new());
                self.push(connection, table, key.clone(), kept, seq, Some(values))?;
            }
            if batch.is_full_after(key) {
                break;
            }
        }
        self.after = batch.last;
        Ok(self.after.is_none())
    }
}

/// Counts what a batch holds.
#[derive(Default)]
struct Batch {
    rows: usize,
    bytes: usize,
    /// The key after which the next batch begins, once this one is full.
    last: Option<Vec<Value>>,
}

impl Batch {
    fn is_full_after(&mut self, key: Vec<Value>) -> bool {
        self.rows += 1;
        let is_full = self.rows >= BATCH_ROWS || self.bytes >= BATCH_BYTES;
        self.last = is_full.then_some(key);
        is_full
    }
}

/// ` and (key) > (?, ...)`: after two parameters for metadata, after none for the user's table.
fn beyond(table: &TrackedTable, prefix: &str, is_metadata: bool) -> String {
    let (key, first) = if is_metadata { (table.log_key(prefix), 3) } else { (table.key_columns(prefix), 1) };
    format!(" and ({key}) > ({})", table.key_places(first))
}

fn byte_len(values: &[Value]) -> usize {
    let size = |value: &Value| match value {
        Value::Text(text) => text.len(),
        Value::Blob(bytes) | Value::RawText(bytes) => bytes.len(),
        _number => 8,
    };
    values.iter().map(size).sum()
}
