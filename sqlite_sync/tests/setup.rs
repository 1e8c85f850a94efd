//! What can be tracked, what init and cleanup leave behind, and files that other tools write to.

mod support;

use rusqlite::Connection;
use support::{TODOS, apply, encode, open, rows, run};

/// Makes a schema, calls a function, and expects its result or its error.
fn check(schema: &str, call: &str, expected: Result<&str, &str>) {
    let connection = open();
    run(&connection, schema);
    let before = rows(&connection, "select count(*) from sqlite_schema", []);
    let found = connection.query_row(&format!("select {call}"), [], |row| row.get::<_, Option<String>>(0));
    match expected {
        Ok(text) => assert_eq!(found.expect(call).unwrap_or_default(), text, "{call}"),
        Err(text) => {
            let message = found.expect_err(call).to_string();
            assert_eq!(message, format!("cloudsync: {text}"), "{call}");
            assert_eq!(
                rows(&connection, "select count(*) from sqlite_schema", []),
                before,
                "{call} left something"
            );
        }
    }
}

#[test]
fn what_cannot_be_tracked_is_refused_with_the_reason() {
    let refuse = |schema: &str, reason: &str| {
        check(schema, "hex(cloudsync_init('t'))", Err(&format!("table \"t\" cannot be tracked: {reason}")));
    };
    refuse("create table t (a, b)", "it has no primary key");
    refuse(
        "create table t (a primary key); create table t_cloudsync (x)",
        "there is another table \"t_cloudsync\"",
    );
    refuse(
        "create table t (a bigint primary key)",
        "its key is the integer \"a\", which two replicas may give to different rows; wanted a key that is unique everywhere (cloudsync_uuid()), or flag 1 to allow it",
    );
    refuse(
        "create table t (a text, b text, primary key (a, b)); insert into t values ('1', null)",
        "key column \"b\" is NULL in a row, which then has no name elsewhere; wanted a value, or flag 4 to leave such rows on this device",
    );
    check("select 1", "cloudsync_init('nope')", Err("no table \"nope\" in this file"));
    check("create view v as select 1", "cloudsync_init('v')", Err("no table \"v\" in this file"));
    check(
        "create table cloudsync_x (a primary key)",
        "cloudsync_init('cloudsync_x')",
        Err("table \"cloudsync_x\" cannot be tracked: it is no ordinary table of the user"),
    );
    check("select 1", "cloudsync_init('sqlite_schema')", Err("no table \"sqlite_schema\" in this file"));
    let columns: Vec<String> = (0..1_000).map(|at| format!("c{at}")).collect();
    refuse(
        &format!("create table t (id primary key, {})", columns.join(",")),
        "it has 1001 columns, limit is 1000",
    );
}

#[test]
fn flags_allow_what_is_refused_without_them() {
    let composite = "create table t (a integer, b integer, primary key (a, b))";
    check(composite, "cast(length(cloudsync_init('t')) as text)", Ok("32"));
    let integer = "create table t (a integer primary key)";
    check(integer, "cast(length(cloudsync_init('t', 'cls', 1)) as text)", Ok("32"));
    let null = "create table t (a text primary key); insert into t values (null)";
    check(null, "cast(length(cloudsync_init('t', 'cls', 6)) as text)", Ok("32"));
}

#[test]
fn a_required_column_is_refused_only_where_others_do_not_have_it_yet() {
    let required = "create table t (id text primary key, title text not null, n integer not null default 0)";
    check(required, "cast(length(cloudsync_init('t')) as text)", Ok("32"));
    let rebuilt = "create table t (id text primary key); select cloudsync_init('t'); drop table t; create table t (id text primary key, title text not null)";
    check(
        rebuilt,
        "cloudsync_init('t')",
        Err(
            "table \"t\" cannot be tracked: new column \"title\" is NOT NULL and has no DEFAULT, so rows of replicas that do not know it yet would be refused here; wanted a DEFAULT, or flag 2 to allow it",
        ),
    );
    check(rebuilt, "cast(length(cloudsync_init('t', 'cls', 2)) as text)", Ok("32"));
}

#[test]
fn a_star_tracks_all_tables_or_none() {
    let connection = open();
    run(
        &connection,
        "create table a (id text primary key); create table b (id text primary key); create virtual table f using fts5(x); create view v as select 1",
    );
    rows(&connection, "select cloudsync_init('b')", []);
    assert_eq!(rows(&connection, "select length(cloudsync_init('*'))", []), "32");
    assert_eq!(rows(&connection, "select name from cloudsync_tables order by name", []), "a; b");
    check(
        "create table a (id text primary key); create table b (id)",
        "cloudsync_init('*')",
        Err("table \"b\" cannot be tracked: it has no primary key"),
    );
    check("select 1", "cast(length(cloudsync_init('*')) as text)", Ok("32"));
}

