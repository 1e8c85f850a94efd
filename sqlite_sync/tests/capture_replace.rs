//! REPLACE deletes rows without firing a trigger: those with the same value in a UNIQUE index, and the one with
//! the same rowid. None of them stays elsewhere.

mod support;

use support::captured::{Pair, captured};
use support::{rows, run};

/// Runs `setup` and `sql` and expects these new entries in the log: code or columns, then the key.
fn check(schema: &str, setup: &str, sql: &str, expected: &str) {
    assert_eq!(captured(schema, setup, sql), expected, "log after {sql}");
}

const HIDDEN: &str = "create table t (id text primary key, v)";
const HIDDEN_FILLED: &str = "insert into t (rowid, id, v) values (1, 'a', 1), (2, 'b', 2), (3, 'c', 3)";

#[test]
fn a_row_is_replaced_through_its_hidden_rowid() {
    for name in ["rowid", "oid", "_rowid_", "ROWID"] {
        let sql = format!("replace into t ({name}, id, v) values (2, 'z', 9)");
        check(HIDDEN, HIDDEN_FILLED, &sql, "-3 | b; -1 | z");
        let sql = format!("update or replace t set {name} = 2 where id = 'a'");
        check(HIDDEN, HIDDEN_FILLED, &sql, "-3 | b");
    }
    check(HIDDEN, HIDDEN_FILLED, "replace into t (rowid, id) values (2, 'c')", "-3 | b; -1 | c");
    check(
        HIDDEN,
        HIDDEN_FILLED,
        "replace into t (rowid, id) values (0, 'z'), (0, 'y')",
        "-1 | z; -3 | z; -1 | y",
    );
    check(HIDDEN, HIDDEN_FILLED, "update or replace t set rowid = 3, v = 7 where id = 'a'", "-3 | c; 4 | a");
    check(HIDDEN, HIDDEN_FILLED, "update or replace t set rowid = rowid + 1", "-3 | b; -3 | c");
    check(HIDDEN, HIDDEN_FILLED, "update t set rowid = 7 where id = 'a'", "");
    check(HIDDEN, HIDDEN_FILLED, "insert or ignore into t (rowid, id) values (2, 'z')", "-3 | b");
    check(
        HIDDEN,
        HIDDEN_FILLED,
        "pragma recursive_triggers = on; replace into t (rowid, id) values (2, 'z')",
        "-3 | b; -2 | b; -1 | z",
    );
}

#[test]
fn no_one_looks_when_sqlite_chooses_the_rowid() {
    check(HIDDEN, HIDDEN_FILLED, "insert into t values ('z', 1)", "-1 | z");
    check(HIDDEN, HIDDEN_FILLED, "replace into t (rowid, id) values (null, 'z')", "-1 | z");
    check(HIDDEN, HIDDEN_FILLED, "insert into t (rowid, id) values (9, 'z')", "-1 | z");
}

#[test]
fn a_column_may_bear_a_name_of_the_rowid() {
    let one = "create table t (id text primary key, rowid, v)";
    let filled = "insert into t (oid, id, rowid) values (1, 'a', 5), (2, 'b', 6)";
    check(one, filled, "replace into t (_rowid_, id) values (2, 'z')", "-3 | b; -1 | z");
    check(one, filled, "replace into t (rowid, id) values (2, 'z')", "-1 | z");
    check(one, filled, "update t set rowid = 9 where id = 'a'", "4 | a");
    let all = "create table t (rowid text primary key, oid, _rowid_)";
    check(all, "insert into t values (1, 2, 3)", "replace into t values (1, 5, 3)", "-1 | 1");
    check(all, "insert into t values (1, 2, 3)", "update t set rowid = 7, oid = 2", "-2 | 1; -1 | 7");
    let without = "create table t (id text primary key, oid) without rowid";
    check(without, "insert into t values ('a', 1)", "replace into t values ('a', 2)", "-1 | a");
    let desc = "create table t (id integer primary key desc, v)";
    check(
        desc,
        "insert into t (rowid, id) values (1, 7)",
        "replace into t (rowid, id) values (1, 8)",
        "-3 | 7; -1 | 8",
    );
}

const FILLED: &str = "insert into t (id, mail) values (1, 'a@x'), (2, 'b@x')";

#[test]
fn a_row_is_replaced_through_an_expression() {
    for (index, sql, expected) in [
        ("lower(mail)", "replace into t (id, mail) values (3, 'A@X')", "-3 | 1; -1 | 3"),
        ("lower(mail)", "update or replace t set mail = 'B@x' where id = 1", "-3 | 2; 4 | 1"),
        ("lower(mail) desc, id > 0", "replace into t (id, mail) values (3, 'A@x')", "-3 | 1; -1 | 3"),
        ("(mail || '(,') collate nocase", "replace into t (id, mail) values (3, 'B@X')", "-3 | 2; -1 | 3"),
        ("lower(mail)", "update t set mail = 'A@x' where id = 1", "4 | 1"),
    ] {
        let schema = format!(
            "create table t (id integer primary key, mail text, n); create unique index \"t (\" on t ({index})"
        );
        check(&schema, FILLED, sql, expected);
    }
}

