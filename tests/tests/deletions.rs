//! Deletions against edits and new creations of the same key, in both orders of arrival.

use tests::stage::{Scenario, Setting, TODO, Table};

/// Plays lines on clients that all hold one row, and checks the rows that every side ends with.
fn check(lines: &[&str], rows: &[&str]) {
    let start =
        ["pg: insert into todo values ('t', 'title', 'note', 0)", "a: sync", "b: sync", "all: settle"];
    let lines: Vec<&str> = start.iter().chain(lines).copied().collect();
    Scenario { setting: Setting::PLAIN, lines: &lines, rows }.check_on_both();
}

#[test]
fn a_delete_beats_an_older_update_that_arrives_after_it() {
    check(
        &[
            "b: update todo set title = 'older' where id = 't'",
            "all: tick",
            "a: delete from todo where id = 't'",
            "a: sync",
            "b: sync",
        ],
        &[],
    );
}

#[test]
fn a_delete_beats_a_newer_update_by_a_replica_that_had_not_seen_it() {
    check(
        &[
            "a: delete from todo where id = 't'",
            "all: tick",
            "b: update todo set title = 'newer' where id = 't'",
            "a: sync",
            "b: sync",
        ],
        &[],
    );
}

#[test]
fn a_delete_beats_a_newer_update_that_arrives_before_it() {
    check(
        &[
            "a: delete from todo where id = 't'",
            "all: tick",
            "b: update todo set title = 'newer' where id = 't'",
            "b: sync",
            "a: sync",
        ],
        &[],
    );
}

#[test]
fn a_delete_in_postgres_beats_an_update_of_a_client() {
    check(
        &[
            "a: update todo set title = 'lost' where id = 't'",
            "pg: delete from todo where id = 't'",
            "a: sync",
        ],
        &[],
    );
}

#[test]
fn a_device_that_never_saw_the_deletion_creates_the_key_again() {
    check(
        &[
            "a: delete from todo where id = 't'",
            "a: sync",
            "all: tick",
            "new: insert into todo values ('t', 'again', null, 5)",
            "new: sync",
        ],
        &["t|again|NULL|5"],
    );
}

#[test]
fn a_key_created_again_stays_when_the_older_deletion_arrives_after_it() {
    check(
        &[
            "a: delete from todo where id = 't'",
            "all: tick",
            "new: insert into todo values ('t', 'again', null, 5)",
            "new: sync",
            "a: sync",
        ],
        &["t|again|NULL|5"],
    );
}

#[test]
fn a_row_created_again_forgets_its_earlier_life() {
    check(
        &[
            "a: delete from todo where id = 't'",
            "a: sync",
            "b: update todo set note = 'late' where id = 't'",
            "all: tick",
            "a: insert into todo (id, title) values ('t', 'fresh')",
            "a: sync",
            "b: sync",
        ],
        &["t|fresh|NULL|0"],
    );
}

#[test]
fn a_deletion_in_postgres_and_a_creation_there_reach_every_client() {
    check(
        &[
            "pg: delete from todo where id = 't'",
            "pg: insert into todo (id, title) values ('t', 'second life'), ('u', 'new')",
        ],
        &["t|second life|NULL|0", "u|new|NULL|0"],
    );
}

const LIST_DDL: &str = "create table list (id text primary key not null, name text not null)";
const LIST: Table = Table {
    name: "list",
    postgres: LIST_DDL,
    sqlite: LIST_DDL,
    show: "select id, name from list order by id",
};

const ITEM_DDL: &str = "create table item (id text primary key not null,
    list_id text not null references list (id) on delete cascade, body text not null)";
const ITEM: Table = Table {
    name: "item",
    postgres: ITEM_DDL,
    sqlite: ITEM_DDL,
    show: "select id, list_id, body from item order by id",
};

/// Plays lines on a list with two items and one without, on clients that hold to foreign keys and not.
fn check_cascade(foreign_keys_in_a: bool, lines: &[&str], rows: &[&str]) {
    let pragma = format!("a: pragma foreign_keys = {foreign_keys_in_a}");
    let start = [
        "pg: insert into list values ('l', 'groceries'), ('m', 'other')",
        "pg: insert into item values ('i', 'l', 'milk'), ('j', 'l', 'bread'), ('k', 'm', 'stays')",
        pragma.as_str(),
        "b: pragma foreign_keys = true",
        "all: settle",
    ];
    let lines: Vec<&str> = start.iter().chain(lines).copied().collect();
    Scenario { setting: Setting { tables: &[LIST, ITEM, TODO], ..Setting::PLAIN }, lines: &lines, rows }
        .check_on_both();
}

#[test]
fn a_delete_on_a_client_cascades_to_every_side() {
    check_cascade(true, &["a: delete from list where id = 'l'", "a: sync"], &["m|other", "k|m|stays"]);
}

#[test]
fn a_cascade_that_only_postgres_carries_out_comes_back_to_the_client() {
    // Without foreign keys, the client keeps its items until the cascade in Postgres tells it.
    check_cascade(
        false,
        &["a: delete from list where id = 'l'", "a: sync", "all: settle"],
        &["m|other", "k|m|stays"],
    );
}

#[test]
fn a_cascade_on_an_applied_delete_takes_an_edited_item_along() {
    check_cascade(
        true,
        &[
            "b: update item set body = 'edited' where id = 'i'",
            "a: delete from list where id = 'l'",
            "a: sync",
            "b: sync",
        ],
        &["m|other", "k|m|stays"],
    );
}

#[test]
fn a_delete_in_postgres_cascades_to_every_client() {
    check_cascade(true, &["pg: delete from list where id = 'l'"], &["m|other", "k|m|stays"]);
}
