//! Values of UNIQUE columns that rows of one payload take from one another.
//!
//! The server checks a unique index row by row, so that two rows that swap their values cannot be written one after
//! the other. What holds a value that another row asks for is moved aside first: as the caller, to NULL or to a value
//! that nobody has. The capture triggers leave such a write alone; the row gets what was asked for in the same
//! savepoint. A row that cannot be moved is refused alone, with what the server says.

use std::collections::{BTreeMap, HashMap, HashSet};

use pgrx::pg_sys::{self, Datum};
use shared_format::encode_key;

use super::decide::Write;
use super::incoming::Incoming;
use super::local::{self, Local};
use super::write::Decided;
use crate::catalog::Tracked;
use crate::edge::codec;
use crate::edge::query::{self, Argument, Input, InputColumn};
use crate::edge::session::as_owner;
use crate::error::SyncError;
use crate::stage::Expected;

/// What a unique index of a table reads.
struct Unique {
    /// Whether values that differ may be one to it: then every row may be in the way of another.
    is_computed: bool,
    columns: Vec<UniqueColumn>,
}

struct UniqueColumn {
    /// Among the columns beside the key; None for a part of it.
    place: Option<usize>,
    /// Among those of the key.
    key_place: Option<usize>,
    type_name: String,
    /// Which values nobody has.
    free: Option<Free>,
    /// Where they end: the most characters of a text, the number that is too large.
    limit: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Free {
    Null,
    Text,
    Uuid,
    Number,
    Time,
}

impl Free {
    /// The word of `unique_columns.sql`; none for values of which we know no free one.
    fn of(word: &str) -> Option<Self> {
        Some(match word {
            "null" => Self::Null,
            "text" => Self::Text,
            "uuid" => Self::Uuid,
            "number" => Self::Number,
            "time" => Self::Time,
            _ => return None,
        })
    }
}

fn unique_indexes(table: &Tracked) -> Vec<Unique> {
    let sql = include_str!("../../../sql/postgres/library/unique_columns.sql");
    let found = as_owner(|| query::run(sql, &[Argument::oid(table.relation)]));
    let mut indexes: BTreeMap<i64, Unique> = BTreeMap::new();
    for row in &found.rows {
        let (Some(index), Some(number)) = (row.attribute(1), row.attribute(3)) else { continue };
        let is_computed = row.attribute(2).is_some_and(codec::to_bool);
        let number = codec::to_i16(number);
        let text = |at| row.attribute(at).map(codec::to_text).unwrap_or_default();
        let column = UniqueColumn {
            place: table.columns.iter().position(|column| column.id == number),
            key_place: table.key.iter().position(|column| column.id == number),
            type_name: text(4),
            free: Free::of(&text(5)),
            limit: row.attribute(6).map(codec::to_text),
        };
        let unique = indexes
            .entry(codec::to_i64(index))
            .or_insert_with(|| Unique { is_computed: false, columns: Vec::new() });
        unique.is_computed |= is_computed;
        unique.columns.push(column);
    }
    indexes.into_values().collect()
}

/// What a row holds in an index before and after; None for a value that takes part in no conflict.
type Held = Option<Vec<u8>>;

impl Unique {
    /// What decides, from the values of the columns; None where one is NULL.
    fn held(&self, table: &Tracked, row: &Row<'_>, value: impl Fn(usize) -> Option<Datum>) -> Held {
        if self.is_computed {
            return Some(Vec::new());
        }
        let parts: Option<Vec<_>> = self
            .columns
            .iter()
            .map(|column| match column.place {
                Some(place) => {
                    let codec = &table.columns.get(place)?.codec;
                    value(place).map(|datum| codec.value(Some(datum)))
                }
                None => {
                    let key = column.key_place?;
                    Some(table.key.get(key)?.codec.value(*row.key.get(key)?))
                }
            })
            .collect();
        parts.map(encode_key)
    }
}

/// A row as an index sees it.
struct Row<'a> {
    key: &'a [Option<Datum>],
    /// What stands here.
    values: Option<&'a [Option<Datum>]>,
    asked: &'a dyn Fn(usize) -> Option<Expected>,
    is_gone: bool,
}

impl Row<'_> {
    fn before(&self, table: &Tracked, unique: &Unique) -> Held {
        let values = self.values?;
        unique.held(table, self, |place| values.get(place).copied().flatten())
    }

    fn after(&self, table: &Tracked, unique: &Unique) -> Held {
        if self.is_gone || !self.is_asked(unique) {
            return None;
        }
        unique.held(table, self, |place| match (self.asked)(place) {
            Some(asked) => asked.value,
            None => self.values.and_then(|values| values.get(place).copied().flatten()),
        })
    }

    fn is_asked(&self, unique: &Unique) -> bool {
        unique.columns.iter().filter_map(|column| column.place).any(|place| (self.asked)(place).is_some())
    }
}

