//! Puts rows into a payload: which cells of a row travel, and under which stamps.

use shared_format::payload::{ChangesBuilder, Collection, PayloadBuilder};
use shared_format::{ColumnId, Hlc, RowKind, RowState, Stamp, Value, ValueRef};

use crate::log::ColumnSet;
use crate::sql::refs;
use crate::tracked_table::TrackedTable;

/// One cell on its way into a payload: place among the table's columns, own stamp, value.
type Cell<'a> = (usize, Option<Stamp>, ValueRef<'a>);

/// Rows of one table on their way into a payload.
pub(crate) struct TableRows<'t> {
    table: &'t TrackedTable,
    changes: ChangesBuilder,
}

impl<'t> TableRows<'t> {
    pub(crate) fn new(table: &'t TrackedTable) -> Self {
        Self { table, changes: Self::builder(table) }
    }

    /// What rows of a table are put into.
    pub(crate) fn builder(table: &TrackedTable) -> ChangesBuilder {
        ChangesBuilder::new(table.id, table.incarnation, table.version, table.key.len(), &table.column_ids())
    }

    pub(crate) fn rows(&self) -> usize {
        self.changes.rows()
    }

    pub(crate) fn byte_len(&self) -> usize {
        self.changes.byte_len()
    }

    /// Adds a live row with every column that its creation carried or that was written since.
    pub(crate) fn whole(&mut self, state: &RowState, key: &[ValueRef<'_>], values: &[ValueRef<'_>]) {
        let base = state.life_stamp();
        let cells: Vec<Cell<'_>> = self
            .table
            .columns
            .iter()
            .zip(values)
            .enumerate()
            .filter_map(|(at, (column, value))| match state.cell(column.id) {
                Some(Stamp::ZERO) => None,
                own => Some((at, own, *value)),
            })
            .collect();
        self.changes.row(RowKind::Created, base, key, &cells);
    }

    /// Adds the cells of a live row that are in `wanted`; says whether there were any.
    pub(crate) fn cells(
        &mut self,
        state: &RowState,
        key: &[Value],
        values: &[Value],
        wanted: &ColumnSet,
    ) -> bool {
        let cells: Vec<(usize, Stamp, ValueRef<'_>)> = self
            .table
            .columns
            .iter()
            .zip(values)
            .enumerate()
            .filter(|(_, (column, _))| wanted.contains(column.id))
            .map(|(at, (column, value))| (at, state.stamp_of(column.id), value.as_ref()))
            .collect();
        self.push_cells(key, &cells)
    }

    /// Adds cells that are kept beside a row which is not alive.
    pub(crate) fn parked<'a>(
        &mut self,
        state: &RowState,
        key: &[Value],
        values: impl IntoIterator<Item = &'a (ColumnId, Value)>,
    ) -> bool {
        let mut cells: Vec<_> = values
            .into_iter()
            .filter_map(|(id, value)| Some((self.table.position(*id)?, state.cell(*id)?, value.as_ref())))
            .collect();
        cells.sort_by_key(|(at, _, _)| *at);
        self.push_cells(key, &cells)
    }

    /// Adds cells that each have a stamp. The first one's stamp stands for the row and is said once.
    pub(crate) fn push_cells(&mut self, key: &[Value], cells: &[(usize, Stamp, ValueRef<'_>)]) -> bool {
        let Some((_, row, _)) = cells.first().copied() else { return false };
        let cells: Vec<Cell<'_>> =
            cells.iter().map(|(at, stamp, value)| (*at, (*stamp != row).then_some(*stamp), *value)).collect();
        self.changes.row(RowKind::Cells, row, &refs(key), &cells);
        true
    }

    /// Adds a deleted row.
    pub(crate) fn deleted(&mut self, stamp: Stamp, key: &[Value]) {
        self.changes.row(RowKind::Deleted, stamp, &refs(key), &[]);
    }

    /// Adds a row as it came.
    pub(crate) fn row(&mut self, kind: RowKind, stamp: Stamp, key: &[Value], cells: &[Cell<'_>]) {
        self.changes.row(kind, stamp, &refs(key), cells);
    }

    /// Says of the row that was added last who read it, and who reads it.
    pub(crate) fn readers(&mut self, before: &[String], now: &[String]) {
        self.changes.old_scopes(before);
        self.changes.new_scopes(now);
    }

    /// Puts the rows and their definition into a payload, if there are any.
    pub(crate) fn finish(self, payload: &mut PayloadBuilder) {
        if self.changes.rows() > 0 {
            payload.definition(&self.table.definition());
            payload.push(self.changes);
        }
    }

    /// Makes a payload of these rows for a file: it also says which deletions they have seen.
    pub(crate) fn into_file_payload(self) -> Vec<u8> {
        let TrackedTable { id: table, incarnation, horizon, .. } = *self.table;
        let mut payload = PayloadBuilder::new();
        self.finish(&mut payload);
        if horizon > Hlc::ZERO {
            payload.collection(Collection { table, incarnation, horizon });
        }
        payload.finish()
    }

    /// Makes a payload of these rows alone.
    pub(crate) fn into_payload(self) -> Vec<u8> {
        let mut payload = PayloadBuilder::new();
        self.finish(&mut payload);
        payload.finish()
    }
}
