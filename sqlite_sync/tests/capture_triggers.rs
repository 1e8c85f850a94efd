//! What a statement sets off is a write like any other: users' triggers of every kind, foreign keys, views.
//! Capture fires before users' triggers do, so that one which skips the rest skips nothing of ours.

mod support;

use rusqlite::config::DbConfig;
use support::captured::{Pair, captured, entries_after};
use support::{open, rows, run};

/// Runs `setup` and `sql` and expects these new entries in the log: code or columns, then the key. Triggers of
/// the schema do not fire while changes are applied.
fn check(schema: &str, setup: &str, sql: &str, expected: &str) {
    assert_eq!(captured(schema, setup, sql), expected, "log after {sql}");
}

/// Two tracked tables of the same shape.
const TWO: &str = "create table t (id integer primary key, v text, n integer);
    create table o (id integer primary key, v text, n integer);";

fn with_trigger(trigger: &str) -> String {
    format!("{TWO} create trigger users {trigger} end")
}

const HERE: &str = "not cloudsync_is_sync('t')";

#[test]
fn a_trigger_writes_another_tracked_table() {
    for when in ["before", "after"] {
        let schema = with_trigger(&format!(
            "{when} update on t when {HERE} begin insert into o values (new.id * 10, old.v, 1); update o set n = 2;"
        ));
        let entries = captured(&schema, "insert into t values (1, 'a', 0)", "update t set v = 'b'");
        let mut entries: Vec<&str> = entries.split("; ").collect();
        entries.sort_unstable();
        assert_eq!(entries, ["-1 | 10", "4 | 1", "8 | 10"], "{when}");
    }
    let schema =
        with_trigger(&format!("after delete on t when {HERE} begin delete from o where id = old.id;"));
    check(
        &schema,
        "insert into t values (1, 'a', 0); insert into o values (1, 'a', 0), (2, 'b', 0)",
        "delete from t",
        "-2 | 1; -2 | 1",
    );
}

#[test]
fn a_trigger_writes_its_own_table() {
    let schema = with_trigger(&format!(
        "after insert on t when {HERE} begin update t set v = upper(v) where id = new.id;"
    ));
    check(&schema, "select 1", "insert into t values (1, 'a', 0)", "-1 | 1; 4 | 1");
    let schema = with_trigger(&format!(
        "before update on t when {HERE} and new.n = 5 begin update t set n = 7 where id <> new.id; delete from t where id = 3;"
    ));
    check(
        &schema,
        "insert into t values (1, 'a', 0), (2, 'b', 0), (3, 'c', 0)",
        "update t set n = 5 where id = 1",
        "8 | 2; 8 | 3; -2 | 3; 8 | 1",
    );
    let recursive = with_trigger(&format!(
        "after update on t when {HERE} and new.n < 3 begin update t set n = n + 1 where id = new.id;"
    ));
    check(&recursive, "insert into t values (1, 'a', 5)", "update t set n = 0", "8 | 1; 8 | 1");
    check(
        &recursive,
        "insert into t values (1, 'a', 5)",
        "pragma recursive_triggers = on; update t set n = 0",
        "8 | 1; 8 | 1; 8 | 1; 8 | 1",
    );
}

#[test]
fn a_before_trigger_that_changes_its_own_row() {
    let schema = with_trigger(&format!(
        "before update of v on t when {HERE} begin update t set n = n + 1 where id = new.id;"
    ));
    check(&schema, "insert into t values (1, 'a', 0)", "update t set v = 'b'", "8 | 1; 12 | 1");
}

#[test]
fn triggers_on_views() {
    let schema = format!(
        "{TWO} create view both as select id, v from t union all select -id, v from o;
         create trigger i instead of insert on both begin insert into t values (new.id, new.v, 0); insert into o values (new.id, new.v, 0); end;
         create trigger u instead of update on both begin update t set v = new.v where id = new.id; update o set v = new.v where -id = new.id; end;
         create trigger d instead of delete on both begin delete from t where id = old.id; end"
    );
    check(&schema, "select 1", "insert into both values (1, 'a')", "-1 | 1; -1 | 1");
    let setup = "insert into both values (1, 'a'), (2, 'b')";
    check(&schema, setup, "update both set v = 'z' where id = -2", "4 | 2");
    check(&schema, setup, "update both set v = v || '!' where v = 'a'", "4 | 1; 4 | 1");
    check(&schema, setup, "delete from both", "-2 | 1; -2 | 2");
}

/// Ways to end a statement from a trigger, and whether its row stays.
const RAISES: [(&str, bool); 4] =
    [("ignore", true), ("abort, 'no'", false), ("rollback, 'no'", false), ("fail, 'no'", true)];

/// Statements on a table that holds row 1, what they leave, and what they log.
const STATEMENTS: [(&str, &str, &str, &str); 3] = [
    ("insert", "insert into t values (2, 'b', 0)", "1 | a | 0; 2 | b | 0", "-1 | 2"),
    ("update", "update t set v = 'c'", "1 | c | 0", "4 | 1"),
    ("delete", "delete from t", "", "-2 | 1"),
];

