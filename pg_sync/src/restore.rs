//! What a restored database keeps in the library's own encoding, brought to the column ids that it has now.

use shared_format::payload::{ChangesBuilder, Payload, PayloadBuilder};
use shared_format::{ColumnId, Stamp, ValueRef};

use crate::error::SyncError;

/// Parked cells under the ids that their columns have now; `to` has none for columns that are gone.
pub(crate) fn move_parked(
    payload: &[u8],
    from: &[Option<i16>],
    to: &[Option<i16>],
) -> Result<Vec<u8>, SyncError> {
    let moved = |id: ColumnId| {
        let is_it = |before: &Option<i16>| before.is_some_and(|before| before.cast_unsigned() == id.get());
        let place = from.iter().position(is_it)?;
        to.get(place).copied().flatten().map(|after| ColumnId::new(after.cast_unsigned()))
    };
    let mut result = PayloadBuilder::new();
    for changes in Payload::parse(payload)?.changes() {
        let before = changes.columns();
        let after: Vec<ColumnId> = before.iter().copied().filter_map(moved).collect();
        let mut rows = changes.rows();
        let mut builder = None;
        while let Some(row) = rows.next_row()? {
            let cells: Vec<(usize, Option<Stamp>, ValueRef<'_>)> = row
                .cells
                .iter()
                .filter_map(|cell| {
                    let id = moved(*before.get(cell.column)?)?;
                    let place = after.iter().position(|after| *after == id)?;
                    Some((place, Some(cell.stamp), cell.value))
                })
                .collect();
            let (table, incarnation, version) = (changes.table(), changes.incarnation(), changes.version());
            builder
                .get_or_insert_with(|| {
                    ChangesBuilder::new(table, incarnation, version, row.key.len(), &after)
                })
                .row(row.kind, row.stamp, &row.key, &cells);
        }
        if let Some(builder) = builder {
            result.push(builder);
        }
    }
    Ok(result.finish())
}
