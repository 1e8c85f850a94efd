//! Names, types, collations and keys of every kind: what counts as a change, and what arrives.

mod support;

use support::captured::{Pair, captured, image, track};
use support::{TODOS, apply, encode, open, rows, run};

/// Runs `setup` and `sql` and expects these new entries in the log: code or columns, then the key.
fn check(schema: &str, setup: &str, sql: &str, expected: &str) {
    assert_eq!(captured(schema, setup, sql), expected, "log after {sql}");
}

#[test]
fn every_value_arrives_as_it_is() {
    let schema = "create table t (id text primary key, v, n numeric, r real, i integer, x text, b blob)";
    for value in [
        "null",
        "0",
        "1",
        "-1",
        "9223372036854775807",
        "-9223372036854775808",
        "0.5",
        "1.0",
        "1e300",
        "-1e-300",
        "9e999",
        "''",
        "'a'",
        "'12'",
        "'12.0'",
        "x''",
        "x'00ff'",
        "'a' || char(0) || 'b'",
        "char(0)",
        "cast(x'ff00fe' as text)",
        "'🦀 é'",
        "zeroblob(3000)",
        "hex(zeroblob(50000))",
    ] {
        check(
            schema,
            "select 1",
            &format!("insert into t values ('k', {0}, {0}, {0}, {0}, {0}, {0})", format!("({value})")),
            "-1 | k",
        );
        let pair = Pair::new(schema);
        run(&pair.a, "insert into t (id, v, n, r, i, x, b) values ('k', 77, 77, 77, 77, 77, 77)");
        pair.sync("setup");
        let sql = format!(
            "update t set v = {value}, n = {value}, r = {value}, i = {value}, x = {value}, b = {value}"
        );
        assert_eq!(pair.write(&sql), "252 | k", "{sql}");
        pair.sync(&sql);
        assert_eq!(pair.write(&sql), "", "again {sql}");
    }
}

#[test]
fn a_change_is_another_value_or_another_type() {
    let schema = "create table t (id integer primary key, v, x text collate nocase, r real)";
    for (before, after, column, is_change) in [
        ("1", "1.0", "v", true),
        ("1.0", "1", "v", true),
        ("'1'", "1", "v", true),
        ("x'61'", "'a'", "v", true),
        ("0.0", "-0.0", "v", false),
        ("0.0", "-0.0", "r", false),
        ("1", "1.0", "r", false),
        ("null", "0", "v", true),
        ("null", "''", "v", true),
        ("null", "null", "v", false),
        ("'bob'", "'Bob'", "x", true),
        ("'bob'", "'bob '", "x", true),
        ("'bob'", "'bob'", "x", false),
        ("'a' || char(0) || 'b'", "'a' || char(0) || 'c'", "x", true),
        ("'a' || char(0) || 'b'", "'a'", "x", true),
        ("'é'", "'e' || char(769)", "x", true),
        ("x'61'", "'a'", "x", true),
        ("9007199254740993", "9007199254740992.0", "v", true),
        ("9007199254740992", "9007199254740992.0", "v", true),
        ("9e999", "-9e999", "r", true),
    ] {
        let bit = match column {
            "v" => "4 | 1",
            "x" => "8 | 1",
            _ => "16 | 1",
        };
        let setup = format!("insert into t (id, {column}) values (1, {before})");
        let expected = if is_change { bit } else { "" };
        check(schema, &setup, &format!("update t set {column} = {after}"), expected);
    }
}

#[test]
fn odd_names_travel() {
    for name in [
        "a b",
        "a\"b",
        "it's",
        "[x]",
        "🦀 Tabelle",
        "select",
        "NEW",
        "old",
        "log",
        "pk",
        "seq",
        "a;b",
        "a--b",
        "%s{now}",
        "main",
    ] {
        let quoted = name.replace('"', "\"\"");
        let schema = format!(
            "create table \"{quoted}\" (\"{quoted}\" text primary key, \"{quoted} 2\" text unique, \"values\" integer)"
        );
        let table = format!("\"{quoted}\"");
        check(
            &schema,
            &format!("insert into {table} values ('k', 'a', 1)"),
            &format!("update {table} set \"{quoted} 2\" = 'b', \"values\" = 2"),
            "12 | k",
        );
        check(
            &schema,
            &format!("insert into {table} values ('k', 'a', 1)"),
            &format!("replace into {table} values ('l', 'a', 1)"),
            "-3 | k; -1 | l",
        );
        check(
            &schema,
            &format!("insert into {table} values ('k', 'a', 1)"),
            &format!("update {table} set \"{quoted}\" = 'l'; delete from {table}"),
            "-2 | k; -1 | l; -2 | l",
        );
    }
}