#[test]
fn arguments_are_checked() {
    check(
        TODOS,
        "cloudsync_init('todos', 'nonsense')",
        Err("table algorithm \"nonsense\" does not exist, wanted \"cls\", \"gos\", \"dws\" or \"aws\""),
    );
    check(
        TODOS,
        "cloudsync_init('todos', 'cls', 9)",
        Err("cloudsync_init: argument 3 is 9, wanted flags from 0 to 7"),
    );
    check(TODOS, "cloudsync_init(1)", Err("cloudsync_init: argument 1 is 1, wanted text"));
    check(TODOS, "cast(length(cloudsync_init('todos', null, 0)) as text)", Ok("32"));
    check(TODOS, "cast(length(cloudsync_init('TODOS', 'CLS', 1)) as text)", Ok("32"));
    check(
        TODOS,
        "cloudsync_payload_encode(-1)",
        Err("cloudsync_payload_encode: argument 1 is -1, wanted a number from 0 on"),
    );
    check(
        TODOS,
        "cloudsync_payload_apply(x'00')",
        Err("no table of this file is tracked, call cloudsync_init(table) first"),
    );
    check(
        TODOS,
        "cloudsync_network_set_apikey('a' || char(10) || 'b')",
        Err("cloudsync_network_set_apikey: argument 1 is text of 3 bytes, wanted visible ASCII characters"),
    );
    check(
        TODOS,
        "cloudsync_network_init('nonsense')",
        Err("url \"(no scheme)\": wanted http:// or https://"),
    );
    check(
        TODOS,
        "cloudsync_network_send_changes()",
        Err("no table of this file is tracked, call cloudsync_init(table) first"),
    );
}

#[test]
fn facts_are_there_before_and_after_init() {
    check("select 1", "cloudsync_version()", Ok(env!("CARGO_PKG_VERSION")));
    check("select 1", "cloudsync_siteid()", Ok(""));
    check("select 1", "cast(cloudsync_db_version() as text)", Ok("0"));
    check("select 1", "cloudsync_payload_encode(0)", Ok(""));
    check(
        "select 1",
        "cast(cloudsync_uuid() glob '????????-????-7???-[89ab]???-????????????' as text)",
        Ok("1"),
    );
    check("select 1", "cast(cloudsync_is_sync('t') as text)", Ok("0"));
    let connection = open();
    run(&connection, TODOS);
    assert_eq!(rows(&connection, "select cloudsync_init('todos') = lower(hex(cloudsync_siteid()))", []), "1");
    assert_eq!(rows(&connection, "select cloudsync_init('todos') = lower(hex(cloudsync_siteid()))", []), "1");
    assert_eq!(
        rows(&connection, "select count(distinct cloudsync_uuid()) from sqlite_schema", []),
        rows(&connection, "select count(*) from sqlite_schema", [])
    );
}

#[test]
fn a_database_closes_after_every_function_ran() {
    let connection = open();
    run(&connection, TODOS);
    rows(&connection, "select cloudsync_init('todos')", []);
    run(&connection, "insert into todos values ('1', 'milk', 0)");
    let payload = encode(&connection, 0);
    assert_eq!(apply(&connection, payload.as_deref()), Ok(0));
    run(&connection, "select cloudsync_terminate()");
    connection.close().expect("no statement is left open");
}

#[test]
fn rows_that_were_there_before_travel_whole() {
    let a = open();
    run(&a, TODOS);
    run(
        &a,
        "insert into todos values ('1', 'milk', 0), ('2', 'bread', 1), ('3', 'gone', 0), (null, 'nobody', 0)",
    );
    rows(&a, "select cloudsync_init('todos', 'cls', 4)", []);
    run(&a, "update todos set title = 'oats' where id = '1'; delete from todos where id = '3'");
    assert_eq!(rows(&a, "select count(*) from todos_cloudsync", []), "0", "init writes no metadata");
    let b = open();
    run(&b, TODOS);
    run(&b, "insert into todos values ('2', 'before', 5), ('3', 'there too', 5)");
    rows(&b, "select cloudsync_init('todos')", []);
    assert_eq!(apply(&b, encode(&a, 0).as_deref()).map(|_| ()), Ok(()));
    assert_eq!(apply(&a, encode(&b, 0).as_deref()).map(|_| ()), Ok(()));
    let all = "select * from todos where id is not null order by id";
    assert_eq!(rows(&a, all, []), rows(&b, all, []));
    assert_eq!(rows(&a, "select id, title from todos where id in ('1', '3')", []), "1 | oats");
    let newest: i64 = rows(&a, "select cloudsync_db_version()", []).parse().expect("a number");
    assert_eq!(encode(&a, newest), None);
}

#[test]
fn a_file_that_a_plain_tool_wrote_to_travels() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let ours = Connection::open(file.path()).expect("it opens");
    cloudsync::register(&ours).expect("functions register");
    run(&ours, TODOS);
    rows(&ours, "select cloudsync_init('todos')", []);
    run(&ours, "insert into todos values ('1', 'milk', 0), ('2', 'bread', 0)");
    drop(ours);
    let plain = Connection::open(file.path()).expect("it opens");
    run(
        &plain,
        "insert into todos values ('3', 'plain', 1); update todos set done = 1 where id = '1'; delete from todos where id = '2'; begin; delete from todos; rollback; vacuum",
    );
    drop(plain);
    let ours = Connection::open(file.path()).expect("it opens");
    cloudsync::register(&ours).expect("functions register");
    let b = open();
    run(&b, TODOS);
    rows(&b, "select cloudsync_init('todos')", []);
    assert_eq!(apply(&b, encode(&ours, 0).as_deref()), Ok(2));
    assert_eq!(rows(&b, "select * from todos order by id", []), "1 | milk | 1; 3 | plain | 1");
}

