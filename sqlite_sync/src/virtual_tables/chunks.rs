//! `cloudsync_payload_chunks`: what changed in a range of numbers, as payloads that each stay below a size.

use std::ffi::{CStr, c_int};

use rusqlite::Connection;
use rusqlite::vtab::{IndexConstraintOp, IndexInfo};
use shared_format::Value;
use shared_format::payload::encode_frame;

use super::module::Listing;
use super::walk::{Changed, Walk, Wanted};
use crate::emit::TableRows;
use crate::error::{Error, Result};
use crate::log::{self, DbVersion};
use crate::register_cells;
use crate::settings;
use crate::sql::refs;
use crate::table_settings;

/// Place of the first hidden column; the arguments come in this order.
const FIRST_ARGUMENT: c_int = 8;

/// Arguments: since, until, bytes.
const ARGUMENTS: usize = 3;

/// Key of `cloudsync_set` for the size of chunks.
const SIZE_SETTING: &str = "payload_max_chunk_size";

/// Size of a chunk when nobody says another: 5 MiB leaves room below what proxies let through.
const CHUNK_BYTES: i64 = 5 * 1024 * 1024;

/// Smallest size: below it, definitions outweigh rows.
const CHUNK_BYTES_MIN: i64 = 16 * 1024;

/// A walk through the chunks.
pub(super) struct Chunks {
    walk: Walk,
    bytes_max: usize,
    watermark: DbVersion,
    arguments: [Value; ARGUMENTS],
    /// The row that begins the next chunk.
    first: Option<Changed>,
    index: i64,
}

impl Listing for Chunks {
    const NAME: &'static CStr = c"cloudsync_payload_chunks";
    const DECLARATION: &'static CStr = c"create table x (payload blob, chunk_index integer,
        payload_size integer, rows integer, db_version_min integer, db_version_max integer,
        watermark_db_version integer, is_final integer,
        since_db_version hidden, until_db_version hidden, max_bytes hidden)";

    fn plan(info: &mut IndexInfo) -> rusqlite::Result<bool> {
        let mut chosen = [None; ARGUMENTS];
        for (at, constraint) in info.constraints().enumerate() {
            let Ok(argument) = usize::try_from(constraint.column() - FIRST_ARGUMENT) else { continue };
            let is_argument = argument < ARGUMENTS
                && constraint.operator() == IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_EQ;
            if is_argument && !constraint.is_usable() {
                return Ok(false);
            }
            if is_argument {
                chosen[argument] = Some(at);
            }
        }
        let (mut plan, mut places) = (0, 0);
        for (argument, at) in chosen.into_iter().enumerate() {
            let Some(at) = at else { continue };
            places += 1;
            plan |= 1 << argument;
            let mut usage = info.constraint_usage(at);
            usage.set_argv_index(places);
            usage.set_omit(true);
        }
        info.set_estimated_cost(1_000_000.0);
        info.set_idx_num(plan);
        Ok(true)
    }

    fn begin(connection: &Connection, plan: c_int, constraints: &[Value]) -> Result<Self> {
        let mut arguments = [const { Value::Null }; ARGUMENTS];
        let given = (0..ARGUMENTS).filter(|argument| plan & (1 << argument) != 0);
        for (argument, value) in given.zip(constraints) {
            arguments[argument] = value.clone();
        }
        let number = |at: usize| argument(&arguments[at], at);
        let (since, until) = (number(0)?.unwrap_or(0), number(1)?);
        let is_set_up = settings::is_set_up(connection)?;
        let set = if is_set_up { table_settings::file(connection, SIZE_SETTING)? } else { None };
        let bytes_max = match (number(2)?, set) {
            (Some(bytes), _) | (None, Some(Value::Integer(bytes))) => bytes,
            (None, _other) => CHUNK_BYTES,
        };
        let newest = if is_set_up { log::newest(connection)? } else { DbVersion::default() };
        let watermark = until.map_or(newest, |until| newest.min(DbVersion::new(until)));
        let wanted = Wanted { after: DbVersion::new(since), until: watermark, table: None };
        let mut walk = Walk::begin(connection, wanted)?;
        let first = walk.next_row(connection)?;
        let bytes_max = usize::try_from(bytes_max.max(CHUNK_BYTES_MIN)).unwrap_or(usize::MAX);
        Ok(Self { walk, bytes_max, watermark, arguments, first, index: 0 })
    }

    fn next_row(&mut self, connection: &Connection) -> Result<Option<Vec<Value>>> {
        let Some(first) = self.first.take() else { return Ok(None) };
        let table = std::rc::Rc::clone(&first.table);
        let (mut least, mut greatest) = (first.seq, first.seq);
        let mut rows = TableRows::new(&table);
        let mut next = Some(first);
        let mut count = 0;
        // A payload of several tables needs several frames; one frame a chunk keeps each within its size.
        while let Some(changed) = next.take() {
            if !std::rc::Rc::ptr_eq(&changed.table, &table)
                || (count > 0 && rows.byte_len() >= self.bytes_max)
            {
                self.first = Some(changed);
                break;
            }
            push(&mut rows, &changed);
            (least, greatest) = (least.min(changed.seq), greatest.max(changed.seq));
            count += 1;
            next = self.walk.next_row(connection)?;
        }
        let frame = encode_frame(&rows.into_file_payload());
        let size = i64::try_from(frame.len()).unwrap_or(i64::MAX);
        let index = self.index;
        self.index += 1;
        let mut row = vec![
            Value::Blob(frame),
            Value::Integer(index),
            Value::Integer(size),
            Value::Integer(count),
            Value::Integer(least.get()),
            Value::Integer(greatest.get()),
            Value::Integer(self.watermark.get()),
            Value::Integer(i64::from(self.first.is_none())),
        ];
        row.extend(self.arguments.iter().cloned());
        Ok(Some(row))
    }
}

/// An argument that is a number from 0 on; NULL is none.
fn argument(value: &Value, at: usize) -> Result<Option<i64>> {
    let found = match value {
        Value::Null => return Ok(None),
        Value::Integer(number) if *number >= 0 => return Ok(Some(*number)),
        Value::Integer(number) => number.to_string(),
        _other => String::from("of another type"),
    };
    let function = "cloudsync_payload_chunks";
    Err(Error::Argument { function, index: at + 1, found, wanted: "a number from 0 on" })
}

fn push(rows: &mut TableRows<'_>, changed: &Changed) {
    let state = &changed.state;
    if state.is_alive() {
        let values: Vec<_> = changed.values.iter().map(|(_, value)| value.as_ref()).collect();
        let sent = register_cells::sent(&changed.table, &changed.registers);
        rows.whole(state, &refs(&changed.key), &register_cells::laid_over(&values, &sent));
        return;
    }
    if let Some(life) = state.life {
        rows.deleted(life.stamp, &changed.key);
    }
    if !state.cells.is_empty() {
        rows.parked(state, &changed.key, &changed.values);
    }
}