#[test]
fn tables_without_rowid_and_strict_tables() {
    let options = ["without rowid", "strict", "strict, without rowid"];
    for option in options {
        let schema = format!(
            "create table t (a text, b integer, n integer not null, v any, primary key (b, a)) {option}"
        )
        .replace("v any", if option == "without rowid" { "v" } else { "v any" });
        let setup = "insert into t values ('x', 1, 5, 'v'), ('y', 1, 6, x'00')";
        check(&schema, setup, "update t set v = 1.0 where a = 'x'", "16 | 1 | x");
        check(&schema, setup, "update t set v = '007', n = n + 1", "24 | 1 | x; 24 | 1 | y");
        check(&schema, setup, "update t set b = 2 where a = 'y'", "-2 | 1 | y; -1 | 2 | y");
        check(&schema, setup, "replace into t values ('y', 1, 9, 9)", "-1 | 1 | y");
    }
}

#[test]
fn keys_of_mixed_types() {
    let schema = "create table t (a, b integer, c text, d blob, v, primary key (a, b, c, d))";
    let setup = "insert into t values (1, 1, '1', x'31', 'int'), ('1', 1, '1', x'31', 'text'),
        (x'31', 1, '1', x'31', 'blob'), (1.5, 1, '1', x'31', 'real'), ('a' || char(0), 2, 'b' || char(0), x'00', 'nul')";
    check(
        schema,
        setup,
        "update t set v = v || '!' where typeof(a) in ('blob', 'text') and b = 1",
        "32 | 1 | 1 | 1 | 31; 32 | 31 | 1 | 1 | 31",
    );
    check(
        schema,
        setup,
        "delete from t where typeof(a) = 'integer'; update t set d = 'x' where v = 'real'",
        "-2 | 1 | 1 | 1 | 31; -2 | 1.5 | 1 | 1 | 31; -1 | 1.5 | 1 | 1 | x",
    );
    check(
        schema,
        setup,
        "replace into t values ('a' || char(0), 2, 'b' || char(0), x'00', 'again')",
        "-1 | a\0 | 2 | b\0 | 00",
    );
}

#[test]
fn a_key_of_1_and_one_of_1_0_are_one_row() {
    // As the index of the table has it. The other file keeps the type that it had first.
    for sql in [
        "update t set k = 1.0, v = 'b'",
        "replace into t values (1.0, 'b')",
        "delete from t; insert into t values (1.0, 'b')",
    ] {
        let pair = Pair::new("create table t (k primary key, v)");
        run(&pair.a, "insert into t values (1, 'a')");
        pair.sync("setup");
        run(&pair.a, sql);
        assert_eq!(apply(&pair.b, encode(&pair.a, 0).as_deref()), Ok(1), "{sql}");
        for connection in [&pair.a, &pair.b] {
            assert_eq!(rows(connection, "select v from t where k = 1", []), "b", "{sql}");
            assert_eq!(rows(connection, "select count(*) from t_cloudsync where alive", []), "1", "{sql}");
        }
        run(&pair.a, "delete from t where k = 1");
        pair.sync("a deletion");
    }
}

#[test]
fn keys_that_are_blobs() {
    let schema = "create table t (id blob primary key, v)";
    let setup = "insert into t values (x'', 0), (x'00', 1), (x'0001', 2), (x'ff', 3), ('text', 4)";
    check(schema, setup, "update t set v = v + 1", "4 | ; 4 | 00; 4 | 0001; 4 | ff; 4 | text");
    check(schema, setup, "update t set id = id || '' where id = x'0001'", "-2 | 0001; -1 | \0\u{1}");
    check(schema, setup, "delete from t where id < x'01' and v < 2", "-2 | ; -2 | 00");
}

#[test]
fn a_key_may_differ_in_case_alone() {
    let schema = "create table t (id text primary key collate nocase, v) without rowid";
    let setup = "insert into t values ('bob', 1), ('eve', 2)";
    check(schema, setup, "update t set id = 'Bob' where id = 'bob'", "-3 | bob; -2 | bob; -1 | Bob");
    check(schema, setup, "update t set id = 'BOB', v = 9 where id = 'Bob'", "-3 | bob; -2 | bob; -1 | BOB");
    check(schema, setup, "update t set v = 7 where id = 'EVE'", "4 | eve");
    check(
        schema,
        setup,
        "delete from t where id = 'BOB'; insert into t values ('bOb', 3)",
        "-2 | bob; -1 | bOb",
    );
    let trimmed = "create table t (id text collate rtrim, v, primary key (id, v))";
    check(
        trimmed,
        "insert into t values ('a', 1)",
        "update t set id = 'a  '",
        "-3 | a | 1; -2 | a | 1; -1 | a   | 1",
    );
}

