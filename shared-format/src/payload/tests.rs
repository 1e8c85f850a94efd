//! Payloads read back as they were written, and nothing that is not a payload is read.

use alloc::vec;
use alloc::vec::Vec;

use super::*;
use crate::clock::{Hlc, SiteId, Stamp};
use crate::error::FormatError;
use crate::merge::RowKind;
use crate::row_state::ColumnId;
use crate::value::ValueRef;

const COLUMNS: [ColumnId; 3] = [ColumnId::new(2), ColumnId::new(3), ColumnId::new(70)];

fn stamp(hlc: u64, site: u8) -> Stamp {
    Stamp { hlc: Hlc::from_raw(hlc), site: SiteId::from_bytes([site; 16]) }
}

type CellIn<'a> = (usize, Option<Stamp>, ValueRef<'a>);
type RowIn<'a> = (RowKind, Stamp, Vec<ValueRef<'a>>, Vec<CellIn<'a>>);

fn sample() -> Vec<RowIn<'static>> {
    vec![
        (
            RowKind::Created,
            stamp(10, 1),
            vec![ValueRef::Integer(1), ValueRef::Text("a")],
            vec![
                (0, None, ValueRef::Null),
                (1, Some(stamp(11, 2)), ValueRef::Real(-0.0)),
                (2, None, ValueRef::Uuid([9; 16])),
            ],
        ),
        (RowKind::Deleted, stamp(u64::MAX, 3), vec![ValueRef::Integer(2), ValueRef::Text("")], vec![]),
        (
            RowKind::Cells,
            stamp(12, 1),
            vec![ValueRef::Integer(3), ValueRef::Text("ü\0")],
            vec![
                (0, None, ValueRef::Blob(&[0, 255])),
                (2, Some(stamp(13, 1)), ValueRef::Other { type_name: "inet", text: "::1" }),
            ],
        ),
        (
            RowKind::Cells,
            stamp(12, 1),
            vec![ValueRef::Integer(4), ValueRef::Text("d")],
            vec![(1, None, ValueRef::Date(i32::MIN)), (2, None, ValueRef::RawText(&[0xff]))],
        ),
    ]
}

