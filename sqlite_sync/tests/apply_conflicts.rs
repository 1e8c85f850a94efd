//! What this site wrote and lost before the server acknowledged it is kept: `cloudsync_conflicts`.

mod support;

use support::{TODOS, World, rows, run};

const KEPT: &str = "select key, col, lost_value, won_value, reason,
    lost_hlc < won_hlc, lost_site = cloudsync_siteid(), won_site <> cloudsync_siteid()
    from cloudsync_conflicts order by id";

/// Moves the newest entry of the log in time, so that steps of one millisecond have an order.
fn later(ms: i64) -> String {
    format!("update cloudsync_log set ms = ms + {ms} where seq = (select max(seq) from cloudsync_log)")
}

/// Takes the steps, one more by `b` where `LATER` moves it in time, and expects these conflicts at `a`.
fn check(schema: &str, steps: &[&str], expected: &str) {
    let mut world = World::new(schema);
    for step in steps {
        world.step(&step.replace("LATER", &later(100)));
    }
    assert_eq!(rows(world.replica("a"), KEPT, []), expected, "after {steps:#?}");
}

const SHARED: [&str; 2] = ["a: insert into todos values ('1', 'milk', 0)", "a -> b"];

/// Marks all that `a` wrote as acknowledged, as an upload that was answered does.
const ACKNOWLEDGED: &str = "a: insert or replace into cloudsync_settings values ('acknowledged', (select max(seq) from cloudsync_log));
    delete from cloudsync_log where seq < (select max(seq) from cloudsync_log)";

#[test]
fn an_unsent_value_that_a_later_one_beats_is_kept_with_both_stamps() {
    let steps = [
        &SHARED[..],
        &["a: update todos set title = 'oats'", "b: update todos set title = 'rye'; LATER", "b -> a"],
    ];
    check(TODOS, &steps.concat(), r#"["1"] | title | oats | rye | newer | 1 | 1 | 1"#);
    // Applied again it is no second conflict.
    let again = [&steps.concat()[..], &["b -> a", "b -> a"]].concat();
    check(TODOS, &again, r#"["1"] | title | oats | rye | newer | 1 | 1 | 1"#);
}

#[test]
fn what_was_acknowledged_or_did_not_lose_is_no_conflict() {
    let earlier =
        ["b: update todos set title = 'rye'", "a: update todos set title = 'oats'; LATER", "b -> a"];
    check(TODOS, &[&SHARED[..], &earlier].concat(), "");
    let other = ["a: update todos set done = 1", "b: update todos set title = 'rye'; LATER", "b -> a"];
    check(TODOS, &[&SHARED[..], &[ACKNOWLEDGED], &other].concat(), "");
    let equal = ["a: update todos set title = 'rye'", "b: update todos set title = 'rye'; LATER", "b -> a"];
    check(TODOS, &[&SHARED[..], &equal].concat(), "");
    let sent = [
        "a: update todos set title = 'oats'",
        ACKNOWLEDGED,
        "b: update todos set title = 'rye'; LATER",
        "b -> a",
    ];
    check(TODOS, &[&SHARED[..], &sent].concat(), "");
    let other_column = [
        "a: update todos set title = 'oats'",
        ACKNOWLEDGED,
        "a: update todos set done = 1",
        "b: update todos set title = 'rye'; LATER",
        "b -> a",
    ];
    check(TODOS, &[&SHARED[..], &other_column].concat(), "");
}

#[test]
fn a_deletion_that_beats_unsent_edits_keeps_them() {
    let steps = ["a: update todos set title = 'oats'", "b: delete from todos; LATER", "b -> a"];
    let expected = r#"["1"] | title | oats | NULL | deleted | 1 | 1 | 1"#;
    check(TODOS, &[&SHARED[..], &[ACKNOWLEDGED], &steps].concat(), expected);
    let whole =
        r#"["1"] | title | milk | NULL | deleted | 1 | 1 | 1; ["1"] | done | 0 | NULL | deleted | 1 | 1 | 1"#;
    check(TODOS, &[&SHARED[..], &["b: delete from todos; LATER", "b -> a"]].concat(), whole);
}

#[test]
fn a_creation_that_replaces_an_unsent_one_keeps_its_cells() {
    let steps = [
        "a: insert into todos values ('1', 'a', 7)",
        "b: insert into todos values ('1', 'b', 7); LATER",
        "b -> a",
    ];
    check(TODOS, &steps, r#"["1"] | title | a | b | replaced | 1 | 1 | 1"#);
}

#[test]
fn rows_that_were_there_before_init_are_ones_own_too() {
    let mut world = World::new("create table t (id text primary key, v)");
    let a = world.replica("a");
    rows(a, "select cloudsync_cleanup('t')", []);
    run(a, "insert into t values ('1', 'x')");
    rows(a, "select cloudsync_init('t')", []);
    world.steps(&["b: insert into t values ('1', 'y')", "b -> a"]);
    assert_eq!(
        rows(
            world.replica("a"),
            "select key, col, lost_value, won_value, reason from cloudsync_conflicts",
            []
        ),
        "[\"1\"] | v | x | y | replaced"
    );
}

#[test]
fn conflicts_expire_by_age_and_number_and_are_counted() {
    let mut world = World::new(TODOS);
    world.steps(&SHARED);
    let old = "insert into cloudsync_conflicts (tbl, pk, key, col, lost_hlc, lost_site, won_hlc, won_site, reason, at_ms)
        select 'todos', x'00', '[]', 'title', 0, x'00', 0, x'00', 'newer', 1000 * AGE from generate";
    let many =
        "with recursive generate(n) as (select 1 union all select n + 1 from generate where n < COUNT) ";
    let now = "(strftime('%s') - 40 * 86400)";
    run(world.replica("a"), &format!("{many}{old}").replace("COUNT", "3").replace("AGE", now));
    world.steps(&["b: update todos set done = 5", "b -> a"]);
    let left = "select count(*), (select value from cloudsync_settings where key = 'conflicts_expired') from cloudsync_conflicts";
    let left_before = rows(world.replica("a"), left, []);
    assert!(left_before.ends_with(" | 3"), "{left_before}");
    run(world.replica("a"), "delete from cloudsync_conflicts");
    run(
        world.replica("a"),
        &format!("{many}{old}").replace("COUNT", "100007").replace("AGE", "strftime('%s')"),
    );
    world.steps(&["b: insert into todos values ('2', 'x', 0)", "b -> a"]);
    assert_eq!(rows(world.replica("a"), left, []), "100000 | 10");
}
