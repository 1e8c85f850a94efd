//! What people and services do in Postgres with plain SQL: triggers of their own, bulk statements, COPY.

use tests::stage::{Scenario, Setting, Stage};

/// Plays lines and checks the rows that every side ends with.
fn check(lines: &[&str], rows: &[&str]) {
    Scenario { setting: Setting::PLAIN, lines, rows }.check();
}

const SHOUT: &str = "pg: create function shout() returns trigger language plpgsql as
    $$ begin new.title := upper(new.title); return new; end $$;
    create trigger shout before insert or update on todo for each row execute function shout()";

#[test]
fn a_row_changed_by_a_before_trigger_ends_at_postgres_value_everywhere() {
    check(
        &[SHOUT, "b: sync", "a: insert into todo values ('t', 'quiet', 'n', 0)", "a: sync"],
        &["t|QUIET|n|0"],
    );
}

#[test]
fn an_update_changed_by_a_before_trigger_ends_at_postgres_value_everywhere() {
    check(
        &[
            "a: insert into todo values ('t', 'quiet', 'n', 0)",
            "a: sync",
            "b: sync",
            "all: settle",
            SHOUT,
            "a: update todo set note = 'edited' where id = 't'",
            "a: sync",
        ],
        &["t|QUIET|edited|0"],
    );
}

#[test]
fn upserts_updates_of_the_key_and_copy_are_captured() {
    check(
        &[
            "a: sync",
            "pg: insert into todo values ('t', 'first', null, 0)",
            "all: settle",
            "pg: insert into todo values ('t', 'second', null, 0), ('u', 'new', null, 0)
                 on conflict (id) do update set title = excluded.title",
            "pg: update todo set id = 'v' where id = 'u'",
            "pg: with moved as (delete from todo where id = 't' returning *)
                 insert into todo select 'w', title, 'moved', done from moved",
        ],
        &["v|new|NULL|0", "w|second|moved|0"],
    );
}

#[test]
fn a_truncate_empties_every_client() {
    check(
        &[
            "pg: insert into todo select 'k' || n, 'title', null, n from generate_series(1, 300) n",
            "a: sync",
            "all: settle",
            "pg: truncate todo; insert into todo values ('t', 'after', null, 0)",
        ],
        &["t|after|NULL|0"],
    );
}

#[test]
fn rows_copied_in_by_psql_reach_a_client() {
    let mut stage = Stage::new(Setting::PLAIN);
    stage.play(&["a: sync"]);
    let rows: String = (0..500).map(|n| format!("k{n}\ttitle {n}\t\\N\t{n}\n")).collect();
    stage.postgres.copy_in("copy todo from stdin", &rows);
    stage.settle();
    stage.all_equal();
    assert_eq!(stage.client("a").value("select count(*), sum(done) from todo"), "500|124750");
}

#[test]
fn a_bulk_update_of_ten_thousand_rows_by_psql_reaches_every_client() {
    let mut stage = Stage::new(Setting::PLAIN);
    stage.play(&[
        "pg: insert into todo select 'k' || n, 'title ' || n, null, 0 from generate_series(1, 10000) n",
        "a: sync",
        "b: sync",
        "all: settle",
    ]);
    stage.database.psql("update todo set done = length(id), note = 'bulk'");
    stage.settle();
    stage.all_equal();
    let sum = stage.database.psql("select sum(done) from todo");
    assert_eq!(stage.client("b").value("select sum(done) from todo where note = 'bulk'"), sum.trim());
}

#[test]
fn rows_that_were_there_before_init_reach_a_client() {
    let setting = Setting { tables: &[], ..Setting::PLAIN };
    let mut stage = Stage::new(setting);
    let todo = tests::stage::TODO;
    stage.postgres.run(todo.postgres);
    stage.play(&["pg: insert into todo select 'k' || n, 'old', null, n from generate_series(1, 2500) n"]);
    stage.track(todo);
    stage.play(&[
        "a: sync",
        "a: update todo set note = 'edited' where id = 'k1'",
        "pg: delete from todo where id = 'k2'",
    ]);
    stage.settle();
    stage.all_equal();
    assert_eq!(stage.client("a").value("select count(*), count(note) from todo"), "2499|1");
}

#[test]
fn what_was_written_while_a_table_was_disabled_meets_when_it_is_enabled() {
    let mut stage = Stage::new(Setting::PLAIN);
    stage.play(&[
        "pg: insert into todo values ('t', 'first', 'n1', 1), ('u', 'second', 'n2', 2), ('v', 'third', 'n3', 3)",
        "a: sync",
        "b: sync",
        "all: settle",
        "pg: select cloudsync_disable('todo')",
        "pg: update todo set title = 'while disabled' where id = 't'",
        "pg: delete from todo where id = 'u'",
        "pg: insert into todo values ('w', 'fourth', null, 4)",
        "a: insert into todo values ('x', 'of a client', null, 5)",
        "a: update todo set note = 'of a client' where id = 'v'",
        "a: sync",
    ]);
    // The mark comes after what is held back.
    stage.settle();
    assert_eq!(
        stage.client("a").rows("select key, sqlstate from cloudsync_rejected order by key"),
        ["[\"v\"]|55000", "[\"x\"]|55000"]
    );
    assert_eq!(stage.postgres.rows("select id, note from todo order by id"), ["t|n1", "v|n3", "w|NULL"]);
    let before = ["t|first", "u|second", "v|third"];
    assert_eq!(stage.client("b").rows("select id, title from todo order by id"), before);
    stage.play(&["pg: select cloudsync_enable('todo')", "a: select cloudsync_retry_rejected()", "a: sync"]);
    stage.settles_at(&[
        "t|while disabled|n1|1",
        "v|third|of a client|3",
        "w|fourth|NULL|4",
        "x|of a client|NULL|5",
    ]);
    assert_eq!(stage.client("a").value("select count(*) from cloudsync_rejected"), "0");
}
