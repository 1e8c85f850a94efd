//! Where the file is and who writes to it: attached, in memory, read-only, vacuumed, copied, written by several
//! connections and processes, with and without the extension.

mod support;

use std::path::Path;
use std::process::Command;
use std::time::Duration;
use std::{env, thread};

use rusqlite::backup::Backup;
use rusqlite::{Connection, MAIN_DB, OpenFlags, params};
use support::captured::{Pair, track};
use support::{TODOS, apply, encode, open, rows, run};
use tempfile::TempDir;

const FILLED: &str = "insert into todos values ('1', 'milk', 0), ('2', 'bread', 0)";

/// Opens a file as an app that never heard of the extension does.
fn plain(path: &Path) -> Connection {
    let connection = Connection::open(path).expect("it opens");
    connection.busy_timeout(Duration::from_secs(60)).expect("a timeout");
    connection
}

fn ours(path: &Path) -> Connection {
    let connection = plain(path);
    cloudsync::register(&connection).expect("functions register");
    connection
}

/// A file with tracked, filled to-dos.
fn tracked(path: &Path) -> Connection {
    let connection = ours(path);
    run(&connection, TODOS);
    track(&connection);
    run(&connection, FILLED);
    connection
}

/// Expects these rows in a second file that gets everything.
fn check(connection: &Connection, expected: &str) {
    let other = open();
    run(&other, TODOS);
    track(&other);
    assert_eq!(apply(&other, encode(connection, 0).as_deref()).map(|_| ()), Ok(()));
    assert_eq!(rows(&other, "select * from todos order by id", []), expected);
}

const WRITES: &str = "update todos set title = 'oats' where id = '1';
    delete from todos where id = '2'; replace into todos values ('3', 'new', 1)";
const WRITTEN: &str = "1 | oats | 0; 3 | new | 1";

#[test]
fn writes_by_a_name_with_its_database() {
    let pair = Pair::new(TODOS);
    run(&pair.a, "insert into main.todos values ('1', 'a', 0), ('2', 'b', 0)");
    run(
        &pair.a,
        "update main.todos set title = 'c' where main.todos.id = '1'; delete from main.todos where id = '2'",
    );
    pair.sync("qualified names");
    assert_eq!(rows(&pair.b, "select * from todos", []), "1 | c | 0");
}

#[test]
fn writes_to_an_attached_file_are_its_own() {
    let directory = TempDir::new().expect("a directory");
    let path = directory.path().join("tracked.db");
    drop(tracked(&path));
    for other in [Connection::open_in_memory().expect("memory"), {
        let other = open();
        run(&other, TODOS);
        track(&other);
        other
    }] {
        run(
            &other,
            "create table if not exists todos (id text primary key, title text, done integer default 0)",
        );
        run(&other, "insert into todos values ('x', 'elsewhere', 0)");
        other.execute("attach ?1 as there", [path.to_str()]).expect("it is attached");
        run(&other, &WRITES.replace(" todos", " there.todos"));
        run(
            &other,
            "insert into there.todos select id || 'y', title, done from main.todos; delete from there.todos where id = 'xy'",
        );
        run(&other, "detach there");
        check(&ours(&path), WRITTEN);
        run(&ours(&path), "delete from todos");
        run(&ours(&path), FILLED);
    }
}

#[test]
fn files_written_without_the_extension() {
    let directory = TempDir::new().expect("a directory");
    for mode in ["delete", "wal", "truncate", "persist", "memory"] {
        let path = directory.path().join(mode);
        let connection = ours(&path);
        rows(&connection, &format!("pragma journal_mode = {mode}"), []);
        drop(connection);
        drop(tracked(&path));
        run(&plain(&path), WRITES);
        check(&ours(&path), WRITTEN);
        run(&plain(&path), "update todos set done = 5");
        check(&ours(&path), "1 | oats | 5; 3 | new | 5");
    }
}

#[test]
fn a_distrusting_connection_without_the_extension() {
    let directory = TempDir::new().expect("a directory");
    let path = directory.path().join("file");
    drop(tracked(&path));
    let connection = plain(&path);
    run(
        &connection,
        "pragma trusted_schema = off; pragma cell_size_check = on; pragma recursive_triggers = on",
    );
    run(&connection, WRITES);
    check(&ours(&path), WRITTEN);
}

