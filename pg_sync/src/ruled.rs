//! Rows of ruled tables: registers as metadata keeps them, local writes by the rules, what travels of a register.
//!
//! Values in registers are in the form that SQLite stores, so that they order and compare alike on both engines.

use std::collections::BTreeMap;

use schema_mapping::to_sqlite;
use shared_format::{
    ColumnId, ColumnRule, Hlc, KeptRegister, Local, LocalWrite, LogPlace, OwnEntries, Register, RowRegisters,
    Rules, SiteId, Stamp, Value, ValueRef, pack_row, unpack_registers,
};

use crate::catalog::Tracked;
use crate::edge::codec::Codec;
use crate::edge::tuple::Tuple;
use crate::error::SyncError;

/// Registers of one live row.
pub(crate) type Registers = BTreeMap<ColumnId, KeptRegister>;

/// The rules of a table, with the defaults of the columns that hold registers.
#[derive(Clone, Debug, Default)]
pub(crate) struct TableRules {
    pub(crate) rules: Rules,
    pub(crate) defaults: BTreeMap<ColumnId, Value>,
}

impl TableRules {
    /// What stands for a start that no creation carried.
    pub(crate) fn default_of(&self, column: ColumnId) -> ValueRef<'_> {
        self.defaults.get(&column).map_or(ValueRef::Null, Value::as_ref)
    }

    /// Whether cells of a column are registers.
    pub(crate) fn is_register(&self, column: ColumnId) -> bool {
        self.rules.of(column).is_register()
    }

    /// What a user sees of a register.
    pub(crate) fn visible(&self, column: ColumnId, register: &Register) -> Value {
        register.visible(self.rules.of(column), self.default_of(column))
    }
}

/// The value in the form that registers hold.
pub(crate) fn kept(value: ValueRef<'_>) -> Value {
    to_sqlite(value).to_value()
}

/// Packs registers for metadata; nothing where there are none.
pub(crate) fn pack(registers: &Registers) -> Vec<u8> {
    if registers.is_empty() {
        return Vec::new();
    }
    let bytes: Vec<(ColumnId, Vec<u8>)> = registers.iter().map(|(id, kept)| (*id, kept.encode())).collect();
    pack_row(&[], &bytes)
}

/// Reads what [`pack`] wrote; none for a column that has no use for one.
pub(crate) fn unpack(table: &Tracked, bytes: &[u8]) -> Result<Registers, SyncError> {
    let mut registers = Registers::new();
    if bytes.is_empty() {
        return Ok(registers);
    }
    let damaged = |_| SyncError::Damaged { table: table.name.clone(), detail: "a register cannot be read" };
    for (id, bytes) in unpack_registers(bytes).map_err(damaged)? {
        let rule = table.ruled.rules.of(id);
        if rule.is_register() {
            registers.insert(id, KeptRegister::decode(rule, bytes).map_err(damaged)?);
        }
    }
    Ok(registers)
}

/// What a stored row holds in the columns that have registers.
pub(crate) fn values<'c>(
    rules: &TableRules,
    columns: impl IntoIterator<Item = (i16, ColumnId, &'c Codec)>,
    image: &Tuple,
) -> BTreeMap<ColumnId, Value> {
    let registers = columns.into_iter().filter(|(_, id, _)| rules.is_register(*id));
    registers.map(|(number, id, codec)| (id, kept(codec.value(image.attribute(number))))).collect()
}

/// A value that its column's algorithm has no place for.
#[derive(Clone, Debug)]
pub(crate) struct Misplaced {
    pub(crate) column: ColumnId,
    /// What was written, and the stamp that it would have had.
    pub(crate) lost: Value,
    pub(crate) lost_stamp: Stamp,
    /// What is put back.
    pub(crate) stays: Value,
    pub(crate) stays_stamp: Stamp,
}

/// Stamps a local write of a row; returns the values that are to be put back.
pub(crate) fn write_local(
    full: &mut RowRegisters,
    rules: &TableRules,
    values: &BTreeMap<ColumnId, Value>,
    write: LocalWrite<'_>,
    wall_ms: i64,
    site: SiteId,
) -> Vec<Misplaced> {
    for kept in full.registers.values_mut() {
        // A copy of the database is another site: it goes on with no sum of the former one.
        if kept.own.origin.is_some_and(|origin| origin.site != site) {
            kept.own = OwnEntries::default();
        }
    }
    let now = |id: ColumnId| (values.get(&id).map_or(ValueRef::Null, Value::as_ref), rules.default_of(id));
    let local = Local { write, now: &now, wall_ms, site, log: LogPlace::default() };
    let put_back = full.write_local(&rules.rules, &local);
    let misplaced = put_back.into_iter().filter_map(|(column, lost_stamp)| {
        let kept = full.registers.get(&column)?;
        Some(Misplaced {
            column,
            lost: now(column).0.to_owned_value(),
            lost_stamp,
            stays: rules.visible(column, &kept.register),
            stays_stamp: full.state.stamp_of(column),
        })
    });
    misplaced.collect()
}

