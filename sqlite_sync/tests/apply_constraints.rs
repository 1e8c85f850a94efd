//! What a file's own constraints and triggers refuse is parked and tried again; nothing holds up other rows.

mod support;

use support::{World, apply, encode, rows, run};

/// Takes the steps and expects these rows of `query` and these reasons of parked changes at `b`.
fn check(schema: &str, steps: &[&str], query: &str, expected: &str, parked: &str) {
    let mut world = World::new(schema);
    world.steps(steps);
    let b = world.replica("b");
    assert_eq!(rows(b, query, []), expected, "after {steps:#?}");
    let reasons = "select reason from cloudsync_parked order by id";
    assert_eq!(rows(b, reasons, []), parked, "after {steps:#?}");
    assert_eq!(rows(b, "pragma integrity_check", []), "ok");
    let settings = "select * from pragma_defer_foreign_keys, pragma_ignore_check_constraints";
    assert_eq!(rows(b, settings, []), "0 | 0");
}

const PEOPLE: &str =
    "create table people (id text primary key, mail text unique, age integer check (age < 150))";
const ALL: &str = "select * from people order by id";
const THREE: [&str; 2] =
    ["a: insert into people values ('1', 'x', 1), ('2', 'y', 2), ('3', 'z', 3)", "a -> b"];

#[test]
fn rows_that_swap_unique_values_go_in() {
    let swap = "a: update people set mail = 'free' where id = '1'; update people set mail = 'x' where id = '2'; update people set mail = 'y' where id = '1'";
    for null in ["", " not null", " not null check (length(mail) < 5)"] {
        let schema = PEOPLE.replace("mail text unique", &format!("mail text{null} unique"));
        check(&schema, &[&THREE[..], &[swap, "a -> b"]].concat(), ALL, "1 | y | 1; 2 | x | 2; 3 | z | 3", "");
        let circle = "a: update people set mail = 'w' where id = '1'; update people set mail = 'x' where id = '3'; update people set mail = 'z' where id = '2'; update people set mail = 'y' where id = '1'";
        check(
            &schema,
            &[&THREE[..], &[circle, "a -> b"]].concat(),
            ALL,
            "1 | y | 1; 2 | z | 2; 3 | x | 3",
            "",
        );
    }
    let numbers = "create table people (id text primary key, a integer not null, b real not null, c blob not null, unique (a, b), unique (c)) strict";
    let steps = [
        "a: insert into people values ('1', 1, 1.5, x'01'), ('2', 2, 2.5, x'02')",
        "a -> b",
        "a: update people set a = 0, c = x'00' where id = '1'; update people set a = 1, b = 1.5, c = x'01' where id = '2'; update people set a = 2, b = 2.5, c = x'02' where id = '1'",
        "a -> b",
    ];
    check(
        numbers,
        &steps,
        "select id, a, b, hex(c) from people order by id",
        "1 | 2 | 2.5 | 02; 2 | 1 | 1.5 | 01",
        "",
    );
}

#[test]
fn a_swap_goes_in_beside_a_conflict_that_stays() {
    let steps = [
        "a: insert into people values ('1', 'x', 1), ('2', 'y', 2), ('3', 'z', 3)",
        "a -> b",
        "b: insert into people values ('4', 'own', 4)",
        "a: update people set mail = 'free' where id = '1'; update people set mail = 'x' where id = '2'; update people set mail = 'y' where id = '1'; update people set mail = 'own' where id = '3'",
        "a -> b",
    ];
    let expected = "1 | y | 1; 2 | x | 2; 3 | z | 3; 4 | own | 4";
    let unique = "write a row: UNIQUE constraint failed: people.mail";
    check(PEOPLE, &steps, ALL, expected, unique);
    let again = [&steps[..], &["a -> b", "a -> b"]].concat();
    check(PEOPLE, &again, ALL, expected, unique);
    let freed = [
        &steps[..],
        &["b: update people set mail = 'new' where id = '4'", "c: select 1", "c -> b", "a -> b"],
    ]
    .concat();
    check(PEOPLE, &freed, ALL, "1 | y | 1; 2 | x | 2; 3 | own | 3; 4 | new | 4", "");
}

