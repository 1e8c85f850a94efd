//! Changes cell by cell, payloads of them, payloads in chunks, payloads in files.

mod support;

use rusqlite::Connection;
use support::{TODOS, apply, encode, open, rows, run};

fn tracked() -> Connection {
    let connection = open();
    run(&connection, TODOS);
    rows(&connection, "select cloudsync_init('todos')", []);
    connection
}

const ENCODE: &str =
    "cloudsync_payload_encode(tbl, pk, col_name, col_value, col_version, db_version, site_id, cl, seq)";

/// The payload of an aggregate over changes.
fn gathered(connection: &Connection, condition: &str) -> Option<Vec<u8>> {
    let sql = format!("select {ENCODE} from cloudsync_changes where {condition}");
    connection.query_row(&sql, [], |row| row.get(0)).expect("encode works")
}

const ALL: &str = "select id, title, done from todos order by id";
const STAMPS: &str = "select pk, alive, hlc from todos_cloudsync order by pk";

#[test]
fn every_cell_and_every_life_has_a_line() {
    let a = tracked();
    run(
        &a,
        "insert into todos values ('1', 'milk', 0), ('2', 'bread', 0); update todos set done = 1 where id = '1'",
    );
    run(&a, "delete from todos where id = '2'");
    let lines = "select tbl, col_name, col_value, db_version, cl, seq, site_id = cloudsync_siteid()
        from cloudsync_changes order by db_version, seq";
    let expected = "todos | title | milk | 3 | 1 | 0 | 1; todos | done | 1 | 3 | 1 | 1 | 1; \
        todos | __[RIP]__ | NULL | 3 | 1 | 2 | 1; todos | __[RIP]__ | NULL | 4 | 2 | 2 | 1";
    let unfolded = rows(&a, lines, []);
    assert_eq!(rows(&a, "select count(*) from todos_cloudsync", []), "0", "reading writes nothing");
    encode(&a, 0);
    assert_eq!(
        rows(&a, "select count(*) from todos_cloudsync", []),
        "1",
        "a row that came and went is nothing"
    );
    let without_the_dead = expected.rsplit_once("; ").expect("two parts").0;
    assert_eq!(unfolded, without_the_dead);
    assert_eq!(rows(&a, lines, []), without_the_dead, "a fold changes no line");
    run(&a, "insert into todos values ('2', 'bread', 0)");
    encode(&a, 0);
    run(&a, "delete from todos where id = '2'");
    let dead = "select db_version, cl, col_name from cloudsync_changes where cl = 2";
    let seen = rows(&a, dead, []);
    encode(&a, 0);
    assert_eq!(rows(&a, dead, []), seen);
    assert_eq!(seen, "6 | 2 | __[RIP]__");
}

#[test]
fn versions_order_as_writes_do() {
    let a = tracked();
    run(&a, "insert into todos values ('1', 'milk', 0)");
    let version = "select max(col_version) from cloudsync_changes";
    let before: i64 = rows(&a, version, []).parse().expect("a number");
    for _ in 0..2 {
        run(&a, "update todos set done = done + 1");
        encode(&a, 0);
    }
    let after: i64 = rows(&a, version, []).parse().expect("a number");
    assert!(after > before, "{after} after {before}");
}

#[test]
fn constraints_choose_the_same_lines_wherever_they_are_asked() {
    let (a, b) = (tracked(), tracked());
    run(&a, "insert into todos values ('1', 'milk', 0), ('2', 'bread', 0)");
    run(&b, "insert into todos values ('3', 'salt', 0)");
    apply(&a, encode(&b, 0).as_deref()).expect("apply works");
    run(&a, "update todos set done = 1 where id = '3'; insert into todos values ('4', 'oil', 0)");
    let all = "(select tbl, pk, col_name, db_version as db_version, site_id as site_id from cloudsync_changes limit -1)";
    for condition in [
        "db_version > 2",
        "db_version >= 2",
        "db_version < 2",
        "db_version <= 2",
        "db_version = 1",
        "db_version > 'x'",
        "site_id = cloudsync_siteid()",
        "site_id <> cloudsync_siteid() and db_version > 1",
        "site_id = 5",
        "tbl = 'todos' and db_version between 2 and 3",
        "tbl = 'TODOS'",
    ] {
        let count = |from: &str| rows(&a, &format!("select count(*) from {from} where {condition}"), []);
        assert_eq!(count("cloudsync_changes"), count(all), "{condition}");
    }
    let error = a.execute("delete from cloudsync_changes", []).expect_err("it is read only").to_string();
    assert!(error.contains("may not be modified"), "{error}");
}

