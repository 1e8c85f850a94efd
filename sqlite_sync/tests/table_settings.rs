//! Tables that take part in a way of their own: disabled ones, ones with a filter, keys that users set.

mod support;

use rusqlite::Connection;
use support::{TODOS, apply, encode, open, rows, run};

fn tracked() -> Connection {
    let connection = open();
    run(&connection, TODOS);
    rows(&connection, "select cloudsync_init('todos')", []);
    connection
}

/// What another replica has after everything that may travel did.
fn seen_by(other: &Connection, a: &Connection) -> String {
    apply(other, encode(a, 0).as_deref()).expect("apply works");
    rows(other, "select id, title, done from todos order by id", [])
}

fn check_error(connection: &Connection, call: &str, expected: &str) {
    let error = connection.query_row(&format!("select {call}"), [], |_row| Ok(())).expect_err(call);
    assert_eq!(error.to_string(), format!("cloudsync: {expected}"), "{call}");
}

#[test]
fn what_is_written_to_a_disabled_table_travels_when_it_is_enabled() {
    let (a, b) = (tracked(), tracked());
    run(&a, "insert into todos values ('1', 'milk', 0), ('2', 'bread', 0), ('3', 'salt', 0)");
    assert_eq!(seen_by(&b, &a), "1 | milk | 0; 2 | bread | 0; 3 | salt | 0");
    assert_eq!(rows(&a, "select cloudsync_is_enabled('TODOS')", []), "1");
    assert_eq!(rows(&a, "select cloudsync_disable('todos'), cloudsync_is_enabled('todos')", []), "NULL | 0");
    run(&a, "update todos set done = 1 where id = '1'; delete from todos where id = '2'");
    run(&a, "insert into todos values ('4', 'oil', 0); update todos set id = '5' where id = '3'");
    assert_eq!(encode(&a, 0), None, "a disabled table is not sent");
    run(&b, "update todos set title = 'oat milk' where id = '1'");
    apply(&a, encode(&b, 0).as_deref()).expect("apply works");
    assert_eq!(rows(&a, "select title from todos where id = '1'", []), "milk", "nor received");
    assert_eq!(rows(&a, "select tbl, reason from cloudsync_skipped", []), "todos | disabled here");
    run(&a, "select cloudsync_enable('todos')");
    apply(&a, encode(&b, 0).as_deref()).expect("apply works");
    let both = "1 | oat milk | 1; 4 | oil | 0; 5 | salt | 0";
    assert_eq!(seen_by(&b, &a), both);
    assert_eq!(rows(&a, "select id, title, done from todos order by id", []), both);
    assert_eq!(rows(&a, "select count(*) from cloudsync_held", []), "0");
}

#[test]
fn a_baseline_that_was_not_sent_is_sent_after_enable() {
    let a = open();
    run(&a, TODOS);
    run(&a, "insert into todos values ('1', 'milk', 0)");
    run(&a, "select cloudsync_init('todos'); select cloudsync_disable('todos')");
    assert_eq!(rows(&a, "select cloudsync_network_has_unsent_changes()", []), "0");
    run(&a, "select cloudsync_enable('todos'); select cloudsync_enable('todos')");
    assert_eq!(rows(&a, "select cloudsync_network_has_unsent_changes()", []), "1");
    assert_eq!(seen_by(&tracked(), &a), "1 | milk | 0");
}

#[test]
fn rows_that_do_not_match_the_filter_stay_here() {
    let (a, b) = (tracked(), tracked());
    run(&a, "insert into todos values ('0', 'before', 0)");
    assert_eq!(rows(&a, "select cloudsync_set_filter('todos', 'done > ''0''')", []), "1");
    run(&a, "insert into todos values ('1', 'mine', 0), ('2', 'ours', 1)");
    assert_eq!(seen_by(&b, &a), "2 | ours | 1", "text compares with a number as it does elsewhere in SQLite");
    run(&a, "update todos set title = 'still mine' where id = '1'; delete from todos where id = '0'");
    assert_eq!(seen_by(&b, &a), "2 | ours | 1");
    run(&a, "update todos set done = 1 where id = '1'");
    assert_eq!(
        seen_by(&b, &a),
        "1 | still mine | 1; 2 | ours | 1",
        "a row that comes to match travels whole"
    );
    run(&a, "update todos set done = 0, title = 'secret' where id = '2'");
    assert_eq!(
        seen_by(&b, &a),
        "1 | still mine | 1; 2 | ours | 1",
        "of one that leaves others keep what they have"
    );
    run(
        &a,
        "update todos set done = 1, title = 'ours again' where id = '2'; delete from todos where id = '1'",
    );
    assert_eq!(seen_by(&b, &a), "2 | ours again | 1");
    run(&a, "insert into todos values ('3', 'mine', 0)");
    assert_eq!(rows(&a, "select cloudsync_clear_filter('todos')", []), "1");
    assert_eq!(seen_by(&b, &a), "2 | ours again | 1; 3 | mine | 0");
}

