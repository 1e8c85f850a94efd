//! Incoming rows in the form of our tables: columns by our ids, values as datums of the column's type.

use std::collections::HashSet;

use pgrx::pg_sys::Datum;
use serde_json::{Value as Json, json};
use shared_format::payload::{Changes, Collection, Payload, TableDefinition};
use shared_format::{
    CellStamp, ColumnId, ColumnRule, FormatError, Hlc, Incoming as Merged, Register, RowKind, SiteId, Stamp,
    Value, ValueRef, decode_key, encode_key,
};

use super::author::Author;
use super::constraints::Constraints;
use super::{REFUSALS_MAX, Refusal, Refused, permanent};
use crate::catalog::Tracked;
use crate::edge::session::as_owner;
use crate::edge::subtransaction::{RolledBack, subtransaction};
use crate::edge::{codec, query};
use crate::error::SyncError;
use crate::stage::Expected;

/// One change of a row.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) kind: RowKind,
    pub(super) stamp: Stamp,
    pub(super) cells: Vec<CellStamp>,
    /// Per cell: its place among the table's columns, and its value.
    pub(super) values: Vec<(usize, Expected)>,
    /// Our columns that it does not carry.
    pub(super) uncarried: Vec<ColumnId>,
}

impl Change {
    /// The change as merge takes it.
    pub(super) fn as_merged(&self) -> Merged<'_> {
        Merged { kind: self.kind, stamp: self.stamp, cells: &self.cells, uncarried: &self.uncarried }
    }

    /// The register that the cell of an index holds; None for a plain value, which a creation carries too.
    pub(super) fn register(&self, index: usize, table: &Tracked) -> Result<Option<Register>, FormatError> {
        let Some((cell, (_, value))) = self.cells.get(index).zip(self.values.get(index)) else {
            return Ok(None);
        };
        let created = (self.kind == RowKind::Created).then_some(self.stamp);
        let rule = table.ruled.rules.of(cell.column);
        match value.value {
            Some(bytes) if rule.is_register() && created != Some(cell.stamp) => {
                Register::decode(rule, &codec::to_bytes(bytes)).map(Some)
            }
            Some(_) | None => Ok(None),
        }
    }

    /// Stamp of the life, if the change says anything of it.
    pub(super) fn life_stamp(&self) -> Option<Hlc> {
        match self.kind {
            RowKind::Cells => None,
            RowKind::Created | RowKind::Deleted => Some(self.stamp.hlc),
        }
    }
}

/// All changes of one row, in the order of the payload.
#[derive(Debug)]
pub(super) struct IncomingRow {
    pub(super) table: usize,
    pub(super) row_key: Vec<u8>,
    pub(super) key: Vec<Option<Datum>>,
    /// The key as it was sent, which may be spelled otherwise than it is stored.
    sent_key: Vec<u8>,
    pub(super) changes: Vec<Change>,
    /// Up to where the author of the payload had dropped tombstones of the table.
    author_horizon: Hlc,
}

impl IncomingRow {
    /// Whether this may be a row whose tombstone is gone here, from an author that never saw it.
    fn may_be_collected(&self, horizon: Hlc) -> bool {
        let is_older = |change: &Change| change.kind == RowKind::Created && change.stamp.hlc < horizon;
        self.author_horizon < horizon && self.changes.iter().any(is_older)
    }

    /// The key as people and clients read it.
    pub(super) fn key_json(&self) -> Json {
        let parts = decode_key(&self.sent_key).unwrap_or_default();
        to_json(&parts.iter().map(Value::as_ref).collect::<Vec<_>>())
    }

    /// The greatest clock that it carries.
    pub(super) fn greatest(&self) -> Hlc {
        let clocks = self.changes.iter().flat_map(|change| {
            change.life_stamp().into_iter().chain(change.cells.iter().map(|cell| cell.stamp.hlc))
        });
        clocks.max().unwrap_or(Hlc::ZERO)
    }

    fn is_deletion(&self) -> bool {
        self.changes.last().is_some_and(|change| change.kind == RowKind::Deleted)
    }
}

/// A payload as rows of our tables.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) tables: Vec<Tracked>,
    /// Sorted by table number and key, which is the order of locks everywhere.
    pub(super) rows: Vec<IncomingRow>,
    /// Per table: parents have smaller ranks than their children.
    pub(super) ranks: Vec<usize>,
    pub(super) refusals: Vec<Refusal>,
    pub(super) skipped: Vec<(String, String)>,
    /// Who hands it over.
    pub(super) author: Author,
    /// This database.
    pub(super) here: SiteId,
    /// How deferred constraints are checked.
    pub(super) constraints: Constraints,
    /// Per table: up to where its tombstones are gone, for a payload that may be from any time.
    pub(super) horizons: Vec<Hlc>,
}

