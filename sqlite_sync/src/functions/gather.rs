//! `cloudsync_payload_encode` over lines of `cloudsync_changes`: puts them back together into rows.

use std::collections::BTreeMap;

use rusqlite::functions::{Aggregate, Context};
use rusqlite::types::ValueRef as Argument;
use shared_format::payload::encode_frame;
use shared_format::{Hlc, RowKind, SiteId, Stamp, Value, ValueRef, decode_key};

use super::arguments::{reach, text, wrong};
use crate::catalog::Replica;
use crate::changes::{PAYLOAD_BYTES, read_row};
use crate::emit::TableRows;
use crate::error::{Error, Reading, Result};
use crate::fold::fold;
use crate::metadata::{self, Registers};
use crate::sql::Unit;
use crate::sql::owned;
use crate::tracked_table::TrackedTable;
use crate::virtual_tables::LIFE;

const FUNCTION: &str = "cloudsync_payload_encode";

/// The aggregate.
pub(super) struct Encode;

/// Lines that belong to one row.
#[derive(Debug, Default)]
struct Lines {
    life: Option<(bool, Stamp)>,
    cells: Vec<(String, Stamp, Value)>,
}

/// Rows by table and key.
#[derive(Debug, Default)]
pub(super) struct Gathered(BTreeMap<(String, Vec<u8>), Lines>);

impl Aggregate<Gathered, Option<Vec<u8>>> for Encode {
    fn init(&self, _context: &mut Context<'_>) -> rusqlite::Result<Gathered> {
        Ok(Gathered::default())
    }

    fn step(&self, context: &mut Context<'_>, gathered: &mut Gathered) -> rusqlite::Result<()> {
        Ok(gathered.take(context)?)
    }

    fn finalize(
        &self,
        context: &mut Context<'_>,
        gathered: Option<Gathered>,
    ) -> rusqlite::Result<Option<Vec<u8>>> {
        match gathered {
            Some(gathered) => Ok(gathered.encode(context)?),
            None => Ok(None),
        }
    }
}

impl Gathered {
    /// Takes in one line: tbl, pk, col_name, col_value, col_version, db_version, site_id, cl, seq.
    fn take(&mut self, context: &Context<'_>) -> Result<()> {
        let wrong = |at, wanted| wrong(context, FUNCTION, at, wanted);
        let name = text(context, FUNCTION, 0)?;
        let Argument::Blob(pk) = context.get_raw(1) else { return Err(wrong(1, "a row key (BLOB)")) };
        let column = text(context, FUNCTION, 2)?;
        let Argument::Integer(version) = context.get_raw(4) else {
            return Err(wrong(4, "a version (INTEGER)"));
        };
        let site = match context.get_raw(6) {
            Argument::Blob(bytes) => SiteId::try_from(bytes).ok(),
            _other => None,
        };
        let site = site.ok_or_else(|| wrong(6, "a site id (BLOB of 16 bytes)"))?;
        let is_alive = match context.get_raw(7) {
            Argument::Integer(1) => true,
            Argument::Integer(2) => false,
            _other => return Err(wrong(7, "1 (alive) or 2 (deleted)")),
        };
        let stamp = Stamp { hlc: Hlc::from_sql(version), site };
        let lines = self.0.entry((name, pk.to_vec())).or_default();
        if column == LIFE {
            lines.life = Some((is_alive, stamp));
        } else {
            lines.cells.push((column, stamp, owned(context.get_raw(3))));
        }
        Ok(())
    }

    fn encode(self, context: &Context<'_>) -> Result<Option<Vec<u8>>> {
        let connection = reach(context)?;
        let mut replica = Replica::open(&connection)?;
        if replica.tables.iter().any(|table| table.rules.have_registers()) {
            let unit = Unit::begin(&connection)?;
            fold(&mut replica)?;
            unit.commit()?;
        }
        let mut frames = Vec::new();
        let mut open: Option<(&TrackedTable, TableRows<'_>)> = None;
        // Lines may have been read long ago: only what is still alive has seen the deletions that are gone here.
        let mut is_current = true;
        let close = |rows: TableRows<'_>, is_current: bool| {
            encode_frame(&if is_current { rows.into_file_payload() } else { rows.into_payload() })
        };
        for ((name, pk), lines) in self.0 {
            let table = replica.table_named(&name).ok_or(Error::NotTracked { table: name })?;
            let is_full = |rows: &TableRows<'_>| rows.byte_len() >= PAYLOAD_BYTES;
            if let Some((_, rows)) = open.take_if(|(known, rows)| known.id != table.id || is_full(rows)) {
                frames.extend(close(rows, std::mem::replace(&mut is_current, true)));
            }
            let (_, rows) = open.get_or_insert_with(|| (table, TableRows::new(table)));
            let key = decode_key(&pk).reading("row key")?;
            if key.len() != table.key.len() || key.contains(&Value::Null) {
                let found = format!("a key of {} parts, NULL or not", key.len());
                let wanted = "a row key of the table, without NULL";
                return Err(Error::Argument { function: FUNCTION, index: 2, found, wanted });
            }
            let is_creation = lines.life.is_some_and(|(is_alive, _)| is_alive);
            is_current &= !is_creation || read_row(&connection, table, &key)?.is_some();
            let registers = metadata::registers_of(&connection, table, &key)?;
            lines.push(table, &key, &registers, rows)?;
        }
        frames.extend(open.map(|(_, rows)| close(rows, is_current)).unwrap_or_default());
        Ok((!frames.is_empty()).then_some(frames))
    }
}

impl Lines {
    /// Adds the row: a creation with its cells, a deletion and what is newer, or cells alone.
    fn push(
        mut self,
        table: &TrackedTable,
        key: &[Value],
        registers: &Registers,
        rows: &mut TableRows<'_>,
    ) -> Result<()> {
        // A line shows what a user sees; what travels is the register behind it.
        for (name, stamp, value) in &mut self.cells {
            let kept = table.column_named(name).and_then(|at| registers.get(&table.columns[at].id));
            if let Some((kept, greatest)) = kept.and_then(|kept| Some((kept, kept.register.greatest()?))) {
                (*stamp, *value) = (greatest, Value::Blob(kept.register.encode()));
            }
        }
        let mut cells = Vec::with_capacity(self.cells.len());
        for (name, stamp, value) in &self.cells {
            let at = table
                .column_named(name)
                .ok_or_else(|| Error::ColumnMissing { table: table.name.clone(), column: name.clone() })?;
            cells.push((at, *stamp, value.as_ref()));
        }
        cells.sort_by_key(|(at, stamp, _)| (*at, std::cmp::Reverse(*stamp)));
        cells.dedup_by_key(|(at, _, _)| *at);
        match self.life {
            Some((true, base)) => {
                let cells: Vec<(usize, Option<Stamp>, ValueRef<'_>)> = cells
                    .into_iter()
                    .filter(|(_, stamp, _)| *stamp >= base)
                    .map(|(at, stamp, value)| (at, (stamp != base).then_some(stamp), value))
                    .collect();
                rows.row(RowKind::Created, base, key, &cells);
            }
            Some((false, stamp)) => {
                rows.deleted(stamp, key);
                cells.retain(|(_, own, _)| *own > stamp);
                rows.push_cells(key, &cells);
            }
            None => {
                rows.push_cells(key, &cells);
            }
        }
        Ok(())
    }
}
