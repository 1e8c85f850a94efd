//! Rows that the centre refuses: they alone are refused, reported with the reason, and kept on the device.

use tests::stage::{Setting, Stage, TODO, on_both};

const CHECKED_DDL: &str = "create table todo (id text primary key not null, title text not null, note text,
    done integer not null default 0 check (done < 10))";

/// A stage on which only the centre checks.
fn checked_stage(setting: Setting<'_>) -> Stage {
    let mut stage = Stage::new(Setting { tables: &[], ..setting });
    stage.postgres.run(CHECKED_DDL);
    stage.track(TODO);
    stage
}

#[test]
fn a_refused_row_is_reported_and_kept_and_the_rows_behind_it_pass() {
    on_both(|setting| {
        let mut stage = checked_stage(setting);
        stage.play(&[
            "a: insert into todo values ('k1', 'fine', null, 1), ('k2', 'refused', null, 99), ('k3', 'fine', null, 3)",
        ]);
        let answer = stage.client("a").sync();
        assert!(answer.contains("\"rejected\":1"), "the answer counts it: {answer}");
        assert_eq!(stage.postgres.rows("select id from todo order by id"), ["k1", "k3"]);
        assert_eq!(stage.client("a").rows("select id from todo order by id"), ["k1", "k2", "k3"]);
        assert_eq!(
            stage.client("a").rows("select tbl, key, sqlstate from cloudsync_rejected"),
            ["todo|[\"k2\"]|23514"],
            "the refusal is kept beside the row, with its reason"
        );
    });
}

#[test]
fn a_refused_row_that_was_mended_passes_whole() {
    on_both(|setting| {
        let mut stage = checked_stage(setting);
        stage.play(&[
            "a: insert into todo values ('k2', 'refused at first', 'note', 99)",
            "a: sync",
            "b: sync",
            "a: update todo set done = 9 where id = 'k2'",
            "a: sync",
        ]);
        stage.settles_at(&["k2|refused at first|note|9"]);
    });
}

#[test]
fn row_level_security_decides_what_a_client_may_write() {
    let mut stage = Stage::new(Setting::PLAIN);
    stage.play(&[
        "pg: alter table todo enable row level security;
             create policy own on todo to app using (note = 'mine') with check (note = 'mine')",
        "pg: insert into todo values ('theirs', 'secret', 'other', 0)",
        "a: sync",
        "a: update todo set title = 'taken over' where id = 'theirs'",
        "a: insert into todo values ('own', 'title', 'mine', 0), ('foreign', 'title', 'other', 0)",
    ]);
    let answer = stage.client("a").sync();
    assert!(answer.contains("\"rejected\":2"), "the answer counts them: {answer}");
    assert_eq!(
        stage.client("a").rows("select key, sqlstate from cloudsync_rejected order by key"),
        ["[\"foreign\"]|42501", "[\"theirs\"]|42501"]
    );
    assert_eq!(
        stage.postgres.rows("select id, title, note from todo order by id"),
        ["own|title|mine", "theirs|secret|other"]
    );
}

#[test]
fn a_device_whose_clock_is_years_ahead_neither_wins_for_ever_nor_gets_stuck() {
    on_both(|setting| {
        let mut stage = Stage::new(setting);
        stage.play(&[
            "pg: insert into todo values ('t', 'title', null, 0)",
            "a: sync",
            "b: sync",
            "all: settle",
        ]);
        stage.play(&["a: update todo set title = 'from 2031' where id = 't'"]);
        // As if the device's clock had been set to 2031 when it wrote.
        stage.play(&[
            "a: update cloudsync_log set ms = 1922659200000 where seq = (select max(seq) from cloudsync_log)",
        ]);
        stage.settle();
        stage.play(&["all: tick", "b: update todo set title = 'later' where id = 't'", "b: sync"]);
        stage.settles_at(&["t|later|NULL|0"]);
    });
}