#[test]
fn a_vacuumed_file_goes_on() {
    let directory = TempDir::new().expect("a directory");
    let path = directory.path().join("file");
    let connection = tracked(&path);
    run(
        &connection,
        "insert into todos (rowid, id) values (900, 'z'); delete from todos where id = '1'; vacuum",
    );
    check(&connection, "2 | bread | 0; z | NULL | 0");
    run(&connection, "replace into todos (rowid, id) select rowid, 'y' from todos where id = 'z'");
    check(&connection, "2 | bread | 0; y | NULL | 0");
    let copy = directory.path().join("copy");
    run(&connection, "update todos set done = 1 where id = 'y'");
    connection.execute("vacuum into ?1", [copy.to_str()]).expect("vacuum into works");
    run(&plain(&copy), "update todos set title = 'copied' where id = 'y'");
    check(&ours(&copy), "2 | bread | 0; y | copied | 1");
}

#[test]
fn a_backup_holds_what_was_captured() {
    let directory = TempDir::new().expect("a directory");
    let source = tracked(&directory.path().join("file"));
    run(&source, "update todos set done = 1 where id = '1'");
    let mut copy = Connection::open_in_memory().expect("memory");
    Backup::new(&source, &mut copy)
        .and_then(|backup| backup.run_to_completion(5, Duration::ZERO, None))
        .expect("a backup");
    cloudsync::register(&copy).expect("functions register");
    run(&copy, WRITES);
    check(&copy, "1 | oats | 1; 3 | new | 1");
    let path = directory.path().join("again");
    copy.backup(MAIN_DB, &path, None).expect("a backup");
    run(&plain(&path), "delete from todos where id = '1'");
    check(&ours(&path), "3 | new | 1");
}

#[test]
fn a_file_that_may_only_be_read() {
    let directory = TempDir::new().expect("a directory");
    let path = directory.path().join("file");
    let connection = tracked(&path);
    let site = rows(&connection, "select cloudsync_siteid()", []);
    encode(&connection, 0);
    drop(connection);
    let other = open();
    run(&other, TODOS);
    track(&other);
    run(&other, "insert into todos values ('9', 'other', 0)");
    let payload = encode(&other, 0).expect("a payload");
    let payload: String = payload.iter().map(|byte| format!("{byte:02x}")).collect();
    let reading = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY).expect("it opens");
    cloudsync::register(&reading).expect("functions register");
    assert_eq!(rows(&reading, "select cloudsync_siteid()", []), site);
    assert_eq!(rows(&reading, "select cloudsync_db_version(), cloudsync_is_sync('todos')", []), "2 | 0");
    assert_eq!(rows(&reading, "select title from todos order by id", []), "milk; bread");
    let apply = format!("cloudsync_payload_apply(x'{payload}')");
    for call in ["cloudsync_init('todos')", apply.as_str(), "cloudsync_cleanup('todos')"] {
        let error =
            reading.query_row(&format!("select {call}"), [], |_row| Ok(())).expect_err(call).to_string();
        assert!(error.contains("attempt to write a readonly database"), "{call}: {error}");
    }
}

#[test]
fn a_connection_that_may_only_query() {
    let connection = open();
    run(&connection, TODOS);
    track(&connection);
    run(&connection, FILLED);
    run(&connection, "pragma query_only = on");
    let error =
        connection.query_row("select cloudsync_init('todos')", [], |_row| Ok(())).expect_err("it may not");
    assert!(error.to_string().contains("attempt to write a readonly database"), "{error}");
    run(&connection, "pragma query_only = off");
    check(&connection, "1 | milk | 0; 2 | bread | 0");
}

#[test]
fn databases_in_memory_that_are_shared() {
    let flags =
        OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
    let uri = "file:capture_shared?mode=memory&cache=shared";
    let one = Connection::open_with_flags(uri, flags).expect("memory");
    cloudsync::register(&one).expect("functions register");
    run(&one, TODOS);
    track(&one);
    run(&one, FILLED);
    let other = Connection::open_with_flags(uri, flags).expect("memory");
    run(&other, WRITES);
    drop(other);
    check(&one, WRITTEN);
}