/// Whether an error may be of two rows that want one value.
pub(super) fn is_taken(sqlstate: &str) -> bool {
    sqlstate == "23505"
}

/// Moves rows aside whose values others ask for. Says whether there were any.
pub(super) fn move_aside(decided: &[Decided<'_>]) -> bool {
    let mut tables: BTreeMap<i32, Vec<&Decided<'_>>> = BTreeMap::new();
    for one in decided.iter().filter(|one| one.decision.write != Write::Nothing) {
        tables.entry(one.table.table_id).or_default().push(one);
    }
    let mut is_any = false;
    for rows in tables.values() {
        let Some(table) = rows.first().map(|one| one.table) else { continue };
        for unique in unique_indexes(table) {
            is_any |= move_in(table, &unique, rows);
        }
    }
    is_any
}

fn with_row<T>(one: &Decided<'_>, body: impl FnOnce(&Row<'_>) -> T) -> T {
    let asked = |place: usize| one.decision.asked.get(&place).cloned();
    body(&Row {
        key: &one.row.key,
        values: one.local.values.as_deref(),
        asked: &asked,
        is_gone: one.decision.write == Write::Delete,
    })
}

fn move_in(table: &Tracked, unique: &Unique, rows: &[&Decided<'_>]) -> bool {
    let wanted: HashSet<Vec<u8>> =
        rows.iter().filter_map(|one| with_row(one, |row| row.after(table, unique))).collect();
    let mut moved: BTreeMap<usize, Vec<&Decided<'_>>> = BTreeMap::new();
    for one in rows {
        let (before, after) = with_row(one, |row| (row.before(table, unique), row.after(table, unique)));
        let is_in_the_way = before.as_ref().is_some_and(|held| wanted.contains(held));
        let stays = !unique.is_computed && before == after;
        if !is_in_the_way || stays {
            continue;
        }
        if let Some(at) = room(table, unique, one) {
            moved.entry(at).or_default().push(one);
        }
    }
    for (at, rows) in &moved {
        if let Some(sql) = unique.columns.get(*at).and_then(|column| statement(table, column, rows.len())) {
            query::run_with_rows(&sql, &[], &input(table, rows));
        }
    }
    !moved.is_empty()
}

/// The column to move: one that the row is asked to write anyway, best one that can be NULL.
fn room(table: &Tracked, unique: &Unique, one: &Decided<'_>) -> Option<usize> {
    let is_whole = matches!(one.decision.write, Write::Replace | Write::Delete);
    let is_read = |place: usize| {
        let name = table.columns.get(place).map(|column| column.name.as_str()).unwrap_or_default();
        // Who read the row before is found by what it held.
        [&table.scope, &table.filter].into_iter().flatten().any(|text| text.contains(name))
    };
    let may_move = |at: &usize| {
        unique.columns.get(*at).is_some_and(|column| {
            let is_written = |place| is_whole || one.decision.asked.contains_key(&place);
            column.free.is_some() && column.place.is_some_and(|place| is_written(place) && !is_read(place))
        })
    };
    let is_null = |at: &usize| unique.columns.get(*at).is_some_and(|column| column.free == Some(Free::Null));
    let all = || (0..unique.columns.len()).filter(may_move);
    all().find(is_null).or_else(|| all().next())
}

fn statement(table: &Tracked, column: &UniqueColumn, count: usize) -> Option<String> {
    let place = column.place?;
    let name = table.columns.get(place)?.quoted();
    let value = match column.free? {
        Free::Null => "null".into(),
        Free::Uuid => "pg_catalog.gen_random_uuid()".into(),
        Free::Text => free_text(column.limit.as_deref()),
        Free::Number => {
            let below = column.limit.as_deref().unwrap_or("Infinity");
            let fits =
                format!("(m.greatest operator(pg_catalog.+) {count}) operator(pg_catalog.<) '{below}'");
            beyond(table, &name, ("numeric", "numeric", "1"), &fits, count)
        }
        Free::Time => {
            let fits = "pg_catalog.isfinite(m.greatest)";
            beyond(table, &name, ("timestamptz", "float8", "'1 day'::pg_catalog.interval"), fits, count)
        }
    };
    Some(format!(
        "update {} as d set {name} = ({value})::{} from cloudsync_rows as s where {}",
        table.scan(),
        column.type_name,
        local::same_key(table, "d", "s"),
    ))
}

/// A value for each row, by its place: a step behind the other above the greatest of all rows, also those that the
/// caller does not see; below the least where they do not fit there. They are counted in a type that reaches beyond
/// that of the column; the factor is the type that a step is multiplied by.
fn beyond(
    table: &Tracked,
    name: &str,
    (wider, factor, step): (&str, &str, &str),
    fits: &str,
    count: usize,
) -> String {
    let below = count.saturating_add(1);
    let sql = format!(
        "select case when {fits} then m.greatest \
         else m.least operator(pg_catalog.-) ({below} operator(pg_catalog.*) {step}) end::pg_catalog.text \
         from (select pg_catalog.max(d.{name})::pg_catalog.{wider}, pg_catalog.min(d.{name})::pg_catalog.{wider} \
           from {} as d) as m (greatest, least)",
        table.scan(),
    );
    let start = as_owner(|| query::run(&sql, &[])).first().map(codec::to_text);
    let start = start.unwrap_or_default().replace('\'', "''");
    format!(
        "'{start}'::pg_catalog.{wider} operator(pg_catalog.+) \
         (s.place::pg_catalog.{factor} operator(pg_catalog.*) {step})"
    )
}

fn free_text(characters_max: Option<&str>) -> String {
    let random = "pg_catalog.gen_random_uuid()::pg_catalog.text";
    match characters_max {
        None => format!("'cloudsync ' operator(pg_catalog.||) {random}"),
        Some(most) => format!("pg_catalog.left(pg_catalog.md5({random}), {most})"),
    }
}

fn input(table: &Tracked, rows: &[&Decided<'_>]) -> Input {
    let mut columns = local::key_columns(table);
    columns.push(InputColumn {
        name: "place".into(),
        type_oid: pg_sys::INT8OID,
        collation: pg_sys::InvalidOid,
    });
    let row = |(place, one): (i64, &&Decided<'_>)| {
        one.row.key.iter().copied().chain([Some(Datum::from(place))]).collect()
    };
    Input { columns, rows: (1..).zip(rows).map(row).collect() }
}

/// Parts rows into those that have to do with one another: they take values from each other.
pub(super) fn groups(incoming: &Incoming, which: &[usize]) -> Result<Vec<Vec<usize>>, SyncError> {
    let locals = local::read(incoming, which)?;
    let mut parts = Parts::new(which.len());
    let at_of: HashMap<usize, usize> = which.iter().copied().zip(0..).collect();
    for (table, rows) in local::by_table(incoming, which) {
        let Some(table) = incoming.tables.get(table) else { continue };
        for unique in unique_indexes(table) {
            let mut first: HashMap<Vec<u8>, usize> = HashMap::new();
            for at in rows.iter().filter_map(|row| at_of.get(row).copied()) {
                for held in both(incoming, table, &unique, which.get(at).copied(), &locals) {
                    parts.join(*first.entry(held).or_insert(at), at);
                }
            }
        }
    }
    Ok(parts.parted(which))
}

/// What a row holds in an index, and what it asks for.
fn both(
    incoming: &Incoming,
    table: &Tracked,
    unique: &Unique,
    row: Option<usize>,
    locals: &HashMap<usize, Local>,
) -> Vec<Vec<u8>> {
    let Some(at) = row else { return Vec::new() };
    let Some(row) = incoming.rows.get(at) else { return Vec::new() };
    let asked = |place: usize| {
        let values = row.changes.iter().rev().flat_map(|change| &change.values);
        values.into_iter().find(|(known, _)| *known == place).map(|(_, value)| value.clone())
    };
    let values = locals.get(&at).and_then(|local| local.values.as_deref());
    let seen = Row { key: &row.key, values, asked: &asked, is_gone: false };
    [seen.before(table, unique), seen.after(table, unique)].into_iter().flatten().collect()
}

/// Sets of numbers that are joined step by step.
struct Parts(Vec<usize>);

impl Parts {
    fn new(count: usize) -> Self {
        Self((0..count).collect())
    }

    fn root(&self, mut at: usize) -> usize {
        while let Some(above) = self.0.get(at).copied().filter(|above| *above != at) {
            at = above;
        }
        at
    }

    fn join(&mut self, left: usize, right: usize) {
        let (left, right) = (self.root(left), self.root(right));
        if let Some(above) = self.0.get_mut(left.max(right)) {
            *above = left.min(right);
        }
    }

    fn parted(&self, which: &[usize]) -> Vec<Vec<usize>> {
        let mut parts: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (at, row) in which.iter().enumerate() {
            parts.entry(self.root(at)).or_default().push(*row);
        }
        parts.into_values().collect()
    }
}
