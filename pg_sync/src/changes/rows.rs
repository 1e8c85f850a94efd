//! Puts rows of one table into payload frames.

use shared_format::payload::{ChangesBuilder, Collection, PayloadBuilder, encode_frame};
use shared_format::{Hlc, RowKind, Stamp, Value, ValueRef};

use super::Changed;
use crate::catalog::Tracked;
use crate::collect;
use crate::edge::session::as_owner;

/// Rows of one table on their way into a frame.
pub(super) struct Rows {
    changes: ChangesBuilder,
    definition: shared_format::payload::TableDefinition,
    horizon: Hlc,
}

impl Rows {
    /// Starts without rows.
    pub(super) fn new(table: &Tracked) -> Self {
        let ids = table.column_ids();
        let changes =
            ChangesBuilder::new(table.number(), table.incarnation, table.version, table.key.len(), &ids);
        Self { changes, definition: table.definition(), horizon: Hlc::ZERO }
    }

    /// Starts without rows of what is here now: no deletion below the horizon is unknown to it.
    pub(super) fn of_present(table: &Tracked) -> Self {
        Self { horizon: as_owner(|| collect::horizon(table)), ..Self::new(table) }
    }

    /// Bytes that the rows take up, nearly.
    pub(super) fn byte_len(&self) -> usize {
        self.changes.byte_len()
    }

    /// Adds a row as it is: whole, or its deletion and what is parked beside it.
    pub(super) fn push(&mut self, changed: &Changed) {
        let state = &changed.state;
        let cell = |(place, value): &(usize, Value)| {
            let column = changed.table.columns.get(*place)?;
            let id = column.column_id();
            Some((*place, state.cell(id), changed.registers.get(&id).unwrap_or(value).clone()))
        };
        let cells: Vec<(usize, Option<Stamp>, Value)> = changed.values.iter().filter_map(cell).collect();
        let refs = cells.iter().map(|(place, stamp, value)| (*place, *stamp, value.as_ref()));
        if state.is_alive() {
            let carried: Vec<_> = refs.filter(|(_, own, _)| *own != Some(Stamp::ZERO)).collect();
            self.row(RowKind::Created, state.life_stamp(), &changed.key, &carried);
            return;
        }
        if let Some(life) = state.life {
            self.row(RowKind::Deleted, life.stamp, &changed.key, &[]);
        }
        let parked: Vec<_> = refs.filter_map(|(place, own, value)| Some((place, own?, value))).collect();
        self.cells(&changed.key, &parked);
    }

    /// Adds cells that each have a stamp.
    pub(super) fn cells(&mut self, key: &[Value], cells: &[(usize, Stamp, ValueRef<'_>)]) {
        let Some((_, first, _)) = cells.first().copied() else { return };
        let cells: Vec<_> = cells
            .iter()
            .map(|(at, stamp, value)| (*at, (*stamp != first).then_some(*stamp), *value))
            .collect();
        self.row(RowKind::Cells, first, key, &cells);
    }

    /// Adds a row.
    pub(super) fn row(
        &mut self,
        kind: RowKind,
        stamp: Stamp,
        key: &[Value],
        cells: &[(usize, Option<Stamp>, ValueRef<'_>)],
    ) {
        let key: Vec<ValueRef<'_>> = key.iter().map(Value::as_ref).collect();
        self.changes.row(kind, stamp, &key, cells);
    }

    /// The frame, if there are rows.
    pub(super) fn finish(self) -> Option<Vec<u8>> {
        if self.changes.rows() == 0 {
            return None;
        }
        let mut payload = PayloadBuilder::new();
        payload.definition(&self.definition);
        payload.push(self.changes);
        if self.horizon > Hlc::ZERO {
            let (table, incarnation) = (self.definition.table, self.definition.incarnation);
            payload.collection(Collection { table, incarnation, horizon: self.horizon });
        }
        Some(encode_frame(&payload.finish()))
    }
}
