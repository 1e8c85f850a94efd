//! Payloads that come twice, in another order, in part, damaged, or with very large cells.

mod support;

use std::fmt::Write as _;

use shared_format::payload::{
    ChangesBuilder, Limits, Payload, PayloadBuilder, TableDefinition, encode_frame,
};
use shared_format::payload::{ColumnAlgorithm, ColumnDefinition, TableAlgorithm, decode_frame};
use shared_format::{ColumnId, Hlc, RowKind, SiteId, Stamp, ValueRef};
use support::{TODOS, World, apply, encode, open, rows, run};

const ALL: &str = "select * from todos order by id";

/// Everything that a file holds, for comparing before and after.
fn dump(connection: &rusqlite::Connection) -> String {
    let tables = rows(connection, "select name from sqlite_schema where type = 'table' order by name", []);
    tables.split("; ").fold(String::new(), |mut all, table| {
        let sql = format!("select * from \"{table}\"");
        writeln!(all, "{table}: {}", rows(connection, &sql, [])).expect("a string grows");
        all
    })
}

/// Takes the steps by `a`, then applies its exports, each a frame, at `b` in an order; expects these rows.
fn check(steps: &[&str], order: &[usize], expected: &str) {
    let mut world = World::new(TODOS);
    let mut frames = Vec::new();
    for step in steps {
        let since = rows(world.replica("a"), "select cloudsync_db_version()", []);
        world.step(&format!("a: {step}"));
        frames.push(encode(world.replica("a"), since.parse().expect("a number")).expect("something travels"));
    }
    let b = world.replica("b");
    for at in order {
        apply(b, Some(&frames[*at])).expect("apply works");
    }
    assert_eq!(rows(b, ALL, []), expected, "frames in the order {order:?}");
    let c = open();
    run(&c, TODOS);
    rows(&c, "select cloudsync_init('todos')", []);
    let joined: Vec<u8> = order.iter().flat_map(|at| frames[*at].clone()).collect();
    apply(&c, Some(&joined)).expect("frames can follow each other");
    assert_eq!(rows(&c, ALL, []), expected, "in one payload, in the order {order:?}");
    assert_eq!(apply(&c, Some(&joined)), Ok(0), "again it changes nothing and says so");
}

#[test]
fn frames_may_come_in_any_order_and_more_than_once() {
    let steps = [
        "insert into todos values ('1', 'milk', 0), ('2', 'bread', 0)",
        "update todos set title = 'oats' where id = '1'",
        "delete from todos where id = '2'",
        "insert into todos values ('2', 'rolls', 1)",
    ];
    for order in
        [&[0, 1, 2, 3][..], &[3, 2, 1, 0], &[1, 0, 3, 2], &[2, 3, 0, 1], &[0, 0, 1, 3, 1, 2, 3, 0, 2]]
    {
        check(&steps, order, "1 | oats | 0; 2 | rolls | 1");
    }
    check(&steps[..3], &[2, 1], "1 | oats | 0");
    check(&steps[..3], &[2, 0], "1 | milk | 0");
}

#[test]
fn a_failure_in_the_middle_leaves_nothing() {
    let mut world = World::new(TODOS);
    world.step("a: insert into todos values ('1', 'milk', 0)");
    let first = encode(world.replica("a"), 0).expect("a row travels");
    world.step("a: insert into todos values ('2', 'bread', 0)");
    let second = encode(world.replica("a"), 0).expect("rows travel");
    let b = world.replica("b");
    run(b, "create table big (id text primary key, v)");
    rows(b, "select cloudsync_init('big')", []);
    run(b, "insert into todos values ('9', 'own', 0)");
    for settings in ["pragma foreign_keys = on", "pragma foreign_keys = off"] {
        run(b, settings);
        let before = dump(b);
        for cut in 1..second.len() {
            let joined = [&first[..], &second[..cut]].concat();
            apply(b, Some(&joined)).expect_err("a cut frame is an error");
        }
        assert_eq!(dump(b), before);
        run(b, "begin; update todos set done = 7");
        apply(b, Some(&[&first[..], &second[..9]].concat())).expect_err("a cut frame is an error");
        assert_eq!(rows(b, ALL, []), "9 | own | 7", "the user's transaction goes on");
        run(b, "rollback");
        assert_eq!(dump(b), before);
    }
    assert_eq!(apply(b, Some(&[first, second].concat())), Ok(2));
}