impl Incoming {
    /// The table of a row.
    pub(super) fn table(&self, row: &IncomingRow) -> &Tracked {
        self.tables.get(row.table).expect("a row's table is one of ours")
    }

    /// Refuses a creation that is older than the horizon and whose row nobody here knows.
    pub(super) fn check_horizon(&self, row: &IncomingRow, is_known: bool) -> Result<(), SyncError> {
        let horizon = self.horizons.get(row.table).copied().unwrap_or(Hlc::ZERO);
        if is_known || !row.may_be_collected(horizon) {
            return Ok(());
        }
        let (table, horizon_ms) = (self.table(row).client_name.clone(), horizon.unix_ms());
        Err(SyncError::BehindHorizon { table, author_ms: row.author_horizon.unix_ms(), horizon_ms })
    }

    /// Keeps why a row cannot be brought into our form; of too many, only that they were too many.
    fn refuse(&mut self, refusal: Refusal) {
        let refusal = if self.refusals.len() < REFUSALS_MAX { refusal } else { refusal.one_of_too_many() };
        self.refusals.push(refusal);
    }

    /// Puts the rows into the order of locks, all changes of one row together.
    fn sort(&mut self) {
        let number = |row: &IncomingRow| self.tables.get(row.table).map(|table| table.table_id);
        self.rows.sort_by(|a, b| (number(a), &a.row_key).cmp(&(number(b), &b.row_key)));
        // Changes of one row stand beside each other now, in the order of the payload.
        self.rows.dedup_by(|later, row| {
            let is_same = (later.table, &later.row_key) == (row.table, &row.row_key);
            if is_same {
                row.changes.append(&mut later.changes);
            }
            is_same
        });
    }

    /// Forgets every row but these.
    pub(super) fn keep(&mut self, which: &[usize]) {
        let which: HashSet<usize> = which.iter().copied().collect();
        let mut at = 0..;
        self.rows.retain(|_row| at.next().is_some_and(|at| which.contains(&at)));
    }

    /// These rows in the order in which they most likely succeed: parents first, then deletions, children first.
    pub(super) fn by_dependence(&self, which: &[usize]) -> Vec<usize> {
        let rank = |row: &IncomingRow| self.ranks.get(row.table).copied().unwrap_or(0);
        let mut order = which.to_vec();
        order.sort_by_key(|at| {
            self.rows.get(*at).map(|row| {
                let rank = i64::try_from(rank(row)).unwrap_or(0);
                if row.is_deletion() { (true, -rank) } else { (false, rank) }
            })
        });
        order
    }
}

/// Rows that several payloads left, as if they had come in one; none of none. All were read with the same tables.
pub(super) fn joined(parts: Vec<Incoming>) -> Option<Incoming> {
    let mut parts = parts.into_iter();
    let mut incoming = parts.next()?;
    for mut part in parts {
        incoming.rows.append(&mut part.rows);
    }
    incoming.sort();
    Some(incoming)
}

/// How one table of the payload maps to one of ours.
struct Mapping {
    table: usize,
    /// Per key column of ours: its place in the payload's key.
    key: Vec<usize>,
    /// Per column of the payload: its place among ours.
    columns: Vec<Option<usize>>,
    /// Up to where the author had dropped tombstones.
    author_horizon: Hlc,
}

/// Reads a payload; what cannot be converted is refused.
pub(super) fn read(
    payload: &Payload<'_>,
    tables: Vec<Tracked>,
    author: Author,
    here: SiteId,
) -> Result<Incoming, SyncError> {
    let definitions = payload.definitions()?;
    let ranks = ranks(&tables);
    let mut incoming = Incoming {
        tables,
        rows: Vec::new(),
        ranks,
        refusals: Vec::new(),
        skipped: Vec::new(),
        author,
        here,
        constraints: Constraints::find(author),
        horizons: Vec::new(),
    };
    let collections = payload.collections();
    for changes in payload.changes() {
        let definition = definitions
            .iter()
            .find(|d| {
                (d.table, d.incarnation, d.version)
                    == (changes.table(), changes.incarnation(), changes.version())
            })
            .ok_or(SyncError::MissingDefinition { table: changes.table(), version: changes.version() })?;
        let is_it = |notice: &Collection| {
            (notice.table, notice.incarnation) == (changes.table(), changes.incarnation())
        };
        let dropped = collections.iter().filter(|notice| is_it(notice)).map(|notice| notice.horizon);
        read_changes(&mut incoming, &changes, definition, dropped.max().unwrap_or(Hlc::ZERO))?;
    }
    incoming.sort();
    Ok(incoming)
}