const WRITERS: i64 = 4;
const ROWS_EACH: i64 = 40;

/// Writes like one of several writers: inserts, an update of a row that all share, and deletions.
fn write_much(connection: &Connection, writer: i64) {
    for at in 0..ROWS_EACH {
        let id = format!("{writer}-{at}");
        connection.execute("insert into todos values (?1, 'new', ?2)", params![id, at]).expect("an insert");
        connection.execute("update todos set done = done + 1 where id = '1'", []).expect("an update");
        if at % 2 == 1 {
            connection.execute("delete from todos where id = ?1", [id]).expect("a deletion");
        }
        if at % 10 == 9
            && connection
                .query_row(
                    "select 1 from pragma_function_list where name = 'cloudsync_version'",
                    [],
                    |_row| Ok(()),
                )
                .is_ok()
        {
            encode(connection, 0);
        }
    }
}

/// Expects everything that the writers left in a second file.
fn check_written(path: &Path) {
    let connection = ours(path);
    let count = WRITERS * ROWS_EACH;
    assert_eq!(rows(&connection, "select done from todos where id = '1'", []), count.to_string());
    assert_eq!(
        rows(&connection, "select count(*) from todos where title = 'new'", []),
        (count / 2).to_string()
    );
    check(&connection, &rows(&connection, "select * from todos order by id", []));
    assert_eq!(rows(&connection, "pragma integrity_check", []), "ok");
}

#[test]
fn several_connections_write_at_once() {
    let directory = TempDir::new().expect("a directory");
    for mode in ["wal", "delete"] {
        let path = directory.path().join(mode);
        let connection = tracked(&path);
        rows(&connection, &format!("pragma journal_mode = {mode}"), []);
        thread::scope(|scope| {
            for writer in 0..WRITERS {
                let path = &path;
                scope.spawn(move || {
                    let connection = if writer % 2 == 0 { ours(path) } else { plain(path) };
                    write_much(&connection, writer);
                });
            }
        });
        check_written(&path);
    }
}

/// Tells a process of [`several_processes_write_at_once`] which file it writes to, and as whom.
const TASK: &str = "CLOUDSYNC_TEST_WRITER";

#[test]
fn several_processes_write_at_once() {
    if let Ok(task) = env::var(TASK) {
        let (writer, path) = task.split_once(' ').expect("a number and a path");
        write_much(&ours(Path::new(path)), writer.parse().expect("a number"));
        return;
    }
    let directory = TempDir::new().expect("a directory");
    for mode in ["wal", "delete"] {
        let path = directory.path().join(mode);
        let connection = tracked(&path);
        rows(&connection, &format!("pragma journal_mode = {mode}"), []);
        let program = env::current_exe().expect("this program");
        let start = |writer: i64| {
            let mut command = Command::new(&program);
            command.args(["--exact", "several_processes_write_at_once"]);
            command.env(TASK, format!("{writer} {}", path.display()));
            command.spawn().expect("a process")
        };
        let processes: Vec<_> = (0..WRITERS).map(start).collect();
        for mut process in processes {
            assert!(process.wait().expect("it ends").success());
        }
        check_written(&path);
    }
}

#[test]
fn the_incremental_blob_interface_is_not_captured() {
    // SQLite fires no trigger for it: an app that uses it has to touch the row by UPDATE as well.
    let pair = Pair::new("create table t (id integer primary key, v blob, n integer)");
    run(&pair.a, "insert into t values (1, x'0000', 0)");
    pair.sync("setup");
    let mut blob = pair.a.blob_open(MAIN_DB, "t", "v", 1, false).expect("a blob");
    blob.write_at(b"ab", 0).expect("bytes are written");
    blob.close().expect("a blob is closed");
    assert_eq!(rows(&pair.b, "select v from t", []), "0000");
    assert_eq!(pair.write("update t set v = null; update t set v = cast('ab' as blob)"), "4 | 1; 4 | 1");
    pair.sync("an update");
}