#[test]
fn a_row_is_replaced_through_a_generated_column() {
    for kind in ["virtual", "stored"] {
        let schema = format!(
            "create table t (id integer primary key, mail text, low text unique generated always as (lower(mail)) {kind})"
        );
        check(&schema, FILLED, "replace into t (id, mail) values (3, 'A@X')", "-3 | 1; -1 | 3");
        check(&schema, FILLED, "update or replace t set mail = 'B@x' where id = 1", "-3 | 2; 4 | 1");
        check(&schema, FILLED, "update t set mail = 'c@x' where id = 1", "4 | 1");
    }
}

#[test]
fn a_row_is_replaced_through_a_partial_index() {
    let schema =
        "create table t (id integer primary key, mail text); create unique index i on t (mail) where id > 1";
    check(schema, FILLED, "replace into t values (3, 'b@x')", "-3 | 2; -1 | 3");
    check(schema, FILLED, "replace into t values (3, 'a@x')", "-3 | 1; -1 | 3");
}

#[test]
fn a_row_is_replaced_through_a_default_that_stands_for_null() {
    let schema = "create table t (id integer primary key, mail text not null default 'a@x' unique)";
    check(schema, FILLED, "replace into t values (3, null)", "-3 | 1; -1 | 3");
    check(schema, FILLED, "update or replace t set mail = null where id = 2", "-3 | 1; 4 | 2");
}

#[test]
fn a_row_is_replaced_through_a_key_that_is_not_binary() {
    let schema = "create table t (id text primary key collate nocase, v)";
    let filled = "insert into t values ('bob', 1), ('eve', 2)";
    check(schema, filled, "replace into t values ('Bob', 5)", "-3 | bob; -1 | Bob");
    check(
        schema,
        filled,
        "update or replace t set id = 'BOB' where id = 'eve'",
        "-3 | bob; -2 | eve; -1 | BOB",
    );
    check(
        schema,
        filled,
        "insert into t values ('BOB', 7) on conflict do update set v = excluded.v",
        "-3 | bob; 4 | bob",
    );
}

#[test]
fn rows_that_a_replaced_row_takes_along_are_captured() {
    let schema = "create table lists (id integer primary key, name text unique);
        create table todos (id integer primary key, list integer references lists on delete cascade)";
    let filled = "pragma foreign_keys = on; insert into lists values (1, 'a'), (2, 'b'); insert into todos values (7, 1), (8, 2)";
    check(schema, filled, "replace into lists values (3, 'a')", "-3 | 1; -2 | 7; -1 | 3");
}

#[test]
fn what_a_users_trigger_puts_in_the_way_is_replaced_too() {
    let schema = "create table t (id integer primary key, mail text unique);
        create trigger first before insert on t when new.id = 3 and not cloudsync_is_sync('t') begin
          insert into t values (9, new.mail); update t set mail = 'moved' where id = 1; end";
    let pair = Pair::new(schema);
    run(&pair.a, "insert into t values (1, 'a'), (2, 'b')");
    pair.sync("setup");
    run(&pair.a, "replace into t values (3, 'c')");
    pair.sync("a trigger wrote");
    assert_eq!(rows(&pair.b, "select * from t order by id", []), "1 | moved; 2 | b; 3 | c");
}

#[test]
fn both_recursive_settings_give_the_same_rows() {
    for setting in ["off", "on"] {
        let pair = Pair::new("create table t (id text primary key, mail text unique, n int unique)");
        run(
            &pair.a,
            &format!(
                "pragma recursive_triggers = {setting}; insert into t values ('1', 'a', 1), ('2', 'b', 2), ('3', 'c', 3)"
            ),
        );
        pair.sync("setup");
        run(&pair.a, "replace into t values ('4', 'a', 2)");
        pair.sync(setting);
        assert_eq!(rows(&pair.b, "select * from t order by id", []), "3 | c | 3; 4 | a | 2");
    }
}

#[test]
fn an_expression_follows_a_column_that_is_renamed() {
    let pair = Pair::new(
        "create table t (id integer primary key, mail text); create unique index i on t (lower(mail))",
    );
    run(&pair.a, FILLED);
    pair.sync("setup");
    for connection in [&pair.a, &pair.b] {
        run(connection, "alter table t rename column mail to address");
    }
    for (sql, expected) in [
        ("replace into t (id, address) values (3, 'A@X')", "2 | b@x; 3 | A@X"),
        ("update or replace t set address = 'B@x' where id = 3", "3 | B@x"),
    ] {
        run(&pair.a, sql);
        pair.sync(sql);
        assert_eq!(rows(&pair.b, "select * from t order by id", []), expected);
    }
}

#[test]
fn an_index_that_is_made_later_is_looked_at() {
    let pair = Pair::new("create table t (id integer primary key, mail text)");
    run(&pair.a, FILLED);
    pair.sync("setup");
    run(&pair.a, "create unique index i on t (mail collate nocase)");
    pair.sync("a new index");
    run(&pair.a, "replace into t (id, mail) values (3, 'A@X')");
    pair.sync("a replaced row");
    assert_eq!(rows(&pair.b, "select * from t order by id", []), "2 | b@x; 3 | A@X");
}