/// A row of the payload, its values still as they travelled.
struct Raw<'a> {
    kind: RowKind,
    stamp: Stamp,
    key: Vec<ValueRef<'a>>,
    cells: Vec<(usize, Stamp, ValueRef<'a>)>,
}

fn read_changes(
    incoming: &mut Incoming,
    changes: &Changes<'_>,
    definition: &TableDefinition,
    author_horizon: Hlc,
) -> Result<(), SyncError> {
    let mapping = map(incoming, changes, definition)?.map(|found| Mapping { author_horizon, ..found });
    let mut rows = changes.rows();
    let mut raws = Vec::with_capacity(changes.row_count());
    while let Some(row) = rows.next_row()? {
        let (found, wanted) = (row.key.len(), definition.key.len());
        if found != wanted {
            return Err(SyncError::KeyShape { table: definition.name.clone(), found, wanted });
        }
        let cells = row.cells.iter().map(|cell| (cell.column, cell.stamp, cell.value)).collect();
        raws.push(Raw { kind: row.kind, stamp: row.stamp, key: row.key.clone(), cells });
    }
    let mapping = match mapping {
        Ok(mapping) => mapping,
        Err(refused) => {
            for raw in &raws {
                let Refused { sqlstate, message } = refused.clone();
                incoming.refuse(refusal(&definition.name, raw, sqlstate, message));
            }
            return Ok(());
        }
    };
    let table = incoming.tables.get(mapping.table).expect("mapped to one of ours");
    let convert = |raw: &Raw<'_>| Ok::<_, SyncError>(convert(table, &mapping, raw));
    let converted: Vec<Result<IncomingRow, Refusal>> =
        match subtransaction(|| raws.iter().map(convert).collect::<Result<Vec<_>, _>>()) {
            Ok(rows) => rows.into_iter().map(Ok).collect(),
            Err(RolledBack::GaveUp(error)) => return Err(error),
            Err(RolledBack::Raised(_)) => raws
                .iter()
                .map(|raw| match subtransaction(|| convert(raw)) {
                    Ok(row) => Ok(Ok(row)),
                    Err(RolledBack::GaveUp(error)) => Err(error),
                    Err(RolledBack::Raised(caught)) => {
                        let refused = permanent(caught);
                        Ok(Err(refusal(&table.client_name, raw, refused.sqlstate, refused.message)))
                    }
                })
                .collect::<Result<Vec<_>, _>>()?,
        };
    for row in converted {
        match row {
            Err(refusal) => incoming.refuse(refusal),
            Ok(row) => incoming.rows.push(row),
        }
    }
    Ok(())
}

/// Finds our table and columns by name; the inner error is why there is none.
fn map(
    incoming: &mut Incoming,
    changes: &Changes<'_>,
    definition: &TableDefinition,
) -> Result<Result<Mapping, Refused>, SyncError> {
    let refused = |sqlstate: &str, message| Ok(Err(Refused { sqlstate: sqlstate.into(), message }));
    // Whoever names a schema means that table, if there is one.
    let qualified =
        |table: &Tracked| definition.schema.as_ref() == Some(&table.schema) && definition.name == table.name;
    let named = |table: &Tracked| definition.name == table.client_name;
    let place = |wanted: &dyn Fn(&Tracked) -> bool| incoming.tables.iter().position(wanted);
    let found = place(&qualified).or_else(|| place(&named));
    let Some((at, table)) = found.and_then(|at| incoming.tables.get(at).map(|table| (at, table))) else {
        return refused("42P01", format!("table {} is not tracked", definition.name));
    };
    if !table.enabled {
        return refused("55000", format!("table {} is disabled", definition.name));
    }
    if let Some(message) = table.unmergeable(definition) {
        return refused("0A000", message);
    }
    let key: Option<Vec<usize>> = table
        .key
        .iter()
        .map(|column| definition.key.iter().position(|part| part.name == column.name))
        .collect();
    let Some(key) = key.filter(|key| key.len() == definition.key.len()) else {
        return refused("42P10", format!("table {} has another primary key here", definition.name));
    };
    let mut columns = Vec::new();
    for id in changes.columns() {
        let known =
            definition.columns.iter().find(|column| column.id == id).ok_or_else(|| {
                SyncError::UnknownColumn { table: definition.name.clone(), column: id.get() }
            })?;
        let place = table.columns.iter().position(|column| column.name == known.name);
        let skipped = (storable(&definition.name), storable(&known.name));
        if place.is_none() && !incoming.skipped.contains(&skipped) {
            incoming.skipped.push(skipped);
        }
        columns.push(place);
    }
    Ok(Ok(Mapping { table: at, key, columns, author_horizon: Hlc::ZERO }))
}

