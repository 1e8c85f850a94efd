//! What apply does beside merging: bad payloads, differing schemas, users' triggers, constraints, clocks.

mod support;

use support::{TODOS, World, apply, encode, open, rows, run};

/// Moves the newest entry of the log in time, so that steps of one millisecond have an order.
fn later(ms: i64) -> String {
    format!("update cloudsync_log set ms = ms + {ms} where seq = (select max(seq) from cloudsync_log)")
}

/// Takes the steps and expects these rows of a query, replica by replica.
fn check(schema: &str, steps: &[&str], query: &str, expected: &[(&str, &str)]) {
    let mut world = World::new(schema);
    world.steps(steps);
    for (name, expected) in expected {
        assert_eq!(&rows(world.replica(name), query, []), expected, "replica {name} after {steps:#?}");
    }
}

/// Everything that a file holds, for comparing before and after.
fn dump(connection: &rusqlite::Connection) -> String {
    let tables = rows(connection, "select name from sqlite_schema where type = 'table' order by name", []);
    tables
        .split("; ")
        .map(|table| format!("{table}: {}\n", rows(connection, &format!("select * from \"{table}\""), [])))
        .collect()
}

const ALL: &str = "select * from todos order by id";

#[test]
fn the_same_payload_again_changes_nothing_and_says_so() {
    let mut world = World::new(TODOS);
    world.steps(&[
        "a: insert into todos values ('1', 'milk', 0), ('2', 'bread', 1)",
        "a: delete from todos where id = '2'",
        "a: update todos set title = 'oats'",
    ]);
    let payload = encode(world.replica("a"), 0);
    let b = world.replica("b");
    assert_eq!(apply(b, payload.as_deref()), Ok(1));
    let before = dump(b);
    for _ in 0..3 {
        assert_eq!(apply(b, payload.as_deref()), Ok(0));
        assert_eq!(dump(b), before);
    }
    assert_eq!(apply(world.replica("a"), payload.as_deref()), Ok(0), "its author knows it too");
    assert_eq!(apply(world.replica("a"), None), Ok(0));
}

#[test]
fn a_damaged_payload_is_an_error_and_changes_nothing() {
    let mut world = World::new(TODOS);
    world.steps(&[
        "a: insert into todos values ('1', 'milk', 0)",
        "a: insert into todos select id || 'x', hex(randomblob(900)), 2 from todos",
        "b: insert into todos values ('9', 'own', 0)",
    ]);
    let payload = encode(world.replica("a"), 0).expect("rows travel");
    let b = world.replica("b");
    let before = dump(b);
    for cut in (0..payload.len()).step_by(7) {
        let error = apply(b, Some(&payload[..cut])).expect_err("a cut payload is refused");
        assert!(error.contains("cloudsync: wrong frame"), "{error}");
    }
    for at in (0..payload.len()).step_by(5) {
        let mut bad = payload.clone();
        bad[at] ^= 0x20;
        apply(b, Some(&bad)).expect_err("a changed payload is refused");
    }
    let twice = [payload.as_slice(), &payload[..40]].concat();
    apply(b, Some(&twice)).expect_err("good frames before a bad one are not applied");
    let error =
        b.query_row("select cloudsync_payload_apply('text')", [], |_row| Ok(())).expect_err("not a blob");
    assert!(error.to_string().contains("argument 1 is text of 4 bytes, wanted a payload (BLOB)"), "{error}");
    let with_folded = rows(b, "select count(*) from todos", []);
    assert_eq!((dump(b), with_folded.as_str()), (before, "1"));
    assert_eq!(apply(b, Some(&payload)), Ok(2), "the good one still goes in");
}

#[test]
fn a_column_on_one_side_only_does_not_hold_up_the_others() {
    let a = open();
    run(&a, "create table t (id integer primary key, both text, only_a text not null default 'da')");
    let b = open();
    run(&b, "create table t (id integer primary key, only_b text not null default 'db', both text)");
    for connection in [&a, &b] {
        rows(connection, "select cloudsync_init('t', 'cls', 1)", []);
    }
    run(&a, "insert into t values (1, 'x', 'a1')");
    run(&b, "insert into t values (2, 'b2', 'y')");
    assert_eq!(apply(&b, encode(&a, 0).as_deref()), Ok(1));
    assert_eq!(apply(&a, encode(&b, 0).as_deref()), Ok(1));
    run(&b, "update t set both = 'z', only_b = 'b1' where id = 1");
    assert_eq!(apply(&a, encode(&b, 0).as_deref()), Ok(1));
    assert_eq!(rows(&a, "select * from t order by id", []), "1 | z | a1; 2 | y | da");
    assert_eq!(rows(&b, "select * from t order by id", []), "1 | b1 | z; 2 | b2 | y");
    assert_eq!(
        rows(&b, "select tbl, col, reason from cloudsync_skipped", []),
        "t | only_a | no such column here"
    );
}

