//! What changed in this database, row by row: for `cloudsync_changes`, payloads and chunks.
//!
//! Keys and metadata are read as the owner; the row itself is read as the caller, so that whoever may not see it
//! learns nothing of it. A row that is gone cannot be asked for by a policy: where policies hold for the caller,
//! deletions are left out. Everything is read in the snapshot of the calling statement.

pub(crate) mod gather;
pub(crate) mod lines;
pub(crate) mod payloads;
mod rows;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::rc::Rc;

use pgrx::pg_sys::{self, Datum};
use shared_format::{ColumnId, Hlc, RowState, Value, decode_key, encode_key};

use crate::apply::{key_columns, parked, same_key};
use crate::catalog::{self, Tracked};
use crate::edge::codec;
use crate::edge::query::{self, Argument, Input, InputColumn};
use crate::edge::session::{as_owner, by_index};
use crate::edge::tuple::Tuple;
use crate::error::SyncError;
use crate::metadata::Metadata;
use crate::{expressions, ruled, sites};

/// Rows that are read at a time.
const BATCH_ROWS: i32 = 200;

/// Which changes are wanted, by the number of the transaction that wrote them here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) after: i64,
    pub(crate) until: i64,
}

/// A row that changed, with what it is now.
#[derive(Clone, Debug)]
pub(crate) struct Changed {
    pub(crate) table: Rc<Tracked>,
    pub(crate) key: Vec<Value>,
    pub(crate) state: RowState,
    /// The transaction that changed it here last.
    pub(crate) number: i64,
    /// By place, every column of a live row; otherwise what is parked beside it.
    pub(crate) values: Vec<(usize, Value)>,
    /// Registers that travel in place of the values of a live row.
    pub(crate) registers: BTreeMap<ColumnId, Value>,
}

/// A table that is walked through.
struct Part {
    table: Rc<Tracked>,
    /// Whether rows without metadata are meant.
    baseline: bool,
    /// Whether the caller learns of rows that are gone.
    tells_dead: bool,
    /// Which of its rows `d` take part.
    taken: Rc<str>,
    after: Option<Vec<u8>>,
}

/// A walk that has come to a certain row.
pub(crate) struct Walk {
    wanted: Wanted,
    /// Numbers are counted back from here.
    newest: i64,
    own: i32,
    parts: VecDeque<Part>,
    ready: VecDeque<Changed>,
}

/// Numbers of transactions as the calling statement sees them: the newest that ended with all before it, and the
/// first that none has yet.
pub(crate) fn numbers() -> (i64, i64) {
    let sql = "select pg_catalog.pg_snapshot_xmin(s)::pg_catalog.text::bigint, \
               pg_catalog.pg_snapshot_xmax(s)::pg_catalog.text::bigint \
               from pg_catalog.pg_current_snapshot() as s";
    let found = as_owner(|| query::read(sql, &[]));
    let number = |at| found.rows.first().and_then(|row| row.attribute(at)).map_or(0, codec::to_i64);
    (number(1).saturating_sub(1), number(2))
}

/// Whether the user may read all of a table, and whether policies hold for him there.
fn reading_rights(table: &Tracked) -> (bool, bool) {
    let sql = "select pg_catalog.has_table_privilege($1, 'select'), pg_catalog.row_security_active($1)";
    let found = query::read(sql, &[Argument::oid(table.relation)]);
    let is = |at| found.rows.first().and_then(|row| row.attribute(at)).is_some_and(codec::to_bool);
    (is(1), is(2))
}

impl Walk {
    /// Begins, with the tables that the caller may read.
    pub(crate) fn begin(wanted: Wanted) -> Result<Self, SyncError> {
        let mut parts = VecDeque::new();
        for table in as_owner(catalog::tables).into_iter().filter(|table| table.enabled) {
            table.hold()?;
            let (may_read, has_policies) = reading_rights(&table);
            if !may_read {
                continue;
            }
            let tracked_from = as_owner(|| tracked_from(&table));
            let taken: Rc<str> = match &table.filter {
                Some(filter) => {
                    as_owner(|| expressions::spell(table.relation, "filter", filter, "d"))?.into()
                }
                None => "true".into(),
            };
            let table = Rc::new(table);
            let part = |baseline| Part {
                table: Rc::clone(&table),
                baseline,
                tells_dead: !has_policies,
                taken: Rc::clone(&taken),
                after: None,
            };
            parts.push_back(part(false));
            if tracked_from > wanted.after && tracked_from <= wanted.until {
                parts.push_back(part(true));
            }
        }
        let own = as_owner(sites::self_ordinal);
        Ok(Self { wanted, newest: numbers().1, own, parts, ready: VecDeque::new() })
    }