/// Brings a row into our form. Raises what the types' input functions raise.
fn convert(table: &Tracked, mapping: &Mapping, raw: &Raw<'_>) -> IncomingRow {
    let parts: Vec<ValueRef<'_>> = mapping.key.iter().filter_map(|at| raw.key.get(*at).copied()).collect();
    let key: Vec<Option<Datum>> =
        table.key.iter().zip(&parts).map(|(column, value)| column.codec.datum(*value)).collect();
    let stored = table.key.iter().zip(&key).map(|(column, datum)| column.codec.value(*datum));
    let row_key = encode_key(stored.collect::<Vec<_>>());
    let mut cells = Vec::new();
    let mut values = Vec::new();
    for (at, stamp, value) in &raw.cells {
        let Some(place) = mapping.columns.get(*at).copied().flatten() else { continue };
        let Some(column) = table.columns.get(place) else { continue };
        let sent = if column.codec.rewrites_text() { text_of(*value) } else { None };
        cells.push(CellStamp { column: column.column_id(), stamp: *stamp });
        let rule = table.ruled.rules.of(column.column_id());
        let created = (raw.kind == RowKind::Created).then_some(raw.stamp);
        let datum = if rule.is_register() && created != Some(*stamp) {
            Some(register_datum(rule, created, *stamp, *value))
        } else {
            column.codec.datum(*value)
        };
        values.push((place, Expected { value: datum, sent }));
    }
    let carries = |id: ColumnId| cells.iter().any(|cell| cell.column == id);
    let uncarried = table.columns.iter().map(|c| c.column_id()).filter(|id| !carries(*id)).collect();
    let change = Change { kind: raw.kind, stamp: raw.stamp, cells, values, uncarried };
    let sent_key = encode_key(parts);
    IncomingRow {
        table: mapping.table,
        row_key,
        key,
        sent_key,
        changes: vec![change],
        author_horizon: mapping.author_horizon,
    }
}

/// The bytes of a register, checked: what is none refuses its row.
fn register_datum(rule: &ColumnRule, created: Option<Stamp>, stamp: Stamp, value: ValueRef<'_>) -> Datum {
    match (Register::from_cell(rule, created, stamp, value), value) {
        (Ok(_), ValueRef::Blob(bytes)) => codec::bytea(bytes),
        (Ok(register), _plain) => codec::bytea(&register.encode()),
        (Err(error), _) => SyncError::Payload(error).raise(),
    }
}

fn text_of(value: ValueRef<'_>) -> Option<String> {
    match value {
        ValueRef::Text(text) | ValueRef::Json(text) | ValueRef::Jsonb(text) => Some(text.to_owned()),
        _ => None,
    }
}

fn refusal(table: &str, raw: &Raw<'_>, sqlstate: String, message: String) -> Refusal {
    Refusal {
        table: storable(table),
        row_key: encode_key(raw.key.iter().copied()),
        key: to_json(&raw.key),
        sqlstate,
        message: storable(&message),
    }
}

/// Text of a client in a form that can be told and stored: no text of Postgres has a zero byte.
fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// A key as people and clients read it; bytes as {"blob": "<hex>"}.
pub(crate) fn to_json(key: &[ValueRef<'_>]) -> Json {
    let part = |value: &ValueRef<'_>| match *value {
        ValueRef::Null => Json::Null,
        ValueRef::Integer(v) => json!(v),
        ValueRef::Real(v) => json!(v),
        ValueRef::Boolean(v) => json!(v),
        ValueRef::Blob(v) | ValueRef::RawText(v) => {
            json!({ "blob": v.iter().map(|byte| format!("{byte:02x}")).collect::<String>() })
        }
        other => match schema_mapping::to_postgres_text(other) {
            Ok(Some(text)) => json!(storable(&text)),
            Ok(None) | Err(_) => Json::Null,
        },
    };
    Json::Array(key.iter().map(part).collect())
}

/// Depth of each table below the tables that it refers to; cycles end where they close.
fn ranks(tables: &[Tracked]) -> Vec<usize> {
    let edges = as_owner(|| query::run(include_str!("../../../sql/postgres/library/references.sql"), &[]));
    let place = |datum: Option<Datum>| {
        let id = crate::edge::codec::to_i32(datum?);
        tables.iter().position(|table| table.table_id == id)
    };
    let edges: Vec<(usize, usize)> = edges
        .rows
        .iter()
        .filter_map(|row| Some((place(row.attribute(1))?, place(row.attribute(2))?)))
        .collect();
    let mut ranks = vec![0_usize; tables.len()];
    for _ in 0..tables.len() {
        for (child, parent) in &edges {
            let above = ranks.get(*parent).copied().unwrap_or(0);
            if let Some(rank) = ranks.get_mut(*child)
                && *rank <= above
                && above < tables.len()
            {
                *rank = above.saturating_add(1);
            }
        }
    }
    ranks
}