#[test]
fn a_swap_under_triggers_and_conflicts_keeps_the_true_values() {
    let schema = "create table people (id text primary key, mail text unique, age integer);
        create table audit (id text primary key, note text);
        create trigger note after update of mail on people begin insert into audit values (hex(randomblob(8)), old.mail || ' to ' || new.mail); end";
    let steps = [
        "a: insert into people values ('1', 'x', 1), ('2', 'y', 2)",
        "a -> b",
        "b: update people set mail = 'own' where id = '1'",
        "a: update people set mail = 'free' where id = '1'; update people set mail = 'x' where id = '2'; update people set mail = 'own' where id = '1'; update people set mail = 'y' where id = '1'; update cloudsync_log set ms = ms + 100",
        "a -> b",
    ];
    check(schema, &steps, "select * from people order by id", "1 | y | 1; 2 | x | 2", "");
    let mut world = World::new(schema);
    world.steps(&steps);
    let kept = "select col, lost_value, won_value from cloudsync_conflicts";
    assert_eq!(rows(world.replica("b"), kept, []), "mail | own | y");
    let unsent = "select count(*) from cloudsync_log l join cloudsync_tables t on t.id = l.tbl where t.name = 'people' and cols <> -3";
    assert_eq!(rows(world.replica("b"), unsent, []), "1", "b's own update and nothing of the swap");
}

#[test]
fn a_check_or_a_type_refuses_its_row_alone() {
    let steps = [
        "a: pragma ignore_check_constraints = on",
        "a: insert into people values ('1', 'x', 1), ('2', 'y', 200), ('3', 'z', 3)",
        "a -> b",
    ];
    let reason = "write a row: CHECK constraint failed: age < 150";
    check(PEOPLE, &steps, ALL, "1 | x | 1; 3 | z | 3", reason);
    let older = [&steps[..], &["a: update people set age = 20 where id = '2'", "a -> b"]].concat();
    check(PEOPLE, &older, ALL, "1 | x | 1; 2 | y | 20; 3 | z | 3", "");
    let strict = "create table t (id text primary key, v integer) strict";
    let mut world = World::new("create table t (id text primary key, v)");
    world.step("a: insert into t values ('1', 1), ('2', 'two'), ('3', 3)");
    let payload = encode(world.replica("a"), 0);
    let b = support::open();
    run(&b, strict);
    rows(&b, "select cloudsync_init('t')", []);
    assert_eq!(apply(&b, payload.as_deref()), Ok(2));
    assert_eq!(rows(&b, "select * from t", []), "1 | 1; 3 | 3");
    let reason = rows(&b, "select reason from cloudsync_parked", []);
    assert_eq!(reason, "write a row: cannot store TEXT value in INTEGER column t.v");
}

#[test]
fn a_refused_change_is_parked_once_and_what_it_says_no_more_is_forgotten() {
    let steps = [
        "a: insert into people values ('1', 'x', 1)",
        "a -> b",
        "a: pragma ignore_check_constraints = on; update people set age = 200",
        "a -> b",
        "a: update people set age = 201",
        "a -> b",
        "a: update people set age = 202",
        "a -> b",
        "a -> b",
    ];
    check(PEOPLE, &steps, ALL, "1 | x | 1", "write a row: CHECK constraint failed: age < 150");
    let mended = [&steps[..], &["a: update people set age = 30", "a -> b"]].concat();
    check(PEOPLE, &mended, ALL, "1 | x | 30", "");
    let deleted = [&steps[..], &["a: delete from people", "a -> b"]].concat();
    check(PEOPLE, &deleted, ALL, "", "");
}

const TREE: &str = "create table t (id text primary key, v text)";

#[test]
fn a_trigger_that_rolls_back_refuses_its_row_alone() {
    for raise in ["select raise(rollback, 'never')", "insert or rollback into t values ('1', 'again')"] {
        let trigger = format!("b: create trigger no after insert on t when new.v = 'bad' begin {raise}; end");
        for place in ["trigger", "temp trigger"] {
            let trigger = trigger.replace("trigger", place);
            let steps = [
                &trigger,
                "a: insert into t values ('1', 'good'), ('2', 'bad'), ('3', 'good')",
                "a -> b",
                "a -> b",
            ];
            let mut world = World::new(TREE);
            world.steps(&steps);
            let b = world.replica("b");
            assert_eq!(rows(b, "select * from t", []), "1 | good; 3 | good", "{trigger}");
            assert_eq!(rows(b, "select count(*) from cloudsync_parked", []), "1", "{trigger}");
            let text = "select sql from sqlite_schema where name = 'no' union all select sql from temp.sqlite_schema where name = 'no'";
            let made = trigger
                .replace("b: create temp trigger", "CREATE TRIGGER")
                .replace("b: create trigger", "CREATE TRIGGER");
            assert_eq!(rows(b, text, []), made, "the user's trigger is as it was");
            b.execute("insert into t values ('9', 'bad')", []).expect_err("and does what it did");
        }
    }
}

#[test]
fn a_constraint_that_rolls_back_refuses_its_row_alone() {
    let schema = "create table people (id text primary key, mail text unique on conflict rollback, age integer not null on conflict rollback)";
    let steps = [
        "b: insert into people values ('9', 'y', 9)",
        "a: insert into people values ('1', 'x', 1), ('2', 'y', 2), ('3', 'z', 3)",
        "a -> b",
    ];
    let reason = "write a row: UNIQUE constraint failed: people.mail";
    check(schema, &steps, ALL, "1 | x | 1; 3 | z | 3; 9 | y | 9", reason);
}