/// Gives registers to a row that has none, from what it holds.
pub(crate) fn first_registers(
    rules: &TableRules,
    values: BTreeMap<ColumnId, Value>,
    base: Stamp,
) -> Registers {
    let register = |id: ColumnId, value: Value| {
        let register = Register::new(rules.rules.of(id))?.with_start(base, value);
        Some((id, KeptRegister { own: OwnEntries::default(), register }))
    };
    values.into_iter().filter_map(|(id, value)| register(id, value)).collect()
}

/// What a whole row carries for the columns that hold registers and that somebody wrote since: the registers. For
/// any other its value is what the register starts from.
pub(crate) fn sent(registers: &Registers) -> BTreeMap<ColumnId, Value> {
    let is_written = |kept: &KeptRegister| kept.register.greatest().is_some();
    let written = registers.iter().filter(|(_, kept)| is_written(kept));
    written.map(|(id, kept)| (*id, Value::Blob(kept.register.encode()))).collect()
}

/// A register in parts of one site each, by rising stamp: an echo is dropped by the site of its cell.
pub(crate) fn by_site(register: &Register) -> Vec<(Stamp, Register)> {
    let mut sites: Vec<SiteId> = register.stamps().iter().map(|stamp| stamp.site).collect();
    sites.sort_unstable();
    sites.dedup();
    let part = |site: SiteId| {
        let part = register.written_by(site, Hlc::ZERO)?;
        Some((part.greatest()?, part))
    };
    let mut parts: Vec<(Stamp, Register)> = sites.into_iter().filter_map(part).collect();
    parts.sort_by_key(|(stamp, _)| *stamp);
    parts
}

/// What one write of this site left in a register.
pub(crate) fn written(register: &Register, stamp: Stamp) -> Option<Register> {
    register.written_by(stamp.site, Hlc::from_raw(stamp.hlc.raw().saturating_sub(1)))
}

/// The literal that a default is made of, as its type reads it; None for anything that has to be computed, which
/// may be code of a user.
pub(crate) fn literal(expression: &str) -> Option<String> {
    let text = expression.trim();
    if let Some(rest) = text.strip_prefix('\'') {
        let mut value = String::new();
        let mut characters = rest.char_indices().peekable();
        while let Some((at, character)) = characters.next() {
            if character != '\'' {
                value.push(character);
            } else if characters.peek().is_some_and(|(_, next)| *next == '\'') {
                value.push('\'');
                characters.next();
            } else {
                let cast = rest.get(at + 1..).unwrap_or_default();
                let is_cast = cast.is_empty() || cast.starts_with("::") && !cast.contains(['(', '\'']);
                return is_cast.then_some(value);
            }
        }
        return None;
    }
    let number = text.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')).unwrap_or(text);
    let is_number =
        number.parse::<f64>().is_ok() && number.starts_with(|c: char| c.is_ascii_digit() || c == '-');
    (is_number || matches!(number, "true" | "false")).then(|| number.to_owned())
}

/// Builds the rules of a table from what the registry says of its columns: id, name, algorithm, group, delimiter.
pub(crate) fn column_rules(table: &Tracked) -> BTreeMap<ColumnId, ColumnRule> {
    use shared_format::payload::ColumnAlgorithm;
    let mut names: Vec<(String, ColumnId)> =
        table.columns.iter().map(|column| (column.name.to_ascii_lowercase(), column.column_id())).collect();
    names.sort();
    let rank = |id: ColumnId| names.iter().position(|(_, known)| *known == id).unwrap_or(0);
    let rule = |column: &crate::catalog::Column| {
        let id = column.column_id();
        let parameter = column.definition.group.clone();
        let rule = match column.definition.algorithm {
            ColumnAlgorithm::Lww => return None,
            ColumnAlgorithm::Counter => ColumnRule::Counter,
            ColumnAlgorithm::Max => ColumnRule::Max,
            ColumnAlgorithm::Min => ColumnRule::Min,
            ColumnAlgorithm::Block => {
                ColumnRule::Block { delimiter: parameter.unwrap_or_else(|| "\n".to_owned()) }
            }
            ColumnAlgorithm::Group => {
                ColumnRule::Group { name: parameter.unwrap_or_default(), rank: rank(id) }
            }
        };
        Some((id, rule))
    };
    table.columns.iter().filter_map(rule).collect()
}