#[test]
fn a_payload_of_lines_says_what_a_payload_of_the_file_says() {
    let (a, b, c) = (tracked(), tracked(), tracked());
    run(&a, "insert into todos values ('1', 'milk', 0), ('2', 'bread', 0), ('3', x'00', 1.5)");
    encode(&a, 0);
    run(&a, "update todos set done = 1 where id = '1'; delete from todos where id = '2'");
    apply(&b, gathered(&a, "true").as_deref()).expect("apply works");
    apply(&c, encode(&a, 0).as_deref()).expect("apply works");
    assert_eq!(rows(&b, ALL, []), rows(&a, ALL, []));
    assert_eq!(rows(&b, STAMPS, []), rows(&c, STAMPS, []));
    assert_eq!(apply(&c, gathered(&a, "true").as_deref()), Ok(0), "it says nothing new");
    assert_eq!(gathered(&a, "false"), None);
    run(&b, "update todos set title = 'salt' where id = '3'");
    run(&b, "insert into todos values ('5', 'tea', 0)");
    apply(&a, gathered(&b, "site_id = cloudsync_siteid()").as_deref()).expect("apply works");
    assert_eq!(rows(&a, ALL, []), rows(&b, ALL, []));
}

#[test]
fn rows_that_were_there_before_have_lines_too() {
    let a = open();
    run(&a, TODOS);
    run(
        &a,
        "with recursive n(i) as (select 1 union all select i + 1 from n where i < 700)
        insert into todos select printf('%04d', i), 'x', i from n",
    );
    rows(&a, "select cloudsync_init('todos')", []);
    run(&a, "update todos set done = 0 where id = '0007'; delete from todos where id = '0300'");
    assert_eq!(
        rows(&a, "select count(*), count(distinct pk), sum(cl = 2) from cloudsync_changes", []),
        "2098 | 700 | 1"
    );
    let b = tracked();
    apply(&b, gathered(&a, "true").as_deref()).expect("apply works");
    assert_eq!(rows(&b, ALL, []), rows(&a, ALL, []));
    encode(&a, 0);
    assert_eq!(
        rows(&a, "select count(*), count(distinct pk), sum(cl = 2) from cloudsync_changes", []),
        "2098 | 700 | 1"
    );
}

