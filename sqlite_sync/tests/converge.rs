//! Replicas that exchange payloads end with the same rows, whatever each wrote meanwhile.

mod support;

use support::{TODOS, World, rows};

/// Takes the steps and expects the same rows on every replica.
fn check(steps: &[&str], expected: &str) {
    check_with(TODOS, "todos", steps, expected);
}

fn check_with(schema: &str, table: &str, steps: &[&str], expected: &str) {
    let mut world = World::new(schema);
    world.steps(steps);
    for name in world.names() {
        let found = rows(world.replica(&name), &format!("select * from {table} order by 1, 2"), []);
        assert_eq!(found, expected, "replica {name} after {steps:#?}");
    }
}

#[test]
fn a_row_travels() {
    check(&["a: insert into todos values ('1', 'milk', 0)", "a -> b"], "1 | milk | 0");
}

#[test]
fn different_columns_of_one_row_merge() {
    check(
        &[
            "a: insert into todos values ('1', 'milk', 0)",
            "a -> b",
            "a -> c",
            "a: update todos set title = 'oat milk'",
            "b: update todos set done = 1",
            "a <-> b",
            "b <-> c",
        ],
        "1 | oat milk | 1",
    );
}

#[test]
fn of_the_same_column_the_later_write_stays_whatever_arrives_first() {
    for exchange in [["a <-> b", "b <-> a"], ["b <-> a", "a <-> b"]] {
        let mut steps = vec![
            "a: insert into todos values ('1', 'milk', 0)",
            "a -> b",
            "a: update todos set title = 'first'",
            // The later write has the greater clock even within the same millisecond of the machine.
            "b: update todos set title = 'x'; update cloudsync_log set ms = ms + 5 where seq = (select max(seq) from cloudsync_log); update todos set title = 'second'; update cloudsync_log set ms = ms + 50 where seq = (select max(seq) from cloudsync_log)",
        ];
        steps.extend(exchange);
        check(&steps, "1 | second | 0");
    }
}

#[test]
fn a_delete_beats_an_older_update() {
    check(
        &[
            "a: insert into todos values ('1', 'milk', 0)",
            "a -> b",
            "b: update todos set title = 'late'",
            "b: select cloudsync_payload_encode(0)",
            "a: delete from todos; update cloudsync_log set ms = ms + 50 where seq = (select max(seq) from cloudsync_log)",
            "a <-> b",
            "b <-> a",
        ],
        "",
    );
}

#[test]
fn a_row_created_again_forgets_its_earlier_life() {
    check(
        &[
            "a: insert into todos values ('1', 'draft', 1)",
            "a -> b",
            "a: delete from todos",
            "b: update todos set title = 'late'",
            "a: select cloudsync_payload_encode(0)",
            "a: insert into todos (id, title) values ('1', 'fresh'); update cloudsync_log set ms = ms + 50 where seq = (select max(seq) from cloudsync_log)",
            "a <-> b",
            "b <-> a",
        ],
        "1 | fresh | 0",
    );
}

#[test]
fn a_re_insert_by_a_device_that_never_saw_the_deletion_beats_it() {
    check(
        &[
            "a: insert into todos values ('1', 'milk', 0)",
            "a: delete from todos",
            "c: insert into todos values ('1', 'again', 1); update cloudsync_log set ms = ms + 50",
            "a -> c",
            "c -> a",
        ],
        "1 | again | 1",
    );
}
