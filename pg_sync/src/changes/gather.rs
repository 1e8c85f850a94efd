//! `cloudsync_payload_encode` over lines of `cloudsync_changes`: puts them back together into rows.

use std::collections::BTreeMap;

use pgrx::pg_sys::Datum;
use shared_format::{Hlc, RowKind, SiteId, Stamp, Value, ValueRef, decode_key};

use super::lines::LIFE;
use super::rows::Rows;
use super::{as_caller, metadata_of};
use crate::catalog::{self, Tracked};
use crate::edge::session::as_owner;
use crate::error::SyncError;
use crate::ruled::{self, Registers};

/// One line, as far as a payload needs it.
pub(crate) struct Line<'a> {
    pub(crate) table: &'a str,
    pub(crate) row_key: &'a [u8],
    pub(crate) column: &'a str,
    pub(crate) value: Option<&'a str>,
    pub(crate) version: i64,
    pub(crate) site: &'a [u8],
    pub(crate) life: i64,
}

/// Lines that belong to one row.
#[derive(Debug, Default)]
struct Cells {
    life: Option<(bool, Stamp)>,
    cells: Vec<(String, Stamp, Option<String>)>,
}

/// Rows by table and key.
#[derive(Debug, Default)]
pub(crate) struct Gathered(BTreeMap<(String, Vec<u8>), Cells>);

impl Gathered {
    /// Takes in one line.
    pub(crate) fn take(&mut self, line: &Line<'_>) -> Result<(), SyncError> {
        let site = SiteId::try_from(line.site).map_err(|_other| SyncError::Parameter {
            parameter: "site_id",
            found: format!("{} bytes", line.site.len()),
            wanted: "16 bytes",
        })?;
        let stamp = Stamp { hlc: Hlc::from_sql(line.version), site };
        let is_alive = match line.life {
            1 => true,
            2 => false,
            other => {
                let (found, wanted) = (other.to_string(), "1 (alive) or 2 (deleted)");
                return Err(SyncError::Parameter { parameter: "cl", found, wanted });
            }
        };
        let row = self.0.entry((line.table.to_owned(), line.row_key.to_vec())).or_default();
        if line.column == LIFE {
            row.life = Some((is_alive, stamp));
        } else {
            row.cells.push((line.column.to_owned(), stamp, line.value.map(str::to_owned)));
        }
        Ok(())
    }

    /// Frames of all rows; None when there are none.
    pub(crate) fn encode(&self) -> Result<Option<Vec<u8>>, SyncError> {
        let tables = as_owner(catalog::tables);
        let mut frames = Vec::new();
        let mut open: Option<(&String, Rows)> = None;
        for ((name, pk), row) in &self.0 {
            let table = tables.iter().find(|table| table.client_name == *name);
            let table = table.ok_or_else(|| SyncError::Untracked(name.clone()))?;
            let key = decode_key(pk)?;
            if key.len() != table.key.len() || key.contains(&Value::Null) {
                let (found, wanted) = (key.len(), table.key.len());
                return Err(SyncError::KeyShape { table: name.clone(), found, wanted });
            }
            if let Some((_, rows)) = open.take_if(|(known, _)| *known != name) {
                frames.extend(rows.finish().unwrap_or_default());
            }
            let (_, rows) = open.get_or_insert_with(|| (name, Rows::new(table)));
            row.push(table, &key, &registers(table, &key)?, rows)?;
        }
        frames.extend(open.and_then(|(_, rows)| rows.finish()).unwrap_or_default());
        Ok((!frames.is_empty()).then_some(frames))
    }
}

/// The registers of a row that the caller may see; none where there are none, or where it is gone.
fn registers(table: &Tracked, key: &[Value]) -> Result<Registers, SyncError> {
    if !table.ruled.rules.have_registers() {
        return Ok(Registers::new());
    }
    let datums: Vec<Option<Datum>> =
        table.key.iter().zip(key).map(|(column, part)| column.codec.stored_datum(part.as_ref())).collect();
    if as_caller(table, std::slice::from_ref(&datums), "true").is_empty() {
        return Ok(Registers::new());
    }
    match as_owner(|| metadata_of(table, &datums)) {
        Some(found) => ruled::unpack(table, &found.registers),
        None => Ok(Registers::new()),
    }
}

impl Cells {
    /// Adds the row: a creation with its cells, a deletion and what is newer, or cells alone.
    fn push(
        &self,
        table: &Tracked,
        key: &[Value],
        registers: &Registers,
        rows: &mut Rows,
    ) -> Result<(), SyncError> {
        let mut cells: Vec<(usize, Stamp, Value)> = Vec::with_capacity(self.cells.len());
        for (name, stamp, text) in &self.cells {
            let place = table.columns.iter().position(|column| column.name == *name);
            let found = place.and_then(|place| Some((place, table.columns.get(place)?)));
            let (place, column) = found
                .ok_or_else(|| SyncError::NoColumn { table: table.name.clone(), column: name.clone() })?;
            // A line shows what a user sees; what travels is the register behind it.
            let id = column.column_id();
            let kept = registers.get(&id);
            if let Some((kept, greatest)) = kept.and_then(|kept| Some((kept, kept.register.greatest()?))) {
                cells.push((place, greatest, Value::Blob(kept.register.encode())));
                continue;
            }
            let datum = column.codec.datum(text.as_deref().map_or(ValueRef::Null, ValueRef::Text));
            cells.push((place, *stamp, column.codec.value(datum).to_owned_value()));
        }
        cells.sort_by_key(|(place, stamp, _)| (*place, std::cmp::Reverse(*stamp)));
        cells.dedup_by_key(|(place, _, _)| *place);
        let cells: Vec<(usize, Stamp, ValueRef<'_>)> =
            cells.iter().map(|(place, stamp, value)| (*place, *stamp, value.as_ref())).collect();
        match self.life {
            Some((true, base)) => {
                let cells: Vec<_> = cells
                    .into_iter()
                    .filter(|(_, stamp, _)| *stamp >= base)
                    .map(|(place, stamp, value)| (place, (stamp != base).then_some(stamp), value))
                    .collect();
                rows.row(RowKind::Created, base, key, &cells);
            }
            Some((false, stamp)) => {
                rows.row(RowKind::Deleted, stamp, key, &[]);
                let newer: Vec<_> = cells.into_iter().filter(|(_, own, _)| *own > stamp).collect();
                rows.cells(key, &newer);
            }
            None => rows.cells(key, &cells),
        }
        Ok(())
    }
}