#[test]
fn a_filter_holds_for_rows_that_were_there_before() {
    let a = open();
    run(&a, TODOS);
    run(&a, "insert into todos values ('1', 'mine', 0), ('2', 'ours', 1)");
    run(&a, "select cloudsync_init('todos'); select cloudsync_set_filter('todos', 'done')");
    let b = tracked();
    assert_eq!(seen_by(&b, &a), "2 | ours | 1");
    run(&a, "update todos set done = 2 where id = '1'; replace into todos values ('2', 'new', 3)");
    assert_eq!(seen_by(&b, &a), "1 | mine | 2; 2 | new | 3");
}

#[test]
fn a_filter_is_an_expression_over_one_row() {
    let a = tracked();
    for (filter, reason) in [
        ("done > (select 1)", "subqueries prohibited in partial index WHERE clauses"),
        ("missing = 1", "no such column: missing"),
        ("random() > 0", "non-deterministic functions prohibited in partial index WHERE clauses"),
        ("done) or (1", "wanted one expression with balanced parentheses and quotes"),
        ("done >", "near \")\": syntax error"),
    ] {
        let call = format!("cloudsync_set_filter('todos', '{filter}')");
        let error = a.query_row(&format!("select {call}"), [], |_row| Ok(())).expect_err(&call).to_string();
        assert!(error.starts_with("cloudsync: filter of table \"todos\" cannot be used: "), "{error}");
        assert!(error.contains(reason), "{error}");
    }
    assert_eq!(rows(&a, "select count(*) from cloudsync_table_settings", []), "0");
}

#[test]
fn users_set_keys_of_their_own() {
    let a = tracked();
    assert_eq!(rows(&a, "select cloudsync_set('site', 1), cloudsync_set('x', 'y')", []), "NULL | NULL");
    run(
        &a,
        "select cloudsync_set_table('todos', 'colour', 'red'); select cloudsync_set_column('todos', 'title', 'k', 1)",
    );
    run(&a, "select cloudsync_set('x', null)");
    assert_eq!(
        rows(&a, "select * from cloudsync_table_settings", []),
        "0 |  | site | 1; 1 |  | colour | red; 1 | title | k | 1"
    );
    check_error(
        &a,
        "cloudsync_set_table('nope', 'k', 1)",
        "table \"nope\" is not tracked, call cloudsync_init(\"nope\") first",
    );
    check_error(
        &a,
        "cloudsync_set_column('todos', 'nope', 'k', 1)",
        "table \"todos\" has no column \"nope\"",
    );
    check_error(
        &a,
        "cloudsync_set_table('todos', 'FILTER', 1)",
        "cloudsync_set_table: key \"filter\" is the extension's own, wanted another key",
    );
    check_error(
        &a,
        "cloudsync_enable('nope')",
        "table \"nope\" is not tracked, call cloudsync_init(\"nope\") first",
    );
    check_error(&a, "cloudsync_set_filter('todos', 1)", "cloudsync_set_filter: argument 2 is 1, wanted text");
    assert_eq!(rows(&a, "select cloudsync_cleanup('*')", []), "NULL");
    assert_eq!(rows(&a, "select count(*) from cloudsync_tables", []), "0");
    assert_eq!(rows(&a, "select cloudsync_is_enabled('todos')", []), "0");
}

#[test]
fn a_filter_is_asked_of_its_own_table_wherever_the_file_is() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("filtered.sqlite");
    let a = Connection::open(&path).expect("it opens");
    cloudsync::register(&a).expect("functions register");
    run(&a, TODOS);
    run(&a, "select cloudsync_init('todos'); select cloudsync_set_filter('todos', 'done > 0')");
    run(&a, "create temp table todos (id text primary key, title text, done integer)");
    run(&a, "insert into main.todos values ('1', 'ours', 1), ('2', 'mine', 0)");
    let other = Connection::open_in_memory().expect("memory is there");
    run(&other, &format!("attach '{}' as elsewhere", path.display()));
    run(&other, "insert into elsewhere.todos values ('3', 'ours too', 1), ('4', 'mine too', 0)");
    let b = tracked();
    assert_eq!(seen_by(&b, &a), "1 | ours | 1; 3 | ours too | 1");
}
