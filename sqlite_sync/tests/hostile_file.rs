//! Files whose texts, written by hand, try to have whoever opens them do more than to compute a value.
//!
//! A hub, and an app that is given a file, run our functions with rights that the author of the file may not have.

mod support;

use rusqlite::{Connection, params};
use support::{TODOS, open, rows, run};

fn centre() -> Connection {
    let connection = open();
    run(&connection, TODOS);
    rows(&connection, "select cloudsync_init('todos'), cloudsync_central_begin()", []);
    run(&connection, "insert into todos values ('a', 'one', 1)");
    rows(&connection, "select cloudsync_central_feed()", []);
    connection
}

fn asked(connection: &Connection, sql: &str) -> Result<(), String> {
    connection.query_row(sql, [], |_row| Ok(())).map_err(|error| error.to_string())
}

/// Writes a setting as any program can that may write to the file.
fn write(connection: &Connection, table: u32, key: &str, value: &str) {
    let sql =
        "insert or replace into cloudsync_table_settings (tbl, col, key, value) values (?1, '', ?2, ?3)";
    connection.execute(sql, params![table, key, value]).expect("plain SQL writes to any table");
}

fn forget(connection: &Connection, key: &str) {
    connection.execute("delete from cloudsync_table_settings where key = ?1", [key]).expect("it goes");
}

#[test]
fn a_text_of_a_file_calls_nothing_that_reaches_beyond_the_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let target = folder.path().join("written").display().to_string();
    let other = folder.path().join("other.sqlite").display().to_string();
    let connection = centre();
    let saving = format!("cloudsync_payload_save('{target}')");
    let feed = "update todos set done = done + 1 returning 1";
    for expression in [
        saving.clone(),
        saving.to_uppercase().replace(&target.to_uppercase(), &target),
        saving.replace("cloudsync_payload_save", "\"cloudsync_payload_save\""),
        saving.replace("cloudsync_payload_save", "/**/[cloudsync_payload_save]/**/"),
        "cloudsync_network_init('http://127.0.0.1:1/x')".to_owned(),
        "cloudsync_terminate()".to_owned(),
        "1) or (select count(*) from todos) or (1".to_owned(),
        "1; drop table todos".to_owned(),
        "1 -- ".to_owned(),
    ] {
        for (key, sql) in
            [("scope", "select cloudsync_central_feed()"), ("filter", "select cloudsync_payload_encode()")]
        {
            write(&connection, 1, key, &expression);
            asked(&connection, feed).expect("triggers do not ask it");
            let refused = asked(&connection, sql).expect_err(&expression);
            assert!(sql.contains("encode") || refused.contains("cannot be used"), "{expression}: {refused}");
            forget(&connection, key);
        }
    }
    let scopes = "select cloudsync_central_scopes('{}')";
    for query in [
        format!("select {saving}"),
        format!("with x (y) as (select {saving}) select y from x"),
        format!("values ({saving})"),
        "delete from todos returning title".to_owned(),
        "with x (y) as (values (1)) delete from todos returning title".to_owned(),
        format!("attach database '{other}' as other"),
        "pragma user_version".to_owned(),
        "explain select 1".to_owned(),
        "select payload from cloudsync_payload_chunks".to_owned(),
        "select ?1 || ?2".to_owned(),
        "select 1, 2".to_owned(),
    ] {
        write(&connection, 0, "scopes_query", &query);
        let refused = asked(&connection, scopes).expect_err(&query);
        assert!(refused.contains("scopes_query"), "{query}: {refused}");
        let set = connection.query_row("select cloudsync_set('scopes_query', ?1)", [&query], |_row| Ok(()));
        assert!(set.is_err(), "{query}");
    }
    forget(&connection, "scopes_query");
    assert_eq!(rows(&connection, "select id, title from todos", []), "a | one");
    assert_eq!(
        std::fs::read_dir(folder.path()).expect("the folder").count(),
        0,
        "nothing was written beside"
    );
}

#[test]
fn a_scope_or_filter_that_is_no_expression_over_its_row_is_refused() {
    let connection = centre();
    run(&connection, "create table other (id text primary key not null, note text)");
    for expression in [
        "",
        "title) or (1",
        "title; drop table todos",
        "title -- all",
        "title /* all",
        "'open",
        "(select note from other)",
        "exists (select 1 from other)",
        "title in (select note from other)",
        "random()",
        "changes()",
        "current_timestamp",
        "max(title)",
        "row_number() over ()",
        "?1",
        ":name",
        "$name",
        "other.note",
        "no_such_column",
        "no_such_function(title)",
        "load_extension('x')",
        "cloudsync_payload_save('x')",
        "cloudsync_siteid()",
        "raise(abort, 'x')",
    ] {
        for function in ["cloudsync_set_scope", "cloudsync_set_filter"] {
            let sql = format!("select {function}('todos', ?1)");
            let set = connection.query_row(&sql, [expression], |_row| Ok(()));
            assert!(set.is_err(), "{function}: {expression}");
        }
    }
    assert_eq!(rows(&connection, "select count(*) from cloudsync_table_settings", []), "0");
    assert_eq!(rows(&connection, "select cloudsync_set_scope('todos', 'lower(title)')", []), "NULL");
}

#[test]
fn a_trigger_or_view_of_a_file_calls_nothing_that_reaches_beyond_the_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let target = folder.path().join("written").display().to_string();
    let connection = centre();
    for call in [
        format!("cloudsync_payload_save('{target}')"),
        format!("cloudsync_payload_load('{target}')"),
        "cloudsync_network_init('http://127.0.0.1:1/x')".to_owned(),
        "cloudsync_central_lost()".to_owned(),
        "cloudsync_cleanup('todos')".to_owned(),
        "cloudsync_set_scope('todos', null)".to_owned(),
        "load_extension('x')".to_owned(),
    ] {
        run(
            &connection,
            &format!(
                "create trigger hostile after update on todos begin select {call}; end;
                 create view hostile_view as select {call} as called"
            ),
        );
        for sql in ["update todos set done = 2 returning 1", "select called from hostile_view"] {
            assert!(asked(&connection, sql).is_err(), "{sql} with {call}");
        }
        run(&connection, "drop trigger hostile; drop view hostile_view");
    }
    assert_eq!(
        std::fs::read_dir(folder.path()).expect("the folder").count(),
        0,
        "nothing was written beside"
    );
}
