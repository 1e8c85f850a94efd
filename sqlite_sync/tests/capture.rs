//! Every way to write a tracked table leaves the right entries in the log, and the rows then travel.

mod support;

use support::captured::captured;
use support::{TODOS, World, apply, encode, open, rows, run};

/// Runs `setup` and `sql` and expects these new entries in the log: code or columns, then the key.
fn check(schema: &str, setup: &str, sql: &str, expected: &str) {
    assert_eq!(captured(schema, setup, sql), expected, "log after {sql}");
}

const FILLED: &str = "insert into todos values ('1', 'milk', 0), ('2', 'bread', 0)";

#[test]
fn an_insert_is_one_entry() {
    check(TODOS, "select 1", FILLED, "-1 | 1; -1 | 2");
    check(TODOS, "select 1", "insert into todos (id) values ('x')", "-1 | x");
    check(TODOS, FILLED, "insert into todos select 'c' || id, title, done from todos", "-1 | c1; -1 | c2");
}

#[test]
fn an_update_names_only_columns_that_changed() {
    check(TODOS, FILLED, "update todos set title = 'oats', done = 0 where id = '1'", "4 | 1");
    check(TODOS, FILLED, "update todos set title = 'oats', done = 1 where id = '1'", "12 | 1");
    check(TODOS, FILLED, "update todos set done = 1", "8 | 1; 8 | 2");
    check(TODOS, FILLED, "update todos set title = title, done = 0.0", "");
    check(TODOS, FILLED, "update todos set title = null where id = '2'", "4 | 2");
    check(TODOS, FILLED, "update todos set title = 'MILK' where id = '1'", "4 | 1");
}

#[test]
fn another_storage_class_is_a_change() {
    let schema = "create table t (id integer primary key, v)";
    let setup = "insert into t values (1, 1), (2, 'a'), (3, x'61')";
    check(schema, setup, "update t set v = 1.0 where id = 1", "4 | 1");
    check(schema, setup, "update t set v = x'61' where id = 2", "4 | 2");
    check(schema, setup, "update t set v = 'a' where id = 3", "4 | 3");
    check(
        "create table t (id integer primary key, v text collate nocase)",
        "insert into t values (1, 'a')",
        "update t set v = 'A'",
        "4 | 1",
    );
}

#[test]
fn a_deletion_is_one_entry() {
    check(TODOS, FILLED, "delete from todos where id = '1'", "-2 | 1");
    check(TODOS, FILLED, "delete from todos", "-2 | 1; -2 | 2");
}

#[test]
fn an_upsert_is_what_it_did() {
    let upsert =
        "insert into todos values ('1', 'oats', 0) on conflict (id) do update set title = excluded.title";
    check(TODOS, FILLED, upsert, "4 | 1");
    check(TODOS, "select 1", upsert, "-1 | 1");
    check(TODOS, FILLED, "insert into todos values ('1', 'x', 1) on conflict do nothing", "");
    check(TODOS, FILLED, "insert or ignore into todos values ('1', 'x', 1), ('3', 'y', 1)", "-1 | 3");
}

#[test]
fn replace_by_the_key_is_one_entry() {
    check(TODOS, FILLED, "replace into todos values ('1', 'oats', 5)", "-1 | 1");
    check(
        TODOS,
        FILLED,
        "pragma recursive_triggers = on; replace into todos values ('1', 'oats', 5)",
        "-2 | 1; -1 | 1",
    );
}

const PEOPLE: &str = "create table people (id integer primary key, mail text unique, name text)";
const PEOPLE_FILLED: &str = "insert into people values (1, 'a@x', 'a'), (2, 'b@x', 'b')";

#[test]
fn replace_by_a_unique_index_deletes_the_row_it_hit() {
    check(PEOPLE, PEOPLE_FILLED, "replace into people values (3, 'a@x', 'c')", "-3 | 1; -1 | 3");
    check(PEOPLE, PEOPLE_FILLED, "replace into people values (2, 'a@x', 'c')", "-3 | 1; -1 | 2");
    check(PEOPLE, PEOPLE_FILLED, "update or replace people set mail = 'b@x' where id = 1", "-3 | 2; 4 | 1");
    check(PEOPLE, PEOPLE_FILLED, "insert or ignore into people values (3, 'a@x', 'c')", "-3 | 1");
    check(
        PEOPLE,
        PEOPLE_FILLED,
        "insert into people values (1, 'a@x', 'z') on conflict (mail) do update set name = 'z'",
        "-3 | 1; 8 | 1",
    );
    let nocase = "create table people (id integer primary key, mail text, name text); create unique index people_mail on people (mail collate nocase)";
    check(nocase, PEOPLE_FILLED, "replace into people values (3, 'A@X', 'c')", "-3 | 1; -1 | 3");
    let on_conflict =
        "create table people (id integer primary key, mail text unique on conflict replace, name text)";
    check(on_conflict, PEOPLE_FILLED, "insert into people values (3, 'a@x', 'c')", "-3 | 1; -1 | 3");
    let composite = "create table people (id integer primary key, mail text, name text, unique (mail, name))";
    check(composite, PEOPLE_FILLED, "replace into people values (3, 'a@x', 'a')", "-3 | 1; -1 | 3");
}

#[test]
fn a_key_change_is_a_deletion_and_a_creation() {
    check(TODOS, FILLED, "update todos set id = '9' where id = '1'", "-2 | 1; -1 | 9");
    check(TODOS, FILLED, "update todos set id = '9', title = 'x' where id = '1'", "-2 | 1; -1 | 9");
    check(TODOS, FILLED, "update or replace todos set id = '2' where id = '1'", "-2 | 1; -1 | 2");
    check(TODOS, FILLED, "update todos set id = id", "");
    for name in ["id", "rowid", "oid", "_rowid_", "ROWID"] {
        check(PEOPLE, PEOPLE_FILLED, &format!("update people set {name} = 7 where id = 1"), "-2 | 1; -1 | 7");
    }
}