#[test]
fn lines_that_are_none_are_refused() {
    let a = tracked();
    run(&a, "insert into todos values ('1', 'milk', 0)");
    for (line, expected) in [
        ("1, pk, 'done', 1, 1, 1, site_id, 1, 1", "argument 1 is 1, wanted text"),
        (
            "tbl, 'x', 'done', 1, 1, 1, site_id, 1, 1",
            "argument 2 is text of 1 bytes, wanted a row key (BLOB)",
        ),
        ("tbl, pk, 'done', 1, null, 1, site_id, 1, 1", "argument 5 is NULL, wanted a version (INTEGER)"),
        (
            "tbl, pk, 'done', 1, 1, 1, x'01', 1, 1",
            "argument 7 is a blob of 1 bytes, wanted a site id (BLOB of 16 bytes)",
        ),
        ("tbl, pk, 'done', 1, 1, 1, site_id, 3, 1", "argument 8 is 3, wanted 1 (alive) or 2 (deleted)"),
        ("'nope', pk, 'done', 1, 1, 1, site_id, 1, 1", "table \"nope\" is not tracked"),
        ("tbl, pk, 'nope', 1, 1, 1, site_id, 1, 1", "table \"todos\" has no column \"nope\""),
        ("tbl, x'ff', 'done', 1, 1, 1, site_id, 1, 1", "wrong row key"),
    ] {
        let sql = format!("select cloudsync_payload_encode({line}) from cloudsync_changes");
        let error = a.query_row(&sql, [], |_row| Ok(())).expect_err(line).to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn chunks_together_say_everything() {
    let a = open();
    run(&a, "create table t (id text primary key, v blob); create table u (id text primary key)");
    run(&a, "insert into u values ('before')");
    run(&a, "select cloudsync_init('*')");
    run(&a, "with recursive n(i) as (select 1 union all select i + 1 from n where i < 40)
        insert into t select i, randomblob(5000) from n; insert into u values ('1'); delete from t where id = '7'");
    let chunks = "cloudsync_payload_chunks(0, null, 20000)";
    assert_eq!(
        rows(
            &a,
            &format!(
                "select count(*) > 5, sum(rows), min(db_version_min), max(watermark_db_version) = cloudsync_db_version(), sum(is_final), max(payload_size) < 30000, sum(payload_size = length(payload)) = count(*) from {chunks}"
            ),
            []
        ),
        "1 | 41 | 65536 | 1 | 1 | 1 | 1"
    );
    let b = open();
    run(
        &b,
        "create table t (id text primary key, v blob); create table u (id text primary key); select cloudsync_init('*')",
    );
    let mut statement = a.prepare(&format!("select payload from {chunks}")).expect("it is a table");
    let payloads: Vec<Vec<u8>> =
        statement.query_map([], |row| row.get(0)).and_then(Iterator::collect).expect("chunks come");
    for payload in payloads.iter().rev() {
        apply(&b, Some(payload)).expect("apply works");
    }
    for table in ["t", "u"] {
        let all = format!("select * from {table} order by id");
        assert_eq!(rows(&b, &all, []), rows(&a, &all, []));
    }
    let newest = rows(&a, "select cloudsync_db_version()", []);
    assert_eq!(rows(&a, &format!("select count(*) from cloudsync_payload_chunks({newest})"), []), "0");
    assert_eq!(
        rows(
            &a,
            "select sum(rows) from cloudsync_payload_chunks where since_db_version = 0 and until_db_version = 65540",
            []
        ),
        "5"
    );
    run(&a, "select cloudsync_set('payload_max_chunk_size', 20000)");
    assert_eq!(rows(&a, "select count(*) > 5 from cloudsync_payload_chunks", []), "1");
    run(&a, "create table kept as select payload from cloudsync_payload_chunks");
    let error =
        a.query_row("select * from cloudsync_payload_chunks(-1)", [], |_row| Ok(())).expect_err("wrong");
    assert_eq!(
        error.to_string(),
        "cloudsync: cloudsync_payload_chunks: argument 1 is -1, wanted a number from 0 on"
    );
    assert_eq!(rows(&open(), "select count(*) from cloudsync_payload_chunks", []), "0");
    assert_eq!(rows(&open(), "select count(*) from cloudsync_changes", []), "0");
}

#[test]
fn a_payload_goes_by_way_of_a_file() {
    let (a, b) = (tracked(), tracked());
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("todos.payload");
    let path = path.to_str().expect("UTF-8");
    assert_eq!(rows(&a, "select cloudsync_payload_save(?1)", [path]), "0");
    run(&a, "insert into todos values ('1', 'milk', 0), ('2', 'bread', 0)");
    let bytes = rows(&a, "select cloudsync_payload_save(?1)", [path]);
    assert_eq!(bytes, std::fs::metadata(path).expect("it is there").len().to_string());
    assert_eq!(rows(&b, "select cloudsync_payload_load(?1)", [path]), "2");
    assert_eq!(rows(&b, "select cloudsync_payload_load(?1)", [path]), "0");
    assert_ne!(rows(&a, "select cloudsync_payload_save(?1, 0, 1)", [path]), "0");
    let c = tracked();
    assert_eq!(rows(&c, "select cloudsync_payload_load(?1)", [path]), "1");
    assert_eq!(
        std::fs::read_dir(directory.path()).expect("it is there").count(),
        1,
        "nothing lies beside it"
    );
    for call in ["cloudsync_payload_load", "cloudsync_payload_save"] {
        let error = a
            .query_row(&format!("select {call}('missing/directory/x')"), [], |_row| Ok(()))
            .expect_err("no such place")
            .to_string();
        assert!(error.contains("payload file \"missing/directory/x\": No such file"), "{error}");
    }
}

#[test]
fn a_database_closes_in_the_middle_of_nothing() {
    let a = tracked();
    run(&a, "insert into todos values ('1', 'milk', 0)");
    rows(&a, "select * from cloudsync_changes limit 1", []);
    rows(&a, "select * from cloudsync_payload_chunks limit 1", []);
    gathered(&a, "true");
    a.close().expect("no statement is left open");
}

#[test]
fn a_key_that_is_not_of_the_table_is_an_error_of_the_aggregate() {
    let a = tracked();
    // Two integers; NULL; nothing.
    for key in ["x'0100000000000000010100000000000000ff'", "x'00'", "x''"] {
        let sql = format!(
            "select cloudsync_payload_encode('todos', {key}, 'title', 'x', 1, 1, zeroblob(16), 1, 0)"
        );
        let error = a.query_row(&sql, [], |_row| Ok(())).expect_err("the key is wrong").to_string();
        assert!(error.contains("wanted a row key of the table"), "{error}");
    }
}