/// Lets a trigger end every statement, one made before or after the table was tracked, and expects that what
/// stays in the table also travels.
fn check_raise(when: &str, raise: &str, is_kept: bool, is_later: bool) {
    for (event, sql, table, log) in STATEMENTS {
        let trigger =
            format!("create trigger users {when} {event} on t when {HERE} begin select raise({raise}); end");
        let first = if is_later { String::from(TWO) } else { format!("{TWO} {trigger} ") };
        let pair = Pair::new(
            &first.replace(&format!("when {HERE}"), &format!("when {HERE} and exists (select 1 from o)")),
        );
        run(&pair.a, "insert into t values (1, 'a', 0)");
        pair.sync("setup");
        run(&pair.a, "insert into o values (1, 'on', 0)");
        if is_later {
            run(&pair.a, &trigger);
            pair.sync("a new trigger");
        }
        let newest = rows(&pair.a, "select max(seq) from cloudsync_log", []);
        drop(pair.a.execute_batch(sql));
        let (table, log) = if is_kept { (table, log) } else { ("1 | a | 0", "") };
        assert_eq!(rows(&pair.a, "select * from t", []), table, "{trigger}");
        assert_eq!(entries_after(&pair.a, &newest), log, "{trigger}");
        pair.sync(&trigger);
    }
}

#[test]
fn a_trigger_that_ends_its_statement() {
    for (raise, is_kept) in RAISES {
        for is_later in [false, true] {
            check_raise("before", raise, false, is_later);
            check_raise("after", raise, is_kept, is_later);
        }
    }
}

#[test]
fn rows_that_a_new_trigger_hid_are_found() {
    let pair = Pair::new(TWO);
    run(&pair.a, "insert into t values (1, 'a', 0)");
    pair.sync("setup");
    run(
        &pair.a,
        "create trigger users after insert on t begin select raise(ignore); end;
         create trigger more after delete on t begin select raise(ignore); end;
         insert into t values (2, 'b', 0); delete from t where id = 1",
    );
    pair.sync("triggers that were there first");
    assert_eq!(rows(&pair.b, "select * from t", []), "2 | b | 0");
    assert_eq!(
        rows(&pair.a, "select reason from cloudsync_gaps", []),
        "a trigger ended statements before they were captured"
    );
}

#[test]
fn temporary_triggers_and_tables() {
    let pair = Pair::new(TWO);
    run(
        &pair.a,
        "create temp table log (x); create temp trigger mine after insert on main.t begin
           insert into log values (new.id); update t set n = 9 where id = new.id; end",
    );
    assert_eq!(pair.write("insert into t values (1, 'a', 0)"), "8 | 1; -1 | 1");
    pair.sync("a temporary trigger");
    assert_eq!(rows(&pair.b, "select * from t", []), "1 | a | 9");
}

#[test]
fn foreign_keys_that_act() {
    for (action, on_delete, on_update) in [
        ("cascade", "-2 | 10; -2 | 1", "8 | 10; -2 | 1; -1 | 5"),
        ("set null", "8 | 10; -2 | 1", "8 | 10; -2 | 1; -1 | 5"),
        ("set default", "8 | 10; -2 | 1", "8 | 10; -2 | 1; -1 | 5"),
    ] {
        let schema = format!(
            "create table lists (id integer primary key, name text);
             create table todos (id integer primary key, title text, list integer default 2
               references lists on delete {action} on update {action})"
        );
        let setup = "pragma foreign_keys = on; insert into lists values (1, 'a'), (2, 'b'); insert into todos values (10, 'x', 1), (11, 'y', 2)";
        check(&schema, setup, "delete from lists where id = 1", on_delete);
        check(&schema, setup, "update lists set id = 5 where id = 1", on_update);
    }
    let keys = "create table p (id integer primary key); create table c (p integer references p on delete cascade on update cascade, n text, primary key (p, n));
        create table g (p integer, n text, m text, primary key (p, n, m), foreign key (p, n) references c on delete cascade on update cascade)";
    let setup = "pragma foreign_keys = on; insert into p values (1), (2); insert into c values (1, 'a'), (2, 'b'); insert into g values (1, 'a', 'x')";
    check(
        keys,
        setup,
        "update p set id = 7 where id = 1",
        "-2 | 1 | a | x; -1 | 7 | a | x; -2 | 1 | a | NULL; -1 | 7 | a | NULL; -2 | 1 | NULL | NULL; -1 | 7 | NULL | NULL",
    );
    check(
        keys,
        setup,
        "delete from p where id = 1",
        "-2 | 1 | a | x; -2 | 1 | a | NULL; -2 | 1 | NULL | NULL",
    );
}

#[test]
fn a_key_that_refers_to_its_own_table() {
    let schema = "create table t (id integer primary key, up integer references t on delete cascade deferrable initially deferred)";
    let setup = "pragma foreign_keys = on; insert into t values (1, null), (2, 1), (3, 2), (4, null)";
    check(schema, setup, "delete from t where id = 1", "-2 | 3; -2 | 2; -2 | 1");
    check(
        schema,
        setup,
        "begin; insert into t values (9, 8); insert into t values (8, null); commit",
        "-1 | 9; -1 | 8",
    );
}

#[test]
fn triggers_that_are_switched_off_capture_nothing() {
    // The host took capture away for a while: what it wrote then is its own to repair.
    let connection = open();
    run(&connection, "create table t (id text primary key, v)");
    rows(&connection, "select cloudsync_init('t')", []);
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false).expect("a switch");
    run(&connection, "insert into t values ('a', 1)");
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, true).expect("a switch");
    assert_eq!(rows(&connection, "select count(*) from cloudsync_log", []), "0");
}
