//! What travels of a row whose columns hold registers: all of them with a whole row, else only what this file
//! wrote and nobody has acknowledged.

use std::borrow::Cow;

use shared_format::{KeptRegister, RowState, SiteId, Value, ValueRef};

use crate::log::ColumnSet;
use crate::metadata::Registers;
use crate::tracked_table::TrackedTable;

/// What a creation carries for the columns that hold registers, by place: the register where somebody wrote since,
/// else what it started from.
pub(crate) fn sent(table: &TrackedTable, registers: &Registers) -> Vec<(usize, Value)> {
    let value = |kept: &KeptRegister| match kept.register.greatest() {
        Some(_) => Some(Value::Blob(kept.register.encode())),
        None => kept.register.start().cloned(),
    };
    registers.iter().filter_map(|(id, kept)| Some((table.position(*id)?, value(kept)?))).collect()
}

/// The values of a live row with those of [`sent`] in their places.
pub(crate) fn laid_over<'s, 'v>(
    values: &'s [ValueRef<'v>],
    sent: &'v [(usize, Value)],
) -> Cow<'s, [ValueRef<'v>]> {
    if sent.is_empty() {
        return Cow::Borrowed(values);
    }
    let mut values = values.to_vec();
    for (at, value) in sent {
        if let Some(held) = values.get_mut(*at) {
            *held = value.as_ref();
        }
    }
    Cow::Owned(values)
}

/// Some cells of a live row as an update carries them.
pub(crate) struct Part {
    /// The stamps under which they travel.
    pub(crate) state: RowState,
    pub(crate) values: Vec<Value>,
    pub(crate) columns: ColumnSet,
}

/// Of the wanted columns, what this site wrote.
pub(crate) fn written_here(
    table: &TrackedTable,
    state: &RowState,
    registers: &Registers,
    values: &[Value],
    wanted: &ColumnSet,
    own: SiteId,
) -> Part {
    let mut part = Part { state: state.clone(), values: values.to_vec(), columns: ColumnSet::default() };
    for (column, value) in table.columns.iter().zip(&mut part.values) {
        let id = column.id;
        if !wanted.contains(id) {
            continue;
        }
        if !table.rules.of(id).is_register() {
            if state.stamp_of(id).site == own {
                part.columns.insert(id);
            }
            continue;
        }
        let entries = registers.get(&id).and_then(|kept| kept.register.written_by(own, kept.own.sent_hlc));
        if let Some((entries, stamp)) =
            entries.and_then(|entries| entries.greatest().map(|stamp| (entries, stamp)))
        {
            *value = Value::Blob(entries.encode());
            part.state.set_cell(id, stamp);
            part.columns.insert(id);
        }
    }
    part
}
