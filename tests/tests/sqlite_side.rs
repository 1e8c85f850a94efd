//! Every way to write in SQLite that an app may use reaches Postgres and the other clients.

use tests::stage::{Scenario, Setting, TODO, Table};

/// `title` is unique besides the key, so REPLACE may delete another row.
const UNIQUE_TODO: Table = Table {
    postgres: "create table todo (id text primary key, title text not null unique, note text,
               done integer not null default 0)",
    sqlite: "create table todo (id text primary key not null, title text not null unique, note text,
             done integer not null default 0)",
    ..TODO
};

/// Plays lines on clients that hold three rows, and checks the rows that every side ends with.
fn check(table: Table, lines: &[&str], rows: &[&str]) {
    let start = [
        "pg: insert into todo values ('t', 'first', 'n1', 1), ('u', 'second', 'n2', 2), ('v', 'third', 'n3', 3)",
        "a: sync",
        "b: sync",
        "all: settle",
    ];
    let lines: Vec<&str> = start.iter().chain(lines).copied().collect();
    Scenario { setting: Setting { tables: &[table], ..Setting::PLAIN }, lines: &lines, rows }.check_on_both();
}

#[test]
fn an_upsert_updates_what_it_names_and_inserts_what_is_new() {
    check(
        TODO,
        &[
            "pg: update todo set note = 'meanwhile' where id = 't'",
            "a: insert into todo values ('t', 'upserted', null, 0), ('w', 'new', null, 0)
                 on conflict (id) do update set title = excluded.title",
            "a: sync",
        ],
        &["t|upserted|meanwhile|1", "u|second|n2|2", "v|third|n3|3", "w|new|NULL|0"],
    );
}

#[test]
fn a_replace_by_the_key_replaces_the_whole_row() {
    check(
        TODO,
        &["a: replace into todo (id, title) values ('t', 'replaced')", "a: sync"],
        &["t|replaced|NULL|0", "u|second|n2|2", "v|third|n3|3"],
    );
}

#[test]
fn a_replace_by_a_unique_column_deletes_the_row_that_held_the_value() {
    check(
        UNIQUE_TODO,
        &["a: insert or replace into todo values ('w', 'second', 'taken over', 9)", "a: sync"],
        &["t|first|n1|1", "v|third|n3|3", "w|second|taken over|9"],
    );
}

#[test]
fn an_update_or_replace_deletes_the_row_that_held_the_value() {
    check(
        UNIQUE_TODO,
        &["a: update or replace todo set title = 'second' where id = 't'", "a: sync"],
        &["t|second|n1|1", "v|third|n3|3"],
    );
}

#[test]
fn a_changed_key_moves_the_row() {
    check(
        TODO,
        &["a: update todo set id = 'z', title = 'moved' where id = 't'", "a: sync"],
        &["u|second|n2|2", "v|third|n3|3", "z|moved|n1|1"],
    );
}

#[test]
fn keys_that_rows_hand_on_to_each_other_move_right() {
    check(
        TODO,
        &[
            "a: begin; update todo set id = 'x' where id = 't'; update todo set id = 't' where id = 'u';
                update todo set id = 'u' where id = 'x'; commit",
            "a: sync",
        ],
        &["t|second|n2|2", "u|first|n1|1", "v|third|n3|3"],
    );
}

#[test]
fn an_update_that_changes_nothing_sends_nothing() {
    check(
        TODO,
        &[
            "pg: update todo set title = 'meanwhile' where id = 't'",
            "all: tick",
            // The client still holds 'first': had it sent that, it would be the later write.
            "a: update todo set title = title, note = note",
            "a: sync",
        ],
        &["t|meanwhile|n1|1", "u|second|n2|2", "v|third|n3|3"],
    );
}

#[test]
fn writes_of_the_users_own_triggers_travel_and_do_not_go_round_in_circles() {
    check(
        TODO,
        &[
            "a: create trigger counts after update of title on todo begin
                    update todo set done = done + 1 where id = new.id; end",
            "a: update todo set title = 'edited' where id = 't'",
            "a: sync",
        ],
        &["t|edited|n1|2", "u|second|n2|2", "v|third|n3|3"],
    );
}
