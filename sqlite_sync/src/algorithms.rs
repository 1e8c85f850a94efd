//! Which algorithm a table and its columns have: kept with the table's settings, read with its columns.
//!
//! Replicas that merge by different rules would not end with the same rows. So a rule changes only while no row
//! was written under the former one, and changes of an author with other rules are held back.

use std::collections::BTreeMap;

use rusqlite::{Connection, params};
use shared_format::payload::{ColumnAlgorithm, TableAlgorithm, TableDefinition};
use shared_format::{
    ColumnId, ColumnRule, KeptRegister, OwnEntries, Register, RowState, Stamp, Value, ValueRef, unpack_cells,
};

use crate::capture;
use crate::catalog::Replica;
use crate::changes::for_each_baseline_row;
use crate::error::{Doing, Error, Reading, Result};
use crate::fold::fold;
use crate::log::DbVersion;
use crate::metadata::{self, Registers};
use crate::schema;
use crate::settings::{self, Setting};
use crate::sql::{Unit, column};
use crate::table_settings;
use crate::tracked_table::{Shape, TrackedTable};

/// Key of a column's algorithm among the table's settings, and of a table's as users write it.
const ALGORITHM: &str = "algo";

/// Key of what stands between two blocks.
const DELIMITER: &str = "delimiter";

/// Rows that get their registers together: bounds memory.
const ROWS_AT_ONCE: usize = 1_000;

/// What stands between two blocks where nothing else is said.
const LINE_FEED: &str = "\n";

/// Reads the rules of a table whose columns are known, and the defaults of the columns that hold registers.
pub(crate) fn read(connection: &Connection, table: &mut TrackedTable) -> Result<()> {
    let sql = "select col, key, value from main.cloudsync_table_settings
        where tbl = ?1 and col <> '' and key in ('algo', 'delimiter')";
    let mut statement = connection.prepare_cached(sql).doing("read the algorithms")?;
    let mut rows = statement.query([table.id])?;
    let mut algorithms = BTreeMap::new();
    let mut delimiters = BTreeMap::new();
    while let Some(row) = rows.next().doing("read the algorithms")? {
        let (name, key): (String, String) = (row.get(0)?, row.get(1)?);
        let Some(at) = table.column_named(&name) else { continue };
        let kept = if key.eq_ignore_ascii_case(ALGORITHM) { &mut algorithms } else { &mut delimiters };
        kept.insert(table.columns[at].id, row.get::<_, String>(2)?);
    }
    for (id, text) in &algorithms {
        let rule = rule(text, delimiters.get(id))?;
        if rule != ColumnRule::Lww {
            table.rules.columns.insert(*id, rule);
        }
    }
    rank(table);
    for (id, _) in table.rules.registers() {
        let text =
            table.columns.iter().find(|column| column.id == id).and_then(|found| found.default.as_ref());
        if let Some(text) = text {
            let default = connection.query_row(&format!("select ({text})"), [], |row| {
                Ok(column(row, 0).map(|value| value.to_owned_value()))
            });
            table.defaults.insert(id, default.doing("read a default")??);
        }
    }
    Ok(())
}

/// Gives the columns of every group their places by name, which are the same on every replica.
fn rank(table: &mut TrackedTable) {
    let mut names: Vec<(String, ColumnId)> =
        table.columns.iter().map(|column| (column.name.to_ascii_lowercase(), column.id)).collect();
    names.sort();
    for (place, (_, id)) in names.iter().enumerate() {
        if let Some(ColumnRule::Group { rank, .. }) = table.rules.columns.get_mut(id) {
            *rank = place;
        }
    }
}

/// The rule that users write as `counter` or `group:<name>`.
fn rule(text: &str, delimiter: Option<&String>) -> Result<ColumnRule> {
    let unknown = || Error::ColumnAlgorithm { found: text.to_owned() };
    let (name, group) = text.split_once(':').map_or((text, None), |(name, group)| (name, Some(group)));
    let algorithm = ColumnAlgorithm::from_name(&name.to_ascii_lowercase()).ok_or_else(unknown)?;
    match (algorithm, group) {
        (ColumnAlgorithm::Lww, None) => Ok(ColumnRule::Lww),
        (ColumnAlgorithm::Counter, None) => Ok(ColumnRule::Counter),
        (ColumnAlgorithm::Max, None) => Ok(ColumnRule::Max),
        (ColumnAlgorithm::Min, None) => Ok(ColumnRule::Min),
        (ColumnAlgorithm::Block, None) => {
            Ok(ColumnRule::Block { delimiter: delimiter.map_or(LINE_FEED, String::as_str).to_owned() })
        }
        (ColumnAlgorithm::Group, Some(group)) if !group.is_empty() => {
            Ok(ColumnRule::Group { name: group.to_owned(), rank: 0 })
        }
        (
            ColumnAlgorithm::Lww
            | ColumnAlgorithm::Counter
            | ColumnAlgorithm::Max
            | ColumnAlgorithm::Min
            | ColumnAlgorithm::Block
            | ColumnAlgorithm::Group,
            _,
        ) => Err(unknown()),
    }
}

