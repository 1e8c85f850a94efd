//! Every form of statement that writes a tracked table: what it logs, and that the rows then travel.

mod support;

use support::TODOS;
use support::captured::{Pair, captured};
use support::{rows, run};

/// Runs `setup` and `sql` and expects these new entries in the log: code or columns, then the key.
fn check(schema: &str, setup: &str, sql: &str, expected: &str) {
    assert_eq!(captured(schema, setup, sql), expected, "log after {sql}");
}

const FILLED: &str = "insert into todos values ('1', 'milk', 0), ('2', 'bread', 0), ('3', 'oats', 1)";

#[test]
fn an_update_from_another_table() {
    let schema = format!("{TODOS}; create table names (todo text primary key, name text)");
    let setup = format!("{FILLED}; insert into names values ('1', 'MILK'), ('3', 'oats')");
    let sql = "update todos set title = name from names where names.todo = todos.id";
    check(&schema, &setup, sql, "4 | 1");
    let sql = "update todos set title = name, done = done + 1 from names where todo = id";
    check(&schema, &setup, sql, "12 | 1; 8 | 3");
    check(
        &schema,
        &setup,
        "update todos set id = id || name from names where todo = id",
        "-2 | 1; -1 | 1MILK; -2 | 3; -1 | 3oats",
    );
}

#[test]
fn statements_that_return_rows() {
    check(TODOS, FILLED, "insert into todos values ('4', 'tea', 0) returning id, title", "-1 | 4");
    check(TODOS, FILLED, "update todos set done = 1 returning *", "8 | 1; 8 | 2");
    check(TODOS, FILLED, "delete from todos where done = 0 returning id", "-2 | 1; -2 | 2");
    check(TODOS, FILLED, "replace into todos values ('2', 'rye', 0) returning id", "-1 | 2");
}

#[test]
fn statements_with_subqueries() {
    check(
        TODOS,
        FILLED,
        "with few as (select id from todos limit 2) delete from todos where id in few",
        "-2 | 1; -2 | 2",
    );
    check(
        TODOS,
        FILLED,
        "with recursive n(x) as (select 7 union all select x + 1 from n where x < 8) insert into todos (id) select x from n",
        "-1 | 7; -1 | 8",
    );
    check(
        TODOS,
        FILLED,
        "update todos set title = (select group_concat(title) from todos) where id = '2'",
        "4 | 2",
    );
    check(
        "create table t (id integer primary key, v default 7)",
        "select 1",
        "insert into t default values",
        "-1 | 1",
    );
}

#[test]
fn a_deletion_of_everything_names_every_row() {
    check(TODOS, FILLED, "delete from todos", "-2 | 1; -2 | 2; -2 | 3");
    check(TODOS, FILLED, "delete from main.todos where true", "-2 | 1; -2 | 2; -2 | 3");
    check(
        "create table t (a, b, primary key (a, b)) without rowid",
        "insert into t values (1, 2), (3, 4)",
        "delete from t",
        "-2 | 1 | 2; -2 | 3 | 4",
    );
}

#[test]
fn an_upsert_may_do_anything_to_the_row() {
    let upsert = |what: &str| {
        format!("insert into todos values ('1', 'a', 5), ('9', 'b', 6) on conflict (id) do update set {what}")
    };
    check(TODOS, FILLED, &upsert("title = excluded.title, done = todos.done"), "4 | 1; -1 | 9");
    check(TODOS, FILLED, &upsert("id = 'x' || id"), "-2 | 1; -1 | x1; -1 | 9");
    check(TODOS, FILLED, &upsert("title = 'z' where todos.done = 1"), "-1 | 9");
    check(
        TODOS,
        FILLED,
        "insert into todos values ('7', 'a', 1), ('7', 'b', 1) on conflict do update set title = excluded.title",
        "-1 | 7; 4 | 7",
    );
    check(
        TODOS,
        FILLED,
        "insert into todos select * from todos where true on conflict (id) do update set done = done + 1",
        "8 | 1; 8 | 2; 8 | 3",
    );
}

#[test]
fn an_upsert_of_many_targets() {
    let schema = "create table t (id integer primary key, mail text unique, n integer)";
    let setup = "insert into t values (1, 'a', 1), (2, 'b', 2)";
    check(
        schema,
        setup,
        "insert into t values (1, 'b', 9) on conflict (id) do update set n = 7 on conflict (mail) do nothing",
        "-3 | 2; 8 | 1",
    );
    check(
        schema,
        setup,
        "insert into t values (5, 'b', 9) on conflict (mail) do update set id = 5, mail = 'c'",
        "-3 | 2; -2 | 2; -1 | 5",
    );
}