#[test]
fn an_unknown_table_and_another_key_are_skipped_and_recorded() {
    let a = open();
    run(
        &a,
        "create table t (id integer primary key, v); create table u (id integer primary key, v); create table w (id integer primary key, v)",
    );
    let b = open();
    run(
        &b,
        "create table t (v, id text, other, primary key (id, other)); create table w (id integer primary key, v)",
    );
    for (connection, table) in [(&a, "t"), (&a, "u"), (&a, "w"), (&b, "t"), (&b, "w")] {
        rows(connection, "select cloudsync_init(?1, 'cls', 1)", [table]);
    }
    run(&a, "insert into t values (1, 1); insert into u values (1, 1); insert into w values (1, 1)");
    assert_eq!(apply(&b, encode(&a, 0).as_deref()), Ok(1));
    assert_eq!(rows(&b, "select * from w", []), "1 | 1");
    let skipped = rows(&b, "select tbl, reason from cloudsync_skipped", []);
    assert_eq!(skipped, "t | another primary key here; u | no such tracked table here");
}

#[test]
fn parked_cells_are_shown_by_a_creation_that_comes_late() {
    let delete = format!("a: delete from todos; {}", later(10_000));
    let create = format!("c: insert into todos values ('1', 'made by c', 3); {}", later(20_000));
    let update = format!("b: update todos set title = 'newest'; {}", later(30_000));
    let steps = ["a: insert into todos values ('1', 'milk', 0)", "a -> b", &delete, &update, "a -> b"];
    check(TODOS, &steps, ALL, &[("a", ""), ("b", "")]);
    let mut shown = steps.to_vec();
    shown.extend(["b -> a", &create, "c -> b", "c -> a"]);
    check(
        TODOS,
        &shown,
        ALL,
        &[("a", "1 | newest | 3"), ("b", "1 | newest | 3"), ("c", "1 | made by c | 3")],
    );
    shown.push("b -> c");
    check(TODOS, &shown, ALL, &[("c", "1 | newest | 3")]);
    check(TODOS, &shown, "select count(*) from cloudsync_parked", &[("a", "0"), ("b", "0"), ("c", "0")]);
}

#[test]
fn a_later_creation_replaces_the_row_and_resets_what_it_does_not_carry() {
    let later = format!("b: insert into todos (id, title) values ('1', 'b'); {}", later(50));
    let steps = ["a: insert into todos values ('1', 'a', 7)", &later, "a <-> b", "b <-> a"];
    check(TODOS, &steps, ALL, &[("a", "1 | b | 0"), ("b", "1 | b | 0")]);
}

const STAMPED: &str = "create table t (id integer primary key, v text, changed_at integer default 0);
    create table audit (id text primary key, note text);
    create trigger stamp after update of v on t begin update t set changed_at = changed_at + 100 where id = new.id; end;
    create trigger note after update of v on t begin insert into audit values (hex(cloudsync_siteid()), 'v is ' || new.v); end";

#[test]
fn a_users_trigger_does_not_change_what_came_but_may_write_elsewhere() {
    let steps = [
        "a: insert into t values (1, 'x', 0)",
        "a <-> b",
        "a: update t set v = 'y'",
        "a <-> b",
        "a <-> b",
        "a <-> b",
    ];
    check(STAMPED, &steps, "select * from t", &[("a", "1 | y | 100"), ("b", "1 | y | 100")]);
    let notes = "select note, count(*) from audit group by 1";
    check(STAMPED, &steps, notes, &[("a", "v is y | 2"), ("b", "v is y | 2")]);
    let mut world = World::new(STAMPED);
    world.steps(&steps[..3]);
    world.step("a -> b");
    let unsent = "select tbl, cols from cloudsync_log where cols <> -5";
    assert_eq!(rows(world.replica("b"), unsent, []), "2 | -1", "b's own note, no cell of t");
}

