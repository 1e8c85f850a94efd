//! Feeds well-formed payloads with any contents to `cloudsync_payload_apply`: strange keys, values of every
//! type, wrong and missing columns, stamps in any order.

#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use shared_format::payload::{
    ChangesBuilder, ColumnAlgorithm, ColumnDefinition, PayloadBuilder, TableAlgorithm, TableDefinition,
    encode_frame,
};
use shared_format::{ColumnId, Hlc, RowKind, SiteId, Stamp, Value};

thread_local! {
    static REPLICA: rusqlite::Connection = replica::open();
}

/// Tables of the replica with the names of their key and other columns, and one that it does not have.
const TABLES: [(&str, &[&str], &[&str]); 4] = [
    ("lists", &["id"], &["title", "place"]),
    ("todos", &["list", "at"], &["title", "done", "body"]),
    ("numbers", &["n"], &["v"]),
    ("strangers", &["id"], &["x"]),
];

#[derive(Arbitrary, Debug)]
enum Cell {
    Null,
    Small(u8),
    Integer(i64),
    Real(f64),
    Name(u8),
    Text(String),
    Blob(Vec<u8>),
    RawText(Vec<u8>),
    Boolean(bool),
    Numeric(String),
    Timestamp(i64),
    Date(i32),
    Time(i64),
    Uuid([u8; 16]),
    Json(String),
    Other(String, String),
}

#[derive(Arbitrary, Debug)]
struct Row {
    kind: u8,
    ms: u16,
    site: u8,
    key: [Cell; 2],
    cells: Vec<(u8, Option<(u16, u8)>, Cell)>,
}

#[derive(Arbitrary, Debug)]
struct Batch {
    table: u8,
    extra_column: Option<String>,
    missing_columns: u8,
    key_shift: bool,
    algorithm: Option<u8>,
    rows: Vec<Row>,
}

#[derive(Arbitrary, Debug)]
struct Input {
    frames: Vec<Vec<Batch>>,
}

fuzz_target!(|input: Input| {
    let frames: Vec<u8> = input.frames.iter().flat_map(|batches| encode_frame(&payload(batches))).collect();
    REPLICA.with(|connection| replica::apply_and_undo(connection, &frames, true));
});

fn payload(batches: &[Batch]) -> Vec<u8> {
    let mut payload = PayloadBuilder::new();
    for (number, batch) in (1..).zip(batches) {
        let definition = definition(batch, number);
        let columns: Vec<ColumnId> = definition.columns.iter().map(|column| column.id).collect();
        let mut changes = ChangesBuilder::new(number, 7, 1, definition.key.len(), &columns);
        for row in &batch.rows {
            push(row, definition.key.len(), columns.len(), &mut changes);
        }
        payload.definition(&definition);
        payload.push(changes);
    }
    payload.finish()
}

fn definition(batch: &Batch, number: u32) -> TableDefinition {
    let (name, key, columns) = TABLES[usize::from(batch.table) % TABLES.len()];
    let mut id = 0;
    let mut column = |name: &str| {
        id += 1;
        ColumnDefinition {
            id: ColumnId::new(id),
            name: name.to_owned(),
            type_name: String::new(),
            algorithm: ColumnAlgorithm::Lww,
            group: None,
        }
    };
    let mut key: Vec<_> = key.iter().map(|name| column(name)).collect();
    if batch.key_shift {
        key.rotate_left(1);
    }
    let kept = columns.len() - usize::from(batch.missing_columns) % (columns.len() + 1);
    let extra = batch.extra_column.iter().map(String::as_str).filter(|name| !name.is_empty());
    let columns = columns.iter().copied().take(kept).chain(extra).map(&mut column).collect();
    TableDefinition {
        table: number,
        incarnation: 7,
        version: 1,
        name: name.to_owned(),
        schema: None,
        algorithm: batch
            .algorithm
            .and_then(|code| TableAlgorithm::from_code(code % 4).ok())
            .unwrap_or(TableAlgorithm::Cls),
        key,
        columns,
        scoped: false,
        row_security: false,
    }
}

fn push(row: &Row, key_len: usize, columns: usize, changes: &mut ChangesBuilder) {
    let kind = [RowKind::Cells, RowKind::Created, RowKind::Deleted][usize::from(row.kind) % 3];
    let key: Vec<Value> = row.key.iter().take(key_len).map(value).collect();
    let mut cells: Vec<(usize, Option<Stamp>, Value)> = if columns == 0 {
        Vec::new()
    } else {
        let stamp_of = |own: &(u16, u8)| stamp(own.0, own.1);
        row.cells
            .iter()
            .map(|(at, own, cell)| (usize::from(*at) % columns, own.as_ref().map(stamp_of), value(cell)))
            .collect()
    };
    cells.sort_by_key(|(at, _, _)| *at);
    cells.dedup_by_key(|(at, _, _)| *at);
    let key: Vec<_> = key.iter().map(Value::as_ref).collect();
    let cells: Vec<_> = cells.iter().map(|(at, own, value)| (*at, *own, value.as_ref())).collect();
    changes.row(kind, stamp(row.ms, row.site), &key, &cells);
}

fn stamp(ms: u16, site: u8) -> Stamp {
    // Half of them lie before anything that the replica wrote, half after it, within the minute allowed.
    let base = if ms & 1 == 0 { 0 } else { replica_ms() };
    let hlc = Hlc::from_parts(base + i64::from(ms), u16::from(site >> 4));
    Stamp { hlc, site: SiteId::from_bytes([site & 3; 16]) }
}

fn replica_ms() -> i64 {
    use std::time::{SystemTime, UNIX_EPOCH};
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
    i64::try_from(now.as_millis()).expect("it is before the year 290,000,000") - 20_000
}

fn value(cell: &Cell) -> Value {
    match cell {
        Cell::Null => Value::Null,
        Cell::Small(v) => Value::Integer(i64::from(v % 4)),
        Cell::Integer(v) => Value::Integer(*v),
        Cell::Real(v) => Value::Real(*v),
        Cell::Name(v) => Value::Text(["a", "b", "c", "d", "touch", "never"][usize::from(*v) % 6].to_owned()),
        Cell::Text(v) => Value::Text(v.clone()),
        Cell::Blob(v) => Value::Blob(v.clone()),
        Cell::RawText(v) => Value::RawText(v.clone()),
        Cell::Boolean(v) => Value::Boolean(*v),
        Cell::Numeric(v) => Value::Numeric(v.clone()),
        Cell::Timestamp(v) => Value::TimestampTz(*v),
        Cell::Date(v) => Value::Date(*v),
        Cell::Time(v) => Value::Time(*v),
        Cell::Uuid(v) => Value::Uuid(*v),
        Cell::Json(v) => Value::Jsonb(v.clone()),
        Cell::Other(type_name, text) => Value::Other { type_name: type_name.clone(), text: text.clone() },
    }
}