    /// The next row.
    pub(crate) fn next_row(&mut self) -> Result<Option<Changed>, SyncError> {
        loop {
            if let Some(row) = self.ready.pop_front() {
                return Ok(Some(row));
            }
            let Some(mut part) = self.parts.pop_front() else { return Ok(None) };
            let is_done = self.read(&mut part)?;
            if !is_done {
                self.parts.push_front(part);
            }
        }
    }

    /// Reads a batch; says whether it was the last one of its part.
    fn read(&mut self, part: &mut Part) -> Result<bool, SyncError> {
        let found = as_owner(|| self.candidates(part))?;
        let table = &part.table;
        let keys: Vec<Vec<Option<Datum>>> = found.iter().map(|row| key_of(table, row)).collect();
        let values = as_caller(table, &keys, &part.taken);
        for (place, (row, key)) in found.iter().zip(&keys).enumerate() {
            let key: Vec<Value> =
                table.key.iter().zip(key).map(|(c, datum)| c.codec.value(*datum).to_owned_value()).collect();
            let row_key = encode_key(key.iter().map(Value::as_ref));
            let after = i16::try_from(table.key.len()).unwrap_or(i16::MAX).saturating_add(6);
            let metadata = Metadata::from_tuple(row, 2).map(|found| found.with_registers(row, after));
            let metadata = metadata.unwrap_or_else(|| baseline(self.own));
            let state = as_owner(|| metadata.state(table))?;
            let values = match values.get(&place) {
                Some(values) if state.is_alive() => Some((0..).zip(values.iter().cloned()).collect()),
                None if !state.is_alive() && part.tells_dead => Some(parked_values(table, &state, &row_key)?),
                Some(_) | None => None,
            };
            if let Some(values) = values {
                let number = row.attribute(1).map_or(0, codec::to_i64);
                let registers = ruled::sent(&ruled::unpack(table, &metadata.registers)?);
                let table = Rc::clone(table);
                self.ready.push_back(Changed { table, key, state, number, values, registers });
            }
            part.after = Some(row_key);
        }
        Ok(found.len() < usize::try_from(BATCH_ROWS).unwrap_or(0))
    }

    /// Rows of the owner's page: number, alive, hlc, site, cols, then the key.
    fn candidates(&self, part: &Part) -> Result<Vec<Tuple>, SyncError> {
        let table = &part.table;
        let mut arguments = vec![
            Argument::integer(BATCH_ROWS),
            Argument::bigint(self.newest),
            Argument::bigint(self.wanted.after),
            Argument::bigint(self.wanted.until),
            Argument::integer(table.table_id),
        ];
        let names: Vec<String> = (1..)
            .zip(&table.key)
            .map(
                |(place, column): (usize, _)| {
                    if part.baseline { format!("d.{}", column.quoted()) } else { format!("m.key_{place}") }
                },
            )
            .collect();
        let mut bound = String::from("true");
        if let Some(after) = &part.after {
            let parts = decode_key(after)?;
            for (value, column) in parts.iter().zip(&table.key) {
                let datum = column.codec.stored_datum(value.as_ref());
                arguments.push(Argument::of(column.codec.type_oid(), datum));
            }
            let marks: Vec<String> =
                (6..).take(parts.len()).map(|number: usize| format!("${number}")).collect();
            bound = format!("({}) > ({})", names.join(", "), marks.join(", "));
        }
        let sql = if part.baseline {
            baseline_sql(table, &names, &bound)
        } else {
            let is_hidden = table.filter.is_some();
            let taken = if is_hidden { "(m.alive or m.scopes is distinct from '{}')" } else { "true" };
            known_sql(table, &names, &format!("{bound} and {taken}"))
        };
        Ok(by_index(|| query::read(&sql, &arguments)).rows)
    }
}

/// Rows with metadata. A stored transaction number has 32 bits: those of running transactions may be beyond the
/// newest that the statement knows, by far less than 2^20.
fn known_sql(table: &Tracked, names: &[String], bound: &str) -> String {
    format!(
        "select n.number, m.alive, m.hlc, m.site, m.cols, {keys}{registers} from {metadata} as m \
         cross join lateral (select $2 - (($2 - m.xmin::text::bigint + 1048576) & 4294967295) + 1048576 as number \
         where $5 is not null) as n \
         where n.number > $3 and n.number <= $4 and (m.hlc > 0 or m.cols is not null or m.alive) and {bound} \
         order by {keys} limit $1",
        keys = names.join(", "),
        metadata = table.metadata(),
        registers = if table.ruled.rules.are_plain() { "" } else { ", m.registers" },
    )
}