#[test]
fn collations_of_the_apps_own() {
    let [a, b] = [open(), open()];
    for connection in [&a, &b] {
        let fold = |x: &str, y: &str| x.replace('ß', "ss").cmp(&y.replace('ß', "ss"));
        connection.create_collation("german", fold).expect("a collation");
    }
    let pair = Pair::of(
        a,
        b,
        "create table t (id text primary key collate german, v text collate german unique, w)",
    );
    run(&pair.a, "insert into t values ('strasse', 'gross', 1), ('weg', 'klein', 2)");
    pair.sync("setup");
    for (sql, expected) in [
        ("update t set id = 'straße' where id = 'strasse'", "-3 | strasse; -2 | strasse; -1 | straße"),
        ("update t set v = 'groß' where id = 'strasse'", "-3 | straße; 4 | straße"),
        ("replace into t values ('platz', 'gross', 3)", "-3 | straße; -1 | platz"),
        ("update t set w = 4 where v = 'groß'", "8 | platz"),
    ] {
        let found = pair.write(sql);
        let looks_aside = |entries: &str| {
            entries.split("; ").filter(|entry| !entry.starts_with("-3")).collect::<Vec<_>>().join("; ")
        };
        assert_eq!(looks_aside(&found), looks_aside(expected), "{sql}");
        pair.sync(sql);
    }
}

#[test]
fn generated_columns_are_computed_where_they_arrive() {
    let schema = "create table t (id text primary key, v integer,
        d integer generated always as (v * 2) virtual, s text generated always as (id || v) stored)";
    check(schema, "insert into t (id, v) values ('a', 1)", "update t set v = 2", "4 | a");
    check(
        schema,
        "insert into t (id, v) values ('a', 1)",
        "replace into t (id, v) values ('b', 5); delete from t where d = 2",
        "-1 | b; -2 | a",
    );
}

#[test]
fn rows_whose_key_is_null_stay_here() {
    let pair = Pair::new("create table t (a text, b text, v, primary key (a, b))");
    assert_eq!(
        pair.write("insert into t values (null, 'x', 1), ('y', null, 2), ('z', 'z', 3)"),
        "-1 | z | z"
    );
    assert_eq!(
        pair.write("update t set v = v + 1; delete from t where a = 'y'"),
        "4 | z | z".replace('4', "8")
    );
    assert_eq!(pair.write("update t set a = 'now' where a is null"), "-1 | now | x");
    assert_eq!(pair.write("update t set b = null where a = 'z'"), "-2 | z | z");
    assert_eq!(apply(&pair.b, encode(&pair.a, 0).as_deref()), Ok(1));
    assert_eq!(rows(&pair.b, "select * from t", []), "now | x | 2");
}

#[test]
fn a_table_with_null_keys_is_refused_without_the_flag() {
    let connection = open();
    run(&connection, &format!("{TODOS}; insert into todos values (null, 'x', 1)"));
    let refused = connection.query_row("select cloudsync_init('todos')", [], |_row| Ok(()));
    let message = refused.expect_err("it is refused").to_string();
    assert!(message.contains("key column \"id\" is NULL in a row"), "{message}");
    track(&connection);
}

#[test]
fn column_ids_above_63() {
    let columns: Vec<String> = (2..=200).map(|at| format!("c{at}")).collect();
    let schema = format!("create table t (id integer primary key, {})", columns.join(", "));
    let setup = "insert into t (id) values (1)";
    check(&schema, setup, "update t set c62 = 1", "4611686018427387904,0,0,0 | 1");
    check(&schema, setup, "update t set c63 = 1", "0,1,0,0 | 1");
    check(&schema, setup, "update t set c64 = 1, c2 = 0, c200 = x''", "4,2,0,2048 | 1");
    check(&schema, setup, "update t set c125 = 1, c126 = 2", "0,4611686018427387904,1,0 | 1");
    check(&schema, setup, "update t set c63 = null, c200 = null", "");
}

#[test]
fn a_thousand_columns_of_any_type() {
    let columns: Vec<String> = (2..=1_000).map(|at| format!("c{at}")).collect();
    let pair = Pair::new(&format!("create table t (id integer primary key, {})", columns.join(", ")));
    run(&pair.a, "insert into t (id, c1000) values (1, 'x')");
    pair.sync("an insert");
    run(&pair.a, "update t set c2 = 1, c63 = 63, c64 = 64, c999 = 2.5, c1000 = x'00'");
    pair.sync("an update");
    run(&pair.a, "update t set id = 2; replace into t (id, c500) values (3, 5)");
    pair.sync("a key change");
    let sets: Vec<String> = columns.iter().map(|name| format!("{name} = '{name}'")).collect();
    run(&pair.a, &format!("update t set {}", sets.join(", ")));
    pair.sync("an update of all");
    assert_eq!(image(&pair.b)["t"].len(), 2);
}

#[test]
fn a_file_in_utf16() {
    for encoding in ["UTF-16le", "UTF-16be"] {
        let [a, b] = [open(), open()];
        for connection in [&a, &b] {
            run(connection, &format!("pragma encoding = '{encoding}'"));
        }
        let pair = Pair::of(a, b, "create table t (id text primary key, v text unique)");
        run(&pair.a, "insert into t values ('é', '🦀'), ('a' || char(0) || 'b', 'x'), ('z', 'y')");
        pair.sync("an insert");
        assert_eq!(
            pair.write("update t set v = '🦞' where id = 'é'; replace into t values ('new', 'x')"),
            "4 | é; -3 | a\0b; -1 | new"
        );
        pair.sync(encoding);
    }
}