#[test]
fn what_a_conflict_clause_leaves_is_captured() {
    let schema = "create table t (id text primary key, n integer check (n < 10))";
    let setup = "insert into t values ('1', 1), ('2', 2), ('3', 3)";
    for (clause, expected, left) in [
        ("or ignore", "4 | 1; 4 | 2", "1 | 8; 2 | 9; 3 | 3"),
        ("or fail", "4 | 1; 4 | 2", "1 | 8; 2 | 9; 3 | 3"),
        ("or abort", "", "1 | 1; 2 | 2; 3 | 3"),
        ("or rollback", "", "1 | 1; 2 | 2; 3 | 3"),
        ("or replace", "", "1 | 1; 2 | 2; 3 | 3"),
        ("", "", "1 | 1; 2 | 2; 3 | 3"),
    ] {
        let pair = Pair::new(schema);
        run(&pair.a, setup);
        let newest = rows(&pair.a, "select max(seq) from cloudsync_log", []);
        let sql = format!("update {clause} t set n = n + 7");
        assert_eq!(pair.a.execute_batch(&sql).is_ok(), clause == "or ignore", "{sql}");
        assert_eq!(support::captured::entries_after(&pair.a, &newest), expected, "log after {sql}");
        pair.sync(&sql);
        assert_eq!(rows(&pair.b, "select * from t order by id", []), left, "{sql}");
    }
}

#[test]
fn a_default_that_stands_for_null_travels() {
    let schema = "create table t (id text primary key, n integer not null on conflict replace default 5)";
    check(schema, "insert into t values ('1', null), ('2', 7)", "update t set n = null", "4 | 2");
}

#[test]
fn an_outer_or_ignore_does_not_reach_the_log() {
    let schema = "create table t (id integer primary key, v unique);
        create table copies (id integer primary key, v unique);
        create trigger copy after insert on t when not cloudsync_is_sync('t') begin insert into copies values (new.id, new.v); end";
    check(
        schema,
        "insert into copies values (2, 'x')",
        "insert or ignore into t values (1, 'a'), (2, 'b'), (3, 'x')",
        "-1 | 1; -1 | 1; -1 | 2; -1 | 3; -3 | 2",
    );
    check(
        schema,
        "insert into copies values (2, 'x')",
        "insert or replace into t values (2, 'b')",
        "-1 | 2; -1 | 2",
    );
    check(
        schema,
        "insert into copies values (2, 'x')",
        "insert or replace into t values (1, 'x')",
        "-1 | 1; -3 | 2; -1 | 1",
    );
}

#[test]
fn a_rolled_back_savepoint_takes_its_entries_along() {
    let steps = "begin; insert into todos values ('4', 'a', 0);
        savepoint one; update todos set done = 9;
        savepoint two; delete from todos; rollback to two; release two;
        rollback to one; update todos set title = 'kept' where id = '4'; release one; commit";
    check(TODOS, FILLED, steps, "-1 | 4; 4 | 4");
    check(
        TODOS,
        FILLED,
        "savepoint one; update todos set id = 'n' || id where done = 1; release one",
        "-2 | 3; -1 | n3",
    );
}

#[test]
fn a_row_may_live_more_than_once_in_a_transaction() {
    check(
        TODOS,
        FILLED,
        "begin; delete from todos where id = '1'; insert into todos values ('1', 'again', 0);
         delete from todos where id = '1'; insert into todos values ('1', 'and again', 0); commit",
        "-2 | 1; -1 | 1; -2 | 1; -1 | 1",
    );
    check(
        TODOS,
        FILLED,
        "begin; update todos set id = 't' where id = '1'; update todos set id = '1' where id = 't'; commit",
        "-2 | 1; -1 | t; -2 | t; -1 | 1",
    );
    check(
        TODOS,
        FILLED,
        "update todos set id = case id when '1' then 'x' else id end; update todos set id = '1' where id = '2'; update todos set id = '2' where id = 'x'",
        "-2 | 1; -1 | x; -2 | 2; -1 | 1; -2 | x; -1 | 2",
    );
}