/// A payload of one row with one cell of this many bytes.
fn with_cell(bytes: usize) -> Vec<u8> {
    let column = |id, name: &str| ColumnDefinition {
        id: ColumnId::new(id),
        name: name.into(),
        type_name: "blob".into(),
        algorithm: ColumnAlgorithm::Lww,
        group: None,
    };
    let definition = TableDefinition {
        table: 1,
        incarnation: 1,
        version: 1,
        name: "big".into(),
        schema: None,
        algorithm: TableAlgorithm::Cls,
        key: vec![column(1, "id")],
        columns: vec![column(2, "v")],
        scoped: false,
        row_security: false,
    };
    let stamp = Stamp { hlc: Hlc::from_parts(1_000, 0), site: SiteId::from_bytes([7; 16]) };
    let mut changes = ChangesBuilder::new(1, 1, 1, 1, &[ColumnId::new(2)]);
    let cell = vec![7; bytes];
    changes.row(RowKind::Created, stamp, &[ValueRef::Text("1")], &[(0, None, ValueRef::Blob(&cell))]);
    let mut payload = PayloadBuilder::new();
    payload.definition(&definition);
    payload.push(changes);
    let frame = encode_frame(&payload.finish());
    let (body, _) = decode_frame(&frame, &Limits::UPLOAD).expect("within the limits of a frame");
    Payload::parse(&body).expect("a payload");
    frame
}

#[test]
fn a_cell_of_32_mib_goes_in_and_one_byte_more_is_refused() {
    let connection = open();
    run(&connection, "create table big (id text primary key, v)");
    rows(&connection, "select cloudsync_init('big')", []);
    let limit = 32 * 1024 * 1024;
    let error = apply(&connection, Some(&with_cell(limit + 1))).expect_err("one byte too many");
    assert!(error.contains("cell") && error.contains("33554433") && error.contains("33554432"), "{error}");
    assert_eq!(rows(&connection, "select count(*) from big", []), "0");
    assert_eq!(apply(&connection, Some(&with_cell(limit))), Ok(1));
    assert_eq!(rows(&connection, "select length(v) from big", []), "33554432");
    assert_eq!(apply(&connection, Some(&with_cell(limit))), Ok(0));
}

#[test]
fn a_column_of_another_type_or_name_does_not_hold_up_the_rest() {
    let a = open();
    run(&a, "create table t (id text primary key, n integer, renamed text, old text)");
    let b = open();
    run(&b, "create table t (id text primary key, n text, fresh text, OLD text)");
    for connection in [&a, &b] {
        rows(connection, "select cloudsync_init('t')", []);
    }
    run(&a, "insert into t values ('1', 42, 'x', 'y')");
    run(&b, "insert into t values ('2', 'text', 'z', 'w')");
    assert_eq!(apply(&b, encode(&a, 0).as_deref()), Ok(1));
    assert_eq!(apply(&a, encode(&b, 0).as_deref()), Ok(1));
    let all = "select id, n, typeof(n), coalesce(old, '') from t order by id";
    assert_eq!(rows(&a, all, []), "1 | 42 | integer | y; 2 | text | text | w");
    assert_eq!(rows(&b, all, []), "1 | 42 | text | y; 2 | text | text | w");
    let skipped = "select col, reason from cloudsync_skipped";
    assert_eq!(rows(&a, skipped, []), "fresh | no such column here");
    assert_eq!(rows(&b, skipped, []), "renamed | no such column here");
    assert_eq!(apply(&b, encode(&a, 0).as_deref()), Ok(0), "the other type is no change");
}

#[test]
fn a_whole_table_that_comes_again_brings_only_what_is_new() {
    let fill = "with recursive n(i) as (select 0 union all select i + 1 from n where i < 199)
        insert into pairs select printf('Key%03d', i / 2), i % 2, 'sent ' || i from n";
    let create =
        "create table pairs (name text collate nocase, part integer, title text, primary key (name, part))";
    let mut world = World::new(create);
    world.step(&format!("a: {fill}"));
    world.step("a <-> b");
    for step in [
        "a: update pairs set title = 'newer' where name in ('Key030', 'Key075')",
        "a: delete from pairs where name = 'Key020'",
        "a: insert into pairs values ('Key0455', 0, 'between')",
        "b: update pairs set title = 'own' where name = 'Key040'",
        "b: delete from pairs where name = 'Key060' and part = 1",
        "b: insert into pairs values ('Key0555', 7, 'own')",
    ] {
        world.step(step);
    }
    let all = encode(world.replica("a"), 0).expect("something travels");
    assert_eq!(apply(world.replica("b"), Some(&all)), Ok(7), "four cells, two deletions, one row");
    assert_eq!(apply(world.replica("b"), Some(&all)), Ok(0), "again it changes nothing and says so");
    let titles =
        "select title, count(*) from pairs where title not like 'sent%' group by title order by title";
    assert_eq!(rows(world.replica("b"), titles, []), "between | 1; newer | 4; own | 3");
    assert_eq!(rows(world.replica("b"), "select count(*) from pairs", []), "199");
    world.step("a <-> b");
    let everything = "select * from pairs order by name, part";
    let found = rows(world.replica("b"), everything, []);
    assert_eq!(rows(world.replica("a"), everything, []), found);
}