#[test]
fn a_trigger_can_tell_that_apply_is_writing() {
    let schema = "create table t (id integer primary key, v text);
        create table seen (id integer primary key, by_sync integer);
        create trigger see after insert on t when not cloudsync_is_sync('t') begin insert into seen values (new.id, 0); end";
    let steps = ["a: insert into t values (1, 'x')", "b: select 1", "a -> b"];
    check(schema, &steps, "select * from t", &[("b", "1 | x")]);
    let mut world = World::new(schema);
    world.steps(&["a: insert into t values (1, 'x')", "b: drop trigger see"]);
    world.step("b: create trigger see after insert on t begin insert into seen values (new.id + 100, cloudsync_is_sync('t')); end");
    world.step("a -> b");
    assert_eq!(rows(world.replica("b"), "select * from seen order by id", []), "1 | 0; 101 | 1");
}

#[test]
fn a_cascade_set_off_by_an_applied_deletion_is_a_local_write() {
    let schema = "create table lists (id integer primary key, v);
        create table todos (id integer primary key, list integer references lists on delete cascade)";
    let steps = [
        "b: pragma foreign_keys = on",
        "a: insert into lists values (1, 'x'); insert into todos values (10, 1)",
        "a -> b",
        "b: insert into todos values (11, 1)",
        "a: delete from lists",
        "a -> b",
        "b -> a",
    ];
    check(schema, &steps, "select id from todos", &[("a", ""), ("b", "")]);
}

#[test]
fn a_trigger_that_deletes_what_came_has_the_last_word() {
    let schema = "create table t (id integer primary key, v text);
        create trigger no_spam after insert on t when new.v = 'spam' begin delete from t where id = new.id; end";
    let steps =
        ["a: drop trigger no_spam", "a: insert into t values (1, 'spam'), (2, 'ham')", "a -> b", "b -> a"];
    check(schema, &steps, "select * from t", &[("a", "2 | ham"), ("b", "2 | ham")]);
}

const PEOPLE: &str =
    "create table people (id integer primary key, mail text unique, age integer check (age < 150))";

#[test]
fn a_row_that_a_constraint_refuses_is_parked_and_tried_again() {
    let clash = [
        "a: insert into people values (1, 'x', 1), (2, 'y', 2)",
        "b: insert into people values (3, 'x', 3)",
        "a -> b",
    ];
    check(PEOPLE, &clash, "select * from people order by id", &[("b", "2 | y | 2; 3 | x | 3")]);
    check(
        PEOPLE,
        &clash,
        "select kind, reason from cloudsync_parked",
        &[("b", "refused | write a row: UNIQUE constraint failed: people.mail")],
    );
    let mut again = clash.to_vec();
    again.extend(["a -> b", "a -> b"]);
    check(PEOPLE, &again, "select count(*) from cloudsync_parked", &[("b", "1")]);
    again.extend(["b: update people set mail = 'z' where id = 3", "c -> b", "a -> b"]);
    check(PEOPLE, &again, "select * from people order by id", &[("b", "1 | x | 1; 2 | y | 2; 3 | z | 3")]);
    check(PEOPLE, &again, "select count(*) from cloudsync_parked", &[("b", "0")]);
}

#[test]
fn a_constraint_that_replaces_rows_leaves_a_deletion() {
    let schema =
        "create table people (id integer primary key, mail text unique on conflict replace, age integer)";
    let steps = [
        "a: insert into people values (1, 'x', 1)",
        "b: insert into people values (2, 'x', 2), (3, 'y', 3)",
        "b -> c",
        "a -> b",
        "b -> c",
    ];
    let all = "select * from people order by id";
    check(schema, &steps, all, &[("b", "1 | x | 1; 3 | y | 3"), ("c", "1 | x | 1; 3 | y | 3")]);
}

#[test]
fn rows_of_an_undefined_table_are_an_error() {
    use shared_format::payload::{ChangesBuilder, PayloadBuilder, encode_frame};
    use shared_format::{RowKind, Stamp, ValueRef};
    let mut world = World::new(TODOS);
    let mut rows = ChangesBuilder::new(9, 1, 1, 1, &[]);
    rows.row(RowKind::Deleted, Stamp::ZERO, &[ValueRef::Integer(1)], &[]);
    let mut payload = PayloadBuilder::new();
    payload.push(rows);
    let error = apply(world.replica("a"), Some(&encode_frame(&payload.finish())));
    assert_eq!(error, Err(String::from("cloudsync: wrong payload: unknown definition of table 9")));
}

#[test]
fn unique_values_that_move_on_within_a_payload_go_in() {
    let steps = [
        "a: insert into people values (1, 'x', 1), (2, 'y', 2)",
        "a -> b",
        "a: update people set mail = 'free' where id = 2; update people set mail = 'y' where id = 1",
        "a -> b",
    ];
    check(PEOPLE, &steps, "select * from people order by id", &[("b", "1 | y | 1; 2 | free | 2")]);
}