/// What a definition says of a rule beside its algorithm: the group, or another delimiter than a line feed.
pub(crate) fn parameter(rule: &ColumnRule) -> Option<&str> {
    match rule {
        ColumnRule::Group { name, .. } => Some(name),
        ColumnRule::Block { delimiter } if delimiter != LINE_FEED => Some(delimiter),
        ColumnRule::Block { .. }
        | ColumnRule::Lww
        | ColumnRule::Counter
        | ColumnRule::Max
        | ColumnRule::Min => None,
    }
}

fn named(algorithm: ColumnAlgorithm, parameter: Option<&str>) -> String {
    match (algorithm, parameter) {
        (ColumnAlgorithm::Group, Some(name)) => format!("group:{name}"),
        (algorithm, Some(delimiter)) => format!("{} by {delimiter:?}", algorithm.name()),
        (algorithm, None) => algorithm.name().to_owned(),
    }
}

/// Says where an author's rules differ from ours; None where they do not.
pub(crate) fn mismatch(table: &TrackedTable, theirs: &TableDefinition) -> Option<String> {
    if theirs.algorithm != table.rules.table {
        let (there, here) = (theirs.algorithm.name(), table.rules.table.name());
        return Some(format!("table algorithm is {there} there and {here} here"));
    }
    theirs.columns.iter().find_map(|column| {
        let ours = &table.columns[table.column_named(&column.name)?];
        let rule = table.rules.of(ours.id);
        if (rule.algorithm(), parameter(rule)) == (column.algorithm, column.group.as_deref()) {
            return None;
        }
        let there = named(column.algorithm, column.group.as_deref());
        let here = named(rule.algorithm(), parameter(rule));
        Some(format!("algorithm of column {:?} is {there} there and {here} here", ours.name))
    })
}

/// Whether a key of a column's settings is about its algorithm.
pub(crate) fn is_own_key(key: &str) -> bool {
    key.eq_ignore_ascii_case(ALGORITHM) || key.eq_ignore_ascii_case(DELIMITER)
}

/// Whether a key of a table's settings is about its algorithm.
pub(crate) fn is_table_key(key: &str) -> bool {
    key.eq_ignore_ascii_case(ALGORITHM)
}

/// Gives a column another algorithm or delimiter, where that is safe.
pub(crate) fn set_column(
    connection: &Connection,
    function: &'static str,
    table: &str,
    name: &str,
    key: &str,
    value: &Value,
) -> Result<()> {
    match value {
        Value::Null => {}
        Value::Text(text) if !text.is_empty() => {}
        _other => {
            let found = String::from("another value");
            return Err(Error::Argument {
                function,
                index: 4,
                found,
                wanted: "text that is not empty, or NULL",
            });
        }
    }
    let unit = Unit::begin(connection)?;
    fold(&mut Replica::open(connection)?)?;
    let before = table_settings::tracked(connection, table)?;
    let Some(at) = before.column_named(name) else {
        if before.key.iter().any(|column| column.name.eq_ignore_ascii_case(name)) {
            let wanted = "a column that is not part of the key";
            return Err(Error::Argument { function, index: 2, found: String::from("a key column"), wanted });
        }
        return Err(Error::ColumnMissing { table: before.name, column: name.to_owned() });
    };
    let found = &before.columns[at];
    table_settings::store(connection, before.id, &found.name, &key.to_ascii_lowercase(), value)?;
    let after = table_settings::tracked(connection, table)?;
    let (former, rule) = (before.rules.of(found.id), after.rules.of(found.id));
    check_together(&after)?;
    if former != rule {
        let is_group = |rule: &ColumnRule| !rule.is_register();
        if !(is_group(former) && is_group(rule)) && speaks_for(connection, &after, found.id)? {
            return Err(Error::AlgorithmChange {
                what: format!("column {:?} of table {:?}", found.name, after.name),
                table: after.name.clone(),
                found: named(former.algorithm(), parameter(former)),
                wanted: named(rule.algorithm(), parameter(rule)),
            });
        }
        changed(connection, &after)?;
    }
    unit.commit()
}

/// Gives a table another algorithm, where that is safe.
pub(crate) fn set_table(connection: &Connection, table: &str, name: &str) -> Result<()> {
    let algorithm = TableAlgorithm::from_name(&name.to_ascii_lowercase())
        .ok_or_else(|| Error::Algorithm { found: name.to_owned() })?;
    let unit = Unit::begin(connection)?;
    fold(&mut Replica::open(connection)?)?;
    let before = table_settings::tracked(connection, table)?;
    if before.rules.table != algorithm {
        if has_history(connection, &before)? {
            return Err(Error::AlgorithmChange {
                what: format!("table {:?}", before.name),
                table: before.name.clone(),
                found: before.rules.table.name().to_owned(),
                wanted: algorithm.name().to_owned(),
            });
        }
        let sql = "update main.cloudsync_tables set algorithm = ?2 where id = ?1";
        connection.execute(sql, params![before.id, algorithm.code()]).doing("set the algorithm")?;
        let after = table_settings::tracked(connection, table)?;
        check_together(&after)?;
        changed(connection, &after)?;
        let shape = Shape::read(connection, table)?;
        capture::install(connection, &after, &shape.uniques)?;
    }
    unit.commit()
}