#[test]
fn only_what_changed_since_a_number_is_encoded() {
    let a = open();
    run(&a, TODOS);
    rows(&a, "select cloudsync_init('todos')", []);
    run(&a, "insert into todos values ('1', 'milk', 0)");
    let since: i64 = rows(&a, "select cloudsync_db_version()", []).parse().expect("a number");
    run(&a, "insert into todos values ('2', 'bread', 0)");
    let b = open();
    run(&b, TODOS);
    rows(&b, "select cloudsync_init('todos')", []);
    assert_eq!(apply(&b, encode(&a, since).as_deref()), Ok(1));
    assert_eq!(rows(&b, "select id from todos", []), "2");
    assert_eq!(encode(&a, since + 1), None);
}

#[test]
fn cleanup_stops_capture_and_keeps_rows_and_numbers() {
    let a = open();
    run(&a, TODOS);
    rows(&a, "select cloudsync_init('todos')", []);
    run(&a, "insert into todos values ('1', 'milk', 0), ('2', 'bread', 0)");
    run(&a, "select cloudsync_cleanup('todos')");
    run(&a, "insert into todos values ('3', 'free', 0)");
    assert_eq!(rows(&a, "select count(*), cloudsync_db_version() from todos", []), "3 | 2");
    assert_eq!(
        rows(&a, "select name from sqlite_schema where type = 'trigger' or name = 'todos_cloudsync'", []),
        ""
    );
    rows(&a, "select cloudsync_init('todos')", []);
    run(&a, "update todos set done = 1 where id = '3'");
    let b = open();
    run(&b, TODOS);
    rows(&b, "select cloudsync_init('todos')", []);
    assert_eq!(apply(&b, encode(&a, 0).as_deref()), Ok(3));
    assert_eq!(rows(&b, "select id, done from todos order by id", []), "1 | 0; 2 | 0; 3 | 1");
}

#[test]
fn init_again_takes_in_new_columns_and_indexes() {
    let a = open();
    let b = open();
    for connection in [&a, &b] {
        run(connection, TODOS);
        rows(connection, "select cloudsync_init('todos')", []);
    }
    run(&a, "insert into todos values ('1', 'milk', 0)");
    for connection in [&a, &b] {
        run(
            connection,
            "alter table todos add column note text; create unique index by_title on todos (title)",
        );
        rows(connection, "select cloudsync_init('todos')", []);
    }
    run(
        &a,
        "update todos set note = 'new'; replace into todos (id, title, note) values ('2', 'milk', 'took it')",
    );
    apply(&b, encode(&a, 0).as_deref()).expect("apply works");
    assert_eq!(rows(&b, "select id, note from todos", []), "2 | took it");
}

#[test]
fn functions_run_where_they_may() {
    let connection = open();
    run(&connection, TODOS);
    rows(&connection, "select cloudsync_init('todos')", []);
    run(
        &connection,
        "pragma trusted_schema = off; create table log (id); create trigger t after insert on todos begin insert into log values (cloudsync_uuid()), (cloudsync_is_sync('todos')), (cloudsync_siteid()), (cloudsync_db_version()); end; insert into todos (id) values (1)",
    );
    assert_eq!(rows(&connection, "select count(*) from log", []), "4");
    run(&connection, "create trigger u after insert on log begin select cloudsync_network_sync(); end");
    let error = connection
        .execute("insert into log values (1)", [])
        .expect_err("network functions are for direct use");
    assert!(error.to_string().contains("unsafe use of cloudsync_network_sync()"), "{error}");
}

#[test]
fn a_file_of_an_earlier_release_gets_what_it_lacks() {
    let connection = open();
    run(&connection, TODOS);
    rows(&connection, "select cloudsync_init('todos')", []);
    let version = "select value from cloudsync_settings where key = 'catalog_version'";
    let newest = rows(&connection, version, []);
    for earlier in [
        "delete from cloudsync_settings where key = 'catalog_version'",
        "update cloudsync_settings set value = 0 where key = 'catalog_version'",
    ] {
        run(&connection, "drop table cloudsync_broken_off; drop table cloudsync_evictions");
        run(&connection, earlier);
        assert!(encode(&connection, 0).is_none());
        let made = "select count(*) from sqlite_schema where name in ('cloudsync_broken_off', 'cloudsync_evictions')";
        assert_eq!(rows(&connection, made, []), "2");
        assert_eq!(rows(&connection, version, []), newest);
    }
    // One of a later release is left as it is.
    run(&connection, "update cloudsync_settings set value = 1000 where key = 'catalog_version'");
    assert!(encode(&connection, 0).is_none());
    assert_eq!(rows(&connection, version, []), "1000");
}