#[test]
fn a_rollback_leaves_no_trace() {
    check(TODOS, FILLED, "begin; update todos set done = 1; delete from todos; rollback", "");
    check(
        TODOS,
        FILLED,
        "begin; update todos set done = 1 where id = '1'; savepoint s; delete from todos; rollback to s; commit",
        "8 | 1",
    );
    check(TODOS, FILLED, "savepoint s; delete from todos; rollback to s; release s", "");
}

#[test]
fn several_writes_to_a_row_travel_as_what_is_left() {
    check(TODOS, "select 1", "insert into todos values ('1', 'a', 0); delete from todos", "-1 | 1; -2 | 1");
    check(
        TODOS,
        "select 1",
        "insert into todos values ('1', 'a', 0); update todos set title = 'b'",
        "-1 | 1; 4 | 1",
    );
    check(
        TODOS,
        FILLED,
        "delete from todos where id = '1'; insert into todos values ('1', 'back', 7)",
        "-2 | 1; -1 | 1",
    );
}

#[test]
fn cascades_and_users_triggers_are_captured() {
    let schema = "create table lists (id integer primary key);
        create table todos (id integer primary key, list integer references lists on delete cascade on update cascade);
        create table notes (id integer primary key, list integer references lists on delete set null)";
    let setup = "pragma foreign_keys = on; insert into lists values (1), (2); insert into todos values (10, 1), (11, 2); insert into notes values (20, 1)";
    check(schema, setup, "delete from lists where id = 1", "4 | 20; -2 | 10; -2 | 1");
    check(schema, setup, "update lists set id = 5 where id = 2", "4 | 11; -2 | 2; -1 | 5");
    let schema = "create table t (id integer primary key, v text, n integer default 0);
        create trigger count_up after update of v on t begin update t set n = n + 1 where id = new.id; end";
    check(schema, "insert into t values (1, 'a', 0)", "update t set v = 'b'", "4 | 1; 8 | 1");
}

#[test]
fn composite_keys_and_tables_without_rowid() {
    let schema = "create table m (a integer, b text, c blob, v, primary key (b, a, c)) without rowid";
    let setup = "insert into m values (1, 'x', x'00ff', 1), (2, 'x', x'00', 2)";
    check(schema, setup, "update m set v = 9 where a = 1", "16 | x | 1 | 00ff");
    check(schema, setup, "update m set a = 3 where a = 1", "-2 | x | 1 | 00ff; -1 | x | 3 | 00ff");
    check(
        schema,
        setup,
        "delete from m where a = 2; replace into m values (1, 'x', x'00ff', 5)",
        "-2 | x | 2 | 00; -1 | x | 1 | 00ff",
    );
}

#[test]
fn odd_names_and_keyword_columns() {
    let schema = "create table \"order\" (\"group\" text primary key, \"sel\"\"ect\" text, [pk] integer, alive integer)";
    let setup = "insert into \"order\" values ('g', 'a', 1, 2)";
    check(schema, setup, "update \"order\" set \"sel\"\"ect\" = 'b', pk = 3", "12 | g");
}

#[test]
fn a_table_of_keys_only() {
    let schema = "create table tags (todo text, tag text, primary key (todo, tag))";
    check(
        schema,
        "insert into tags values ('1', 'a')",
        "insert into tags values ('1', 'b'); delete from tags where tag = 'a'",
        "-1 | 1 | b; -2 | 1 | a",
    );
}

#[test]
fn generated_columns_are_left_out() {
    let schema = "create table t (id integer primary key, v integer, twice integer generated always as (v * 2) virtual, w integer generated always as (v + 1) stored)";
    check(schema, "insert into t (id, v) values (1, 1)", "update t set v = 2", "4 | 1");
}

#[test]
fn rows_without_a_whole_key_stay_here() {
    let mut world = World::new(TODOS);
    world.steps(&[
        "a: insert into todos values (null, 'nobody', 0), ('1', 'milk', 0)",
        "a: update todos set done = 1",
        "a: update todos set id = '2' where id is null",
        "a -> b",
    ]);
    assert_eq!(
        rows(world.replica("b"), "select * from todos order by id", []),
        "1 | milk | 1; 2 | nobody | 1"
    );
}

#[test]
fn a_table_of_very_many_columns() {
    let columns: Vec<String> = (1..=990).map(|at| format!("c{at} integer")).collect();
    let schema = format!("create table wide (id integer primary key, {})", columns.join(", "));
    let connection = open();
    run(&connection, &schema);
    rows(&connection, "select cloudsync_init('wide', 'cls', 1)", []);
    run(
        &connection,
        "insert into wide (id) values (1); update wide set c1 = 1, c62 = 62, c63 = 63, c990 = 990",
    );
    let other = open();
    run(&other, &schema);
    rows(&other, "select cloudsync_init('wide', 'cls', 1)", []);
    assert_eq!(apply(&other, encode(&connection, 0).as_deref()), Ok(1));
    run(&connection, "update wide set c500 = 5");
    let set = rows(&connection, "select cols from cloudsync_log order by seq desc limit 1", []);
    assert_eq!(set.split(',').filter(|word| *word != "0").count(), 1, "{set}");
    assert_eq!(apply(&other, encode(&connection, 0).as_deref()), Ok(1));
    assert_eq!(
        rows(&other, "select c1, c62, c63, c990, c500, c2 from wide", []),
        "1 | 62 | 63 | 990 | 5 | NULL"
    );
}