#[test]
fn foreign_keys_do_not_ask_for_an_order() {
    let schema = "create table todos (id integer primary key, list integer references lists);
        create table lists (id integer primary key, v)";
    let all = "select (select group_concat(id) from todos), (select group_concat(id) from lists), (select count(*) from cloudsync_parked)";
    let steps = [
        "b: pragma foreign_keys = on",
        "a: insert into lists values (1, 'x'); insert into todos values (10, 1)",
        "a -> b",
    ];
    check(schema, &steps, all, &[("b", "10 | 1 | 0")]);
    let orphan = [
        "b: pragma foreign_keys = on",
        "a: pragma foreign_keys = off; insert into todos values (10, 1), (11, null)",
        "a -> b",
    ];
    check(schema, &orphan, all, &[("b", "11 | NULL | 1")]);
    let reason = "select reason from cloudsync_parked";
    check(schema, &orphan, reason, &[("b", "foreign keys stay open after apply")]);
    let mut found = orphan.to_vec();
    found.extend(["c: insert into lists values (1, 'x')", "c -> b"]);
    check(schema, &found, all, &[("b", "10,11 | 1 | 0")]);
    let kept = [
        "b: pragma foreign_keys = on",
        "a: insert into lists values (1, 'x'), (2, 'y')",
        "a -> b",
        "b: insert into todos values (10, 1)",
        "a: delete from lists",
        "a -> b",
    ];
    check(schema, &kept, all, &[("b", "10 | 1 | 1")]);
    let mut freed = kept.to_vec();
    freed.extend(["b: delete from todos", "c -> b", "a -> b"]);
    check(schema, &freed, all, &[("b", "NULL | NULL | 0")]);
    let deferred = schema.replace("references lists", "references lists deferrable initially deferred");
    check(&deferred, &orphan, all, &[("b", "11 | NULL | 1")]);
}

#[test]
fn a_stamp_from_far_ahead_is_refused() {
    let mut world = World::new(TODOS);
    let ahead = format!("a: insert into todos values ('1', 'future', 0); {}", later(3_600_000));
    world.steps(&[&ahead, "b: insert into todos values ('2', 'now', 0)"]);
    let payload = encode(world.replica("a"), 0);
    let error = apply(world.replica("b"), payload.as_deref()).expect_err("an hour is too much");
    assert!(error.contains("ms ahead of the clock, limit is 60000 ms"), "{error}");
    assert_eq!(rows(world.replica("b"), ALL, []), "2 | now | 0");
    let near = format!("c: insert into todos values ('1', 'soon', 0); {}", later(30_000));
    world.steps(&[&near, "c -> b"]);
    assert_eq!(rows(world.replica("b"), ALL, []), "1 | soon | 0; 2 | now | 0");
}

#[test]
fn a_key_that_would_not_come_back_is_not_written() {
    let a = open();
    run(&a, "create table t (id text primary key, v)");
    let b = open();
    run(&b, "create table t (id integer primary key, v)");
    for connection in [&a, &b] {
        rows(connection, "select cloudsync_init('t', 'cls', 1)", []);
    }
    run(&a, "insert into t values ('01', 'x')");
    assert_eq!(apply(&b, encode(&a, 0).as_deref()), Ok(0));
    assert_eq!(
        rows(&b, "select count(*), (select reason from cloudsync_parked) from t", []),
        "0 | the row key would not come back as it was sent"
    );
}

#[test]
fn an_apply_inside_a_transaction_rolls_back_with_it() {
    let mut world = World::new(TODOS);
    world.step("a: insert into todos values ('1', 'milk', 0)");
    let payload = encode(world.replica("a"), 0);
    let b = world.replica("b");
    let before = dump(b);
    run(b, "begin");
    assert_eq!(apply(b, payload.as_deref()), Ok(1));
    run(b, "rollback");
    assert_eq!(dump(b), before);
    assert_eq!(apply(b, payload.as_deref()), Ok(1));
}

#[test]
fn every_value_comes_back_bit_for_bit() {
    let schema = "create table t (id integer primary key, v)";
    let values = "a: insert into t values (1, null), (2, -9223372036854775808), (3, 1.5), (4, 9e999), (5, -9e999), (6, 'ü☃'), (7, x'00ff'), (8, ''), (9, x''), (10, cast(x'ff61' as text)), (11, 'a' || char(0) || 'b'), (12, 1e-300)";
    let all = "select id, typeof(v), hex(v), quote(v) from t order by id";
    let mut world = World::new(schema);
    world.steps(&[values, "a -> b"]);
    assert_eq!(rows(world.replica("a"), all, []), rows(world.replica("b"), all, []));
}