#[test]
fn a_users_transaction_survives_a_trigger_that_rolls_back() {
    let mut world = World::new(TREE);
    world.steps(&[
        "a: insert into t values ('1', 'good'), ('2', 'bad')",
        "b: create trigger no before insert on t when new.v = 'bad' begin select raise(rollback, 'never'); end",
    ]);
    let payload = encode(world.replica("a"), 0);
    let b = world.replica("b");
    run(b, "begin; insert into t values ('5', 'mine')");
    assert_eq!(apply(b, payload.as_deref()), Ok(1));
    run(b, "commit");
    assert_eq!(rows(b, "select * from t order by id", []), "1 | good; 5 | mine");
}

#[test]
fn a_raising_broken_or_ignoring_trigger_refuses_its_row_alone() {
    for (body, reason) in [
        ("select raise(abort, 'never')", "write a row: never"),
        ("select raise(fail, 'never')", "write a row: never"),
        ("select raise(ignore)", "a trigger of this file ignored the row"),
        ("insert into gone values (1)", "write a row: no such table: main.gone"),
    ] {
        let trigger = format!("b: create trigger no before insert on t when new.v = 'bad' begin {body}; end");
        let insert = "a: insert into t values ('1', 'good'), ('2', 'bad'), ('3', 'good')";
        // A trigger that SQLite cannot compile refuses every row of its table.
        let (rows, reasons) = if body.contains("gone") {
            ("", [reason; 3].join("; "))
        } else {
            ("1 | good; 3 | good", String::from(reason))
        };
        check(TREE, &[&trigger, insert, "a -> b"], "select * from t order by id", rows, &reasons);
        let mended = [&trigger, insert, "a -> b", "b: drop trigger no", "a -> b"];
        check(TREE, &mended, "select * from t order by id", "1 | good; 2 | bad; 3 | good", "");
    }
}

const LINKED: &str = "create table one (id text primary key, other text references two);
    create table two (id text primary key, other text references one)";

#[test]
fn rows_that_refer_to_each_other_go_in_beside_one_that_refers_to_nothing() {
    let all = "select 'one', * from one union all select 'two', * from two order by 1, 2";
    let steps = [
        "b: pragma foreign_keys = on",
        "a: pragma foreign_keys = off; insert into one values ('1', 'a'), ('2', 'gone'), ('3', null); insert into two values ('a', '1'), ('b', '2')",
        "a -> b",
    ];
    let open = "foreign keys stay open after apply";
    let both = [open, open].join("; ");
    check(LINKED, &steps, all, "one | 1 | a; one | 3 | NULL; two | a | 1", &both);
    let found = [&steps[..], &["a: insert into two values ('gone', null)", "a -> b"]].concat();
    let expected = "one | 1 | a; one | 2 | gone; one | 3 | NULL; two | a | 1; two | b | 2; two | gone | NULL";
    check(LINKED, &found, all, expected, "");
    let selfish = "create table t (id text primary key, parent text references t (id))";
    let chain: String = (1..40).map(|n| format!("insert into t values ('{n}', '{}');", n - 1)).collect();
    let steps = [
        "b: pragma foreign_keys = on",
        &format!("a: pragma foreign_keys = off; {chain} insert into t values ('x', 'y'), ('y', 'x')"),
        "a -> b",
    ];
    let mut world = World::new(selfish);
    world.steps(&steps);
    let count = "select (select count(*) from t), (select count(*) from cloudsync_parked)";
    let before = rows(world.replica("b"), count, []);
    assert!(before == "2 | 39" || before == "0 | 41", "{before}");
    world.steps(&["a: insert into t values ('0', null)", "a -> b"]);
    assert_eq!(rows(world.replica("b"), count, []), "42 | 0");
}

#[test]
fn a_deleted_parent_stays_while_a_local_row_refers_to_it() {
    let schema = "create table lists (id text primary key, v); create table todos (id text primary key, list text references lists)";
    let steps = [
        "b: pragma foreign_keys = on",
        "a: insert into lists values ('1', 'x'), ('2', 'y')",
        "a -> b",
        "b: insert into todos values ('10', '1')",
        "a: delete from lists; insert into lists values ('3', 'z')",
        "a -> b",
    ];
    let all = "select id from lists union all select id from todos order by 1";
    check(schema, &steps, all, "1; 10; 3", "foreign keys stay open after apply");
    let freed = [&steps[..], &["b: delete from todos", "a -> b"]].concat();
    check(schema, &freed, all, "3", "");
}