/// A row of a grow-only table never changes, and one of an `aws` table is one register: neither has columns with
/// a rule of their own.
fn check_together(table: &TrackedTable) -> Result<()> {
    let registers = table.rules.registers().next();
    match (table.rules.table, registers) {
        (TableAlgorithm::Gos | TableAlgorithm::Aws, Some((_, rule))) => Err(Error::AlgorithmsTogether {
            table: table.name.clone(),
            algorithm: table.rules.table.name(),
            column: rule.algorithm().name(),
        }),
        (TableAlgorithm::Gos | TableAlgorithm::Aws, None)
        | (TableAlgorithm::Cls | TableAlgorithm::Dws, _) => Ok(()),
    }
}

/// The rules of a table changed: authors and readers have to know, and what was held back may fit now.
fn changed(connection: &Connection, table: &TrackedTable) -> Result<()> {
    schema::count_up(connection, table.id)?;
    let sql = "delete from main.cloudsync_skipped where tbl = ?1 and col = ''";
    if connection.execute(sql, [&table.name]).doing("look for what was held back")? > 0 {
        settings::store(connection, Setting::Cursor, &Value::Null)?;
    }
    materialize(&mut Replica::open(connection)?, table)
}

/// Whether any row but those of the baseline was written or received.
fn has_history(connection: &Connection, table: &TrackedTable) -> Result<bool> {
    let sql = format!("select exists (select 1 from {} where alive = 0 or hlc <> 0)", table.metadata());
    if connection.query_row(&sql, [], |row| row.get(0)).doing("look for written rows")? {
        return Ok(true);
    }
    has_cell(connection, table, &|_| true)
}

/// Whether a row says anything of a column, but for what the baseline says of all.
fn speaks_for(connection: &Connection, table: &TrackedTable, id: ColumnId) -> Result<bool> {
    let added = table.later.iter().find(|(later, _)| *later == id).map_or(0, |(_, added)| added.get());
    let sql = format!(
        "select exists (select 1 from {} where seq >= ?1 and hlc <> 0 and (alive = 1 or cols is not null))",
        table.metadata()
    );
    if connection.query_row(&sql, [added], |row| row.get(0)).doing("look for written rows")? {
        return Ok(true);
    }
    has_cell(connection, table, &|column| column == id)
}

/// Whether metadata of the baseline, or of rows not seen created, has a stamp for a wanted column.
fn has_cell(connection: &Connection, table: &TrackedTable, wants: &dyn Fn(ColumnId) -> bool) -> Result<bool> {
    let sql = format!("select cols from {} where hlc = 0 and cols is not null", table.metadata());
    let mut statement = connection.prepare(&sql).doing("look for written cells")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next().doing("look for written cells")? {
        let ValueRef::Blob(packed) = column(row, 0)? else { continue };
        if unpack_cells(packed).reading("packed cells")?.iter().any(|(column, _, _)| wants(*column)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Gives registers to rows that were there before the table was tracked: what they start from has to be known when
/// they are first written. The only part of a setup that looks at every row.
pub(crate) fn materialize(replica: &mut Replica<'_>, table: &TrackedTable) -> Result<()> {
    let Some(baseline) = table.baseline.filter(|_| table.rules.have_registers()) else { return Ok(()) };
    let mut after: Option<Vec<Value>> = None;
    loop {
        let mut found: Vec<(Vec<Value>, RowState, Registers)> = Vec::new();
        for_each_baseline_row(replica, table, after.as_deref(), &mut |_, key, values, state| {
            let key: Vec<Value> = key.iter().map(ValueRef::to_owned_value).collect();
            let stored = metadata::registers_of(replica.connection, table, &key)?;
            found.push((key, state.clone(), started(table, state, values, stored)));
            Ok(found.len() < ROWS_AT_ONCE)
        })?;
        for (key, state, registers) in &found {
            let seq = DbVersion::new(baseline);
            let connection = replica.connection;
            metadata::write_row(connection, &mut replica.sites, table, key, state, registers, seq)?;
        }
        match found.pop() {
            Some((key, _, _)) => after = Some(key),
            None => return Ok(()),
        }
    }
}

/// Registers of a row: those it has, and new ones that start from what it holds.
fn started(
    table: &TrackedTable,
    state: &RowState,
    values: &[ValueRef<'_>],
    mut registers: Registers,
) -> Registers {
    registers.retain(|id, _| table.rules.of(*id).is_register());
    for (column, value) in table.columns.iter().zip(values) {
        if state.cell(column.id) != Some(Stamp::ZERO)
            && !registers.contains_key(&column.id)
            && let Some(register) = Register::new(table.rules.of(column.id))
        {
            let register = register.with_start(state.life_stamp(), value.to_owned_value());
            registers.insert(column.id, KeptRegister { own: OwnEntries::default(), register });
        }
    }
    registers
}