/// Rows that were there before the table was tracked and were not written since.
fn baseline_sql(table: &Tracked, names: &[String], bound: &str) -> String {
    let matching: Vec<String> = (1..)
        .zip(&table.key)
        .map(|(place, column): (usize, _)| format!("m.key_{place} {} d.{}", column.equality, column.quoted()))
        .collect();
    format!(
        "select t.tracked_from, null::boolean, null::bigint, null::integer, null::bigint[], {keys} \
         from {name} as d cross join cloudsync.tables as t \
         where t.table_id = $5 and $2 is not null and $3 is not null and $4 is not null \
         and not exists (select from {metadata} as m where {matching}) and {bound} order by {keys} limit $1",
        keys = names.join(", "),
        name = table.scan(),
        metadata = table.metadata(),
        matching = matching.join(" and "),
    )
}

/// The transaction that tracked a table. Runs as the owner.
fn tracked_from(table: &Tracked) -> i64 {
    let sql = "select t.tracked_from from cloudsync.tables as t where t.table_id = $1";
    query::read(sql, &[Argument::integer(table.table_id)]).first().map_or(0, codec::to_i64)
}

/// Metadata of a row that was there before: see DESIGN section 4.
pub(crate) fn baseline(own: i32) -> Metadata {
    Metadata {
        alive: true,
        hlc: Hlc::BASELINE_CENTRE.to_sql(),
        site: own,
        cols: Vec::new(),
        registers: Vec::new(),
    }
}

fn key_of(table: &Tracked, row: &Tuple) -> Vec<Option<Datum>> {
    (6..).take(table.key.len()).map(|at| row.attribute(at)).collect()
}

/// Values of the rows `d` that the caller sees and of which a condition holds, by their place among the keys.
pub(crate) fn as_caller(
    table: &Tracked,
    keys: &[Vec<Option<Datum>>],
    taken: &str,
) -> HashMap<usize, Vec<Value>> {
    let mut columns = key_columns(table);
    columns.push(InputColumn {
        name: "place".into(),
        type_oid: pg_sys::INT8OID,
        collation: pg_sys::InvalidOid,
    });
    let row = |(place, key): (i64, &Vec<Option<Datum>>)| {
        key.iter().copied().chain([Some(Datum::from(place))]).collect::<Vec<_>>()
    };
    let input = Input { columns, rows: (0..).zip(keys).map(row).collect() };
    let names: String = table.columns.iter().map(|column| format!(", d.{}", column.quoted())).collect();
    let sql = format!(
        "select s.place{names} from cloudsync_rows as s join {} as d on {} where {taken}",
        table.scan(),
        same_key(table, "d", "s"),
    );
    let found = by_index(|| query::read_with_rows(&sql, &[], &input));
    let mut rows = HashMap::new();
    for row in &found.rows {
        let place = row.attribute(1).map_or(-1, codec::to_i64);
        let values = (2..)
            .zip(&table.columns)
            .map(|(at, column)| column.codec.value(row.attribute(at)).to_owned_value())
            .collect();
        if let Ok(place) = usize::try_from(place) {
            rows.insert(place, values);
        }
    }
    rows
}

fn parked_values(
    table: &Tracked,
    state: &RowState,
    row_key: &[u8],
) -> Result<Vec<(usize, Value)>, SyncError> {
    if state.cells.is_empty() {
        return Ok(Vec::new());
    }
    let Some(bytes) = as_owner(|| parked::stored(table, row_key)) else { return Ok(Vec::new()) };
    let cells = parked::known_cells(table, state, &bytes)?;
    Ok(cells.into_iter().map(|(place, _, value)| (place, value.to_owned_value())).collect())
}

/// Metadata of one row, with its registers. Runs as the owner.
pub(crate) fn metadata_of(table: &Tracked, key: &[Option<Datum>]) -> Option<Metadata> {
    let matching: Vec<String> = (1..)
        .zip(&table.key)
        .map(|(place, column): (usize, _)| format!("m.key_{place} {} s.key_{place}", column.equality))
        .collect();
    let sql = format!(
        "select m.alive, m.hlc, m.site, m.cols{} from {} as m, cloudsync_rows as s where {}",
        if table.ruled.rules.are_plain() { "" } else { ", m.registers" },
        table.metadata(),
        matching.join(" and "),
    );
    let input = Input { columns: key_columns(table), rows: vec![key.to_vec()] };
    let found = query::read_with_rows(&sql, &[], &input);
    let row = found.rows.first()?;
    Metadata::from_tuple(row, 1).map(|found| found.with_registers(row, 5))
}
