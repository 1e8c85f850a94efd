//! Edits of one row on several replicas at once: columns merge one by one, and in each the later write stays.

use std::thread;

use tests::hub::API_KEY;
use tests::stage::{Centre, Scenario, Setting, Stage};
use tests::wait;

/// Plays lines on clients that all hold one row, and checks the rows that every side ends with.
fn check(lines: &[&str], rows: &[&str]) {
    let start = [
        "pg: insert into todo values ('t', 'title', 'note', 0)",
        "a: sync",
        "b: sync",
        "c: sync",
        "all: settle",
    ];
    let lines: Vec<&str> = start.iter().chain(lines).copied().collect();
    Scenario { setting: Setting::PLAIN, lines: &lines, rows }.check_on_both();
}

#[test]
fn edits_of_different_columns_on_three_replicas_all_stay() {
    check(
        &[
            "a: update todo set title = 'from a' where id = 't'",
            "b: update todo set note = 'from b' where id = 't'",
            "pg: update todo set done = 1 where id = 't'",
            "b: sync",
            "a: sync",
        ],
        &["t|from a|from b|1"],
    );
}

#[test]
fn edits_of_different_columns_on_three_clients_all_stay() {
    check(
        &[
            "a: update todo set title = 'from a' where id = 't'",
            "b: update todo set note = 'from b' where id = 't'",
            "c: update todo set done = 7 where id = 't'",
            "c: sync",
            "a: sync",
            "b: sync",
        ],
        &["t|from a|from b|7"],
    );
}

#[test]
fn of_two_edits_of_a_column_the_later_stays_when_it_arrives_last() {
    check(
        &[
            "a: update todo set title = 'earlier' where id = 't'",
            "all: tick",
            "b: update todo set title = 'later' where id = 't'",
            "a: sync",
            "b: sync",
        ],
        &["t|later|note|0"],
    );
}

#[test]
fn of_two_edits_of_a_column_the_later_stays_when_it_arrives_first() {
    check(
        &[
            "a: update todo set title = 'earlier' where id = 't'",
            "all: tick",
            "b: update todo set title = 'later' where id = 't'",
            "b: sync",
            "a: sync",
        ],
        &["t|later|note|0"],
    );
}

#[test]
fn a_later_edit_in_postgres_stays_over_an_earlier_one_that_arrives_after_it() {
    check(
        &[
            "a: update todo set title = 'earlier', note = 'only a' where id = 't'",
            "all: tick",
            "pg: update todo set title = 'later' where id = 't'",
            "a: sync",
        ],
        &["t|later|only a|0"],
    );
}

#[test]
fn a_later_edit_of_a_client_stays_over_an_earlier_one_in_postgres() {
    check(
        &[
            "pg: update todo set title = 'earlier', done = 1 where id = 't'",
            "all: tick",
            "a: update todo set title = 'later' where id = 't'",
            "a: sync",
        ],
        &["t|later|note|1"],
    );
}

#[test]
fn several_edits_between_two_syncs_travel_as_their_end() {
    check(
        &[
            "a: update todo set title = 'one' where id = 't'",
            "a: update todo set title = 'two', note = null where id = 't'",
            "a: update todo set title = 'three' where id = 't'",
            "a: sync",
        ],
        &["t|three|NULL|0"],
    );
}

#[test]
fn an_equal_value_that_was_written_later_stands_against_one_between() {
    check(
        &[
            "c: update todo set done = 20 where id = 't'",
            "all: tick",
            "b: update todo set done = 19 where id = 't'",
            "all: tick",
            "a: update todo set done = 20 where id = 't'",
            "c: sync",
            "a: sync",
            "b: sync",
        ],
        &["t|title|note|20"],
    );
}

#[test]
fn a_row_that_was_created_in_a_central_file_while_the_same_row_arrives_is_merged_and_not_refused() {
    let mut stage = Stage::new(Setting { centre: Centre::SqliteFile, ..Setting::PLAIN });
    let device = stage.stranger("device");
    device.join(&stage.hub.address(), API_KEY);
    device.sync();
    device.run("insert into todo values ('k', 'from the device', null, 1)");
    stage.play(&["a: sync", "all: tick"]);
    let received = || stage.hub.metric("cloudsync_received_bytes_total");
    let before = received();
    let writer = stage.database.session();
    writer.run("begin immediate; insert into todo values ('k', 'from the centre', null, 2)");
    let answer = thread::scope(|scope| {
        let sync = scope.spawn(move || device.sync());
        wait::until("the hub has the upload", || (received() > before).then_some(()));
        writer.run("commit");
        sync.join().expect("the device syncs")
    });
    assert!(answer.contains("\"rejected\":0"), "nothing of it is refused: {answer}");
    stage.settles_at(&["k|from the centre|NULL|2"]);
}