fn encode(rows: &[RowIn<'_>]) -> Vec<u8> {
    let mut payload = PayloadBuilder::new();
    let mut changes = ChangesBuilder::new(5, 77, 2, 2, &COLUMNS);
    for (kind, stamp, key, cells) in rows {
        changes.row(*kind, *stamp, key, cells);
    }
    payload.push(changes);
    payload.finish()
}

fn check_rows(bytes: &[u8], expected: &[RowIn<'_>]) {
    let payload = Payload::parse(bytes).unwrap();
    let batches = payload.changes();
    let [changes] = batches.as_slice() else { panic!("one batch") };
    assert_eq!((changes.table(), changes.incarnation(), changes.version()), (5, 77, 2));
    let used = |at: usize| expected.iter().any(|(_, _, _, cells)| cells.iter().any(|cell| cell.0 == at));
    let places: Vec<usize> = (0..COLUMNS.len()).filter(|at| used(*at)).collect();
    let columns: Vec<ColumnId> = places.iter().map(|at| COLUMNS[*at]).collect();
    assert_eq!(changes.columns(), columns, "a column travels if a row has a cell of it");
    let mut cursor = changes.rows();
    for (kind, stamp, key, cells) in expected {
        let row = cursor.next_row().unwrap().unwrap();
        assert_eq!((row.kind, row.stamp), (*kind, *stamp));
        assert_eq!(&row.key, key);
        let cells: Vec<Cell<'_>> = cells
            .iter()
            .map(|(column, own, value)| {
                let column = places.iter().position(|place| place == column).unwrap();
                Cell { column, stamp: own.unwrap_or(*stamp), value: *value }
            })
            .collect();
        assert_eq!(row.cells, cells);
    }
    assert_eq!(cursor.next_row(), Ok(None));
}

#[test]
fn rows_read_back() {
    let rows = sample();
    check_rows(&encode(&rows), &rows);
    check_rows(&encode(&rows[1..2]), &rows[1..2]);
    check_rows(&encode(&rows[3..]), &rows[3..]);
    check_rows(&encode(&rows[2..3]), &rows[2..3]);
    check_rows(&encode(&[]), &[]);
}

#[test]
fn appended_rows_read_back_under_other_site_numbers() {
    let rows = sample();
    let bytes = encode(&rows);
    let mut builder = PayloadBuilder::new();
    let mut first = ChangesBuilder::new(1, 1, 1, 1, &[]);
    first.row(RowKind::Deleted, stamp(1, 9), &[ValueRef::Integer(1)], &[]);
    builder.push(first);
    builder.append(&Payload::parse(&bytes).unwrap().changes()[0]);
    let joined = builder.finish();
    let mut again = PayloadBuilder::new();
    again.append(&Payload::parse(&joined).unwrap().changes()[1]);
    check_rows(&again.finish(), &rows);
}

#[test]
fn a_bulk_insert_costs_one_stamp_and_no_bitmaps() {
    let encoded = |count: i64| {
        let mut changes = ChangesBuilder::new(1, 1, 1, 1, &COLUMNS);
        for key in 0..count {
            let cells = [0, 1, 2].map(|column| (column, None, ValueRef::Integer(key)));
            changes.row(RowKind::Created, stamp(1, 1), &[ValueRef::Integer(key)], &cells);
        }
        let mut payload = PayloadBuilder::new();
        payload.push(changes);
        payload.finish().len()
    };
    assert_eq!(encoded(2_000) - encoded(1_000), 1_000 * 4 * 8);
}

fn definition() -> TableDefinition {
    let column = |id, name: &str| ColumnDefinition {
        id: ColumnId::new(id),
        name: name.into(),
        type_name: "text".into(),
        algorithm: ColumnAlgorithm::Lww,
        group: None,
    };
    TableDefinition {
        table: 5,
        incarnation: 77,
        version: 2,
        name: "to do".into(),
        schema: Some("app".into()),
        algorithm: TableAlgorithm::Cls,
        key: vec![column(1, "id")],
        columns: vec![column(2, "title"), column(3, "done")],
        scoped: true,
        row_security: true,
    }
}

#[test]
fn definitions_and_reloads_read_back() {
    let mut builder = PayloadBuilder::new();
    assert!(builder.is_empty());
    builder.definition(&definition());
    builder.reload(5, 77, "filled before init");
    assert!(!builder.is_empty());
    let bytes = builder.finish();
    let payload = Payload::parse(&bytes).unwrap();
    assert_eq!(payload.definitions(), Ok(vec![definition()]));
    let reload = Reload { table: 5, incarnation: 77, reason: "filled before init".into() };
    assert_eq!(payload.reloads(), vec![reload]);
    assert!(payload.changes().is_empty());
}

#[test]
fn collections_read_back_and_are_bounded() {
    let notice = Collection { table: 5, incarnation: 77, horizon: Hlc::from_raw(u64::MAX) };
    let parsed = |count: usize| {
        let mut builder = PayloadBuilder::new();
        assert!(builder.is_empty());
        (0..count).for_each(|_| builder.collection(notice));
        assert_eq!(builder.is_empty(), count == 0);
        Payload::parse(&builder.finish()).map(|payload| payload.collections())
    };
    for count in [0, 1, 10_000] {
        assert_eq!(parsed(count), Ok(vec![notice; count]));
    }
    let part = "collections";
    assert_eq!(parsed(10_001), Err(FormatError::Structure { part, found: 10_001, wanted: 10_000 }));
}

fn check_definition_refused(change: impl FnOnce(&mut TableDefinition), part: &'static str) {
    let mut wrong = definition();
    change(&mut wrong);
    let mut builder = PayloadBuilder::new();
    builder.definition(&wrong);
    let bytes = builder.finish();
    match Payload::parse(&bytes).unwrap().definitions() {
        Err(FormatError::Structure { part: found, .. }) => assert_eq!(found, part),
        other => panic!("wanted a structure error, found {other:?}"),
    }
}

#[test]
fn a_definition_that_cannot_be_is_refused() {
    check_definition_refused(|definition| definition.key.clear(), "definition: key columns");
    check_definition_refused(|definition| definition.name.clear(), "definition: name");
    check_definition_refused(|definition| definition.columns[0].name.clear(), "column: name");
    let widen = |definition: &mut TableDefinition| {
        definition.columns = vec![definition.columns[0].clone(); COLUMNS_MAX];
    };
    check_definition_refused(widen, "definition: columns");
}

/// Reads everything; returns whether all of it could be read.
fn read_all(bytes: &[u8]) -> Result<(), FormatError> {
    let payload = Payload::parse(bytes)?;
    payload.definitions()?;
    drop(payload.collections());
    for changes in payload.changes() {
        let mut cursor = changes.rows();
        let mut row = 0;
        while cursor.next_row()?.is_some() {
            if let Some(scopes) = changes.scopes() {
                scopes.before(row)?;
                scopes.now(row)?;
            }
            row += 1;
        }
    }
    for eviction in payload.evictions() {
        let mut keys = eviction.keys();
        while keys.next_key()?.is_some() {}
    }
    Ok(())
}

#[test]
fn no_changed_byte_makes_a_reader_panic() {
    let mut builder = PayloadBuilder::new();
    builder.definition(&definition());
    builder.append(&Payload::parse(&encode(&sample())).unwrap().changes()[0]);
    builder.collection(Collection { table: 5, incarnation: 77, horizon: Hlc::from_raw(9) });
    builder.evict_all(&Payload::parse(&encode(&sample())).unwrap().changes()[0]);
    let (old, new) = (vec![vec!["a"], vec!["b"]], vec![vec!["b", "c"], vec![]]);
    builder.push(scoped(&old, &new));
    let good = builder.finish();
    assert_eq!(read_all(&good), Ok(()));
    let mut refused = 0;
    for at in 0..good.len() {
        // FlatBuffers may end with a few bytes of padding, which nobody reads.
        let cut_matters = at + 8 <= good.len();
        assert!(!cut_matters || read_all(&good[..at]).is_err(), "cut at {at}");
        for bits in [0x01, 0x80, 0xff] {
            let mut bad = good.clone();
            bad[at] ^= bits;
            refused += usize::from(read_all(&bad).is_err());
        }
    }
    assert!(refused > good.len() / 2, "most changes are noticed even without the frame: {refused}");
}

/// Deletions of the rows 0, 1, ... with these readers before and after.
fn scoped(old: &[Vec<&str>], new: &[Vec<&str>]) -> ChangesBuilder {
    let mut changes = ChangesBuilder::new(5, 77, 2, 2, &COLUMNS);
    for (key, (old, new)) in (0_i64..).zip(old.iter().zip(new)) {
        changes.row(RowKind::Deleted, stamp(1, 1), &[ValueRef::Integer(key), ValueRef::Text("k")], &[]);
        changes.old_scopes(old);
        changes.new_scopes(new);
    }
    changes
}

fn check_scopes(old: &[Vec<&str>], new: &[Vec<&str>], agree: bool) {
    let mut builder = PayloadBuilder::new();
    builder.push(scoped(old, new));
    let bytes = builder.finish();
    let changes = Payload::parse(&bytes).unwrap().changes()[0];
    let scopes = changes.scopes().unwrap();
    assert_eq!(scopes.agree(), agree);
    for row in 0..old.len() {
        assert_eq!(
            (scopes.before(row), scopes.now(row)),
            (Ok(old[row].clone()), Ok(new[row].clone())),
            "{row}"
        );
    }
    let mut copy = PayloadBuilder::new();
    copy.append(&changes);
    let copied = copy.finish();
    assert!(Payload::parse(&copied).unwrap().changes()[0].scopes().is_none(), "scopes stay at the hub");
}

#[test]
fn readers_of_rows_read_back_and_are_left_out_of_copies() {
    check_scopes(&[vec!["a"]], &[vec!["b", "c"]], true);
    check_scopes(&[vec![], vec![]], &[vec!["a"], vec!["a"]], true);
    check_scopes(&[vec![""], vec!["a"]], &[vec![], vec!["a", "b"]], false);
}

#[test]
fn readers_count_towards_the_size_of_a_batch() {
    let none = vec![vec![]; 100];
    let names: Vec<alloc::string::String> =
        (0..10_000).map(|number| alloc::format!("team {number}")).collect();
    let many: Vec<Vec<&str>> =
        (0..100).map(|row| names.iter().skip(row).map(|name| name.as_str()).collect()).collect();
    let size = scoped(&none, &many).byte_len();
    let mut builder = PayloadBuilder::new();
    builder.push(scoped(&none, &many));
    let bytes = builder.finish().len();
    assert!(size.abs_diff(bytes) < bytes / 4, "{size} of {bytes} bytes");
}

#[test]
fn rows_without_readers_are_read_by_everybody() {
    let bytes = encode(&sample());
    assert!(Payload::parse(&bytes).unwrap().changes()[0].scopes().is_none());
    let mut changes = ChangesBuilder::new(5, 77, 2, 1, &[]);
    changes.row(RowKind::Deleted, stamp(1, 1), &[ValueRef::Integer(1)], &[]);
    changes.new_scopes(&["a"]);
    let mut builder = PayloadBuilder::new();
    builder.push(changes);
    let bytes = builder.finish();
    let scopes = Payload::parse(&bytes).unwrap().changes()[0].scopes().unwrap();
    assert_eq!((scopes.before(0), scopes.now(0)), (Ok(vec![SCOPE_EVERYBODY]), Ok(vec!["a"])));
}

#[test]
fn rows_to_forget_read_back() {
    let mut builder = PayloadBuilder::new();
    let mut eviction = EvictionBuilder::new(5, 77, 2, 2);
    eviction.key(&[ValueRef::Integer(1), ValueRef::Text("a")]);
    eviction.key(&[ValueRef::Integer(3), ValueRef::Text("c")]);
    builder.push_eviction(eviction);
    builder.evict_all(&Payload::parse(&encode(&sample()[..2])).unwrap().changes()[0]);
    assert!(!builder.is_empty());
    let bytes = builder.finish();
    let evictions = Payload::parse(&bytes).unwrap().evictions();
    let mut found = Vec::new();
    for eviction in &evictions {
        assert_eq!((eviction.table(), eviction.incarnation(), eviction.version()), (5, 77, 2));
        let mut keys = eviction.keys();
        while let Some(key) = keys.next_key().unwrap() {
            found.push(key.to_vec());
        }
    }
    let key = |part, text| vec![ValueRef::Integer(part), ValueRef::Text(text)];
    assert_eq!(found, [key(1, "a"), key(3, "c"), key(1, "a"), key(2, "")]);
}

#[test]
fn rows_to_forget_without_keys_are_refused() {
    let mut builder = PayloadBuilder::new();
    builder.push_eviction(EvictionBuilder::new(5, 77, 2, 0));
    let part = "rows: key columns";
    let refused = Payload::parse(&builder.finish()).map(drop);
    assert_eq!(refused, Err(FormatError::Structure { part, found: 0, wanted: 1 }));
}

#[test]
fn a_row_count_without_bytes_behind_it_is_refused() {
    let mut changes = ChangesBuilder::new(1, 1, 1, 1, &[]);
    changes.row(RowKind::Deleted, stamp(1, 1), &[ValueRef::Null], &[]);
    let mut builder = PayloadBuilder::new();
    builder.push(changes);
    let expected = FormatError::Structure { part: "rows: key parts", found: 0, wanted: 1 };
    assert_eq!(Payload::parse(&builder.finish()).map(drop), Err(expected));
}

#[test]
fn null_in_a_row_key_is_refused() {
    // The UUID takes the place of two parts, so that counting them does not find the missing one.
    let key = |first| vec![first, ValueRef::Text("a")];
    let rows = [ValueRef::Uuid([1; 16]), ValueRef::Null]
        .map(|first| (RowKind::Deleted, stamp(1, 1), key(first), vec![]));
    let part = "row key: parts that are not NULL";
    assert_eq!(read_all(&encode(&rows)), Err(FormatError::Structure { part, found: 1, wanted: 2 }));
}

#[test]
fn foreign_bytes_are_no_payload() {
    for bytes in [&b""[..], b"hello, world", &[0; 64]] {
        assert_eq!(Payload::parse(bytes).map(drop), Err(FormatError::Verifier));
    }
}
