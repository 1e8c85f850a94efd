//! `hub verify`: what clients get, compared with the centre: rows that went past capture are found, and nothing else is.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rusqlite::Connection;
use rusqlite::config::DbConfig;
use tests::client::Client;
use tests::hub::{API_KEY, Hub};
use tests::object_store::StoreKind;
use tests::places;
use tests::postgres::{Cluster, Database};
use tests::sql::Session;
use tests::stage::{Centre, NOTE, Setting, Stage, TODO, on_both};
use tests::wait;

const WRITERS: usize = 3;

fn tracked(name: &str) -> Database {
    let database = Cluster::shared().database(name);
    database.session().run(TODO.postgres);
    database.session().run("select cloudsync_init('todo')");
    database
}

/// Lets a snapshot be made, and waits until it is whole.
fn make_snapshot(stage: &mut Stage) {
    stage.play(&["first: sync"]);
    let path = format!("/v1/databases/{}/snapshots", stage.database.name);
    wait::until("the snapshot is whole", || {
        stage.hub.ask_as_operator("GET", &path, None).body.contains("\"finished\":true").then_some(())
    });
}

/// Compares while something is written behind what is compared: the log of a database at rest comes to pass a place only
/// once a minute.
fn compare(hub: &Hub, name: &str, write: impl Fn()) -> (bool, String) {
    thread::scope(|scope| {
        let comparing = scope.spawn(|| hub.command(&["verify", "--database", name]));
        wait::until("the comparison ends", || {
            write();
            comparing.is_finished().then_some(())
        });
        comparing.join().expect("the command can be run")
    })
}

fn verify(stage: &Stage) -> (bool, String) {
    compare(&stage.hub, &stage.database.name, || drop(stage.mark()))
}

/// Writes at the centre while nothing is captured.
fn run_uncaptured(stage: &Stage, table: &str, sql: &str) {
    match stage.database.file() {
        Some(file) => {
            let host = Connection::open(file).expect("the file can be opened");
            host.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false).expect("a switch of SQLite");
            host.execute_batch(sql).expect("the statements are in order");
        }
        None => stage.postgres.run(&format!(
            "alter table {table} disable trigger cloudsync_insert, disable trigger cloudsync_update,
               disable trigger cloudsync_delete;
             {sql};
             alter table {table} enable trigger cloudsync_insert, enable trigger cloudsync_update,
               enable trigger cloudsync_delete"
        )),
    }
}

#[test]
fn rows_with_readers_of_their_own_are_compared_too() {
    on_both(|setting| {
        let mut stage = Stage::new(Setting { tables: &[NOTE, TODO], ..setting });
        stage.play(&[
            "pg: insert into note values ('r1', 'red', 'x'), ('r2', 'red', 'x'), ('b1', 'blue', 'x'), ('n', null, 'x')",
            "pg: insert into todo values ('t', 'for everybody', null, 0)",
            "pg: select cloudsync_set_scope('note', 'team')",
        ]);
        make_snapshot(&mut stage);
        // Behind the snapshot rows move from one audience to another, come and go.
        stage.play(&[
            "pg: update note set team = 'blue' where id = 'r1'",
            "pg: update note set body = 'y' where id = 'b1'",
            "pg: delete from note where id = 'r2'",
            "pg: insert into note values ('w', 'white', 'x'), ('g', '', 'x')",
        ]);
        let (is_good, told) = verify(&stage);
        assert!(is_good && told.contains("note: 5 rows are the same, 0 differ"), "{told}");
        assert!(told.contains("todo: 1 rows are the same"), "{told}");
        run_uncaptured(
            &stage,
            "note",
            "update note set body = 'z' where id = 'b1'; delete from note where id = 'g'",
        );
        let (is_good, told) = verify(&stage);
        assert!(!is_good && told.contains("2 differences"), "{told}");
        assert!(
            told.contains("differs in body: (\"b1\")") && told.contains("only with clients: (\"g\")"),
            "{told}"
        );
    });
}

#[test]
fn rows_that_went_past_capture_of_a_file_are_found_by_comparing() {
    let setting = Setting { centre: Centre::SqliteFile, ..Setting::PLAIN };
    let mut stage = Stage::new(setting);
    let fill = "with recursive n(n) as (select 1 union all select n + 1 from n where n < 3000)
        insert into todo select 'k' || n, 'title ' || n, null, 0 from n";
    stage.postgres.run(fill);
    let (is_good, told) = verify(&stage);
    assert!(!is_good && told.contains("no finished snapshot"), "{told}");
    make_snapshot(&mut stage);
    stage.play(&[
        "pg: update todo set title = 'changed' where id like 'k2%'",
        "pg: delete from todo where id in ('k3', 'k4')",
        "pg: insert into todo values ('k4', 'again', null, 0)",
        "first: insert into todo values ('d', 'by a device', null, 0)",
        "first: sync",
    ]);
    let (is_good, told) = verify(&stage);
    assert!(is_good && told.contains("todo: 3000 rows are the same, 0 differ"), "{told}");
    run_uncaptured(
        &stage,
        "todo",
        "update todo set title = 'not told' where id in ('k1', 'd'); delete from todo where id = 'k5'",
    );
    let (is_good, told) = verify(&stage);
    assert!(!is_good && told.contains("3 differences"), "{told}");
    for line in ["differs in title: (\"k1\")", "differs in title: (\"d\")", "only with clients: (\"k5\")"] {
        assert!(told.contains(line), "{line:?} in\n{told}");
    }
    // Without a hub the store does not come to hold what the file holds; and no file is made.
    let file = stage.database.file().expect("it is a file").to_owned();
    stage.play(&["hub: terminate"]);
    std::fs::rename(&file, file.with_extension("away")).expect("a file can be moved");
    let (is_good, told) = verify(&stage);
    assert!(!is_good && !file.exists() && told.contains("central file"), "{told}");
}

/// Writes without end: single rows, many at once, and rows that come and go.
fn write_until(done: &AtomicBool, session: &Session, writer: usize) {
    let mut turn = 0_u32;
    while !done.load(Ordering::Acquire) {
        turn += 1;
        let few = format!("id like 'w{writer}-{}%'", turn % 10);
        session.run(&format!("update todo set title = 'turn {turn}' where {few}"));
        session.run(&format!("delete from todo where id = 'x{writer}-{}'", turn % 7));
        session.run(&format!("insert into todo values ('x{writer}-{}', 'turn {turn}', null, 0)", turn % 7));
        if turn.is_multiple_of(20) {
            session.run(&format!("begin; update todo set done = {turn} where id like 'w{writer}%'; commit"));
        }
    }
}

struct SetAtEnd<'a>(&'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[test]
fn nothing_differs_amid_writers_that_never_rest() {
    on_both(|setting| {
        let mut stage = Stage::new(setting);
        for writer in 0..WRITERS {
            stage.postgres.run(&format!(
                "with recursive n(n) as (select 1 union all select n + 1 from n where n < 500)
                 insert into todo select 'w{writer}-' || n, 'title', null, 0 from n"
            ));
            stage.postgres.run(&format!(
                "with recursive n(n) as (select 0 union all select n + 1 from n where n < 6)
                 insert into todo select 'x{writer}-' || n, 'title', null, 0 from n"
            ));
        }
        make_snapshot(&mut stage);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            // Set also when a check fails, or the scope would wait for the writers for ever.
            let _done = SetAtEnd(&done);
            for writer in 0..WRITERS {
                let session = stage.database.session();
                let done = &done;
                scope.spawn(move || write_until(done, &session, writer));
            }
            for _round in 0..3 {
                let (is_good, told) = verify(&stage);
                assert!(is_good && told.contains("no differences") && told.contains("todo: "), "{told}");
            }
        });
        let (is_good, told) = verify(&stage);
        assert!(is_good && told.contains(&format!("todo: {} rows are the same", WRITERS * 507)), "{told}");
    });
}

/// Writes rows that nobody is told of.
fn write_past_capture(admin: &Session) {
    admin.run(
        "alter table todo disable trigger cloudsync_insert, disable trigger cloudsync_update,
           disable trigger cloudsync_delete;
         update todo set title = 'not told' where id in ('k1', 'd');
         delete from todo where id = 'k5';
         insert into todo values ('untold', 'untold', null, 0);
         alter table todo enable trigger cloudsync_insert, enable trigger cloudsync_update,
           enable trigger cloudsync_delete",
    );
}

#[test]
fn a_comparison_names_a_database_of_the_file() {
    let database = tracked("unnamed");
    let hub = Hub::start(&database, StoreKind::Directory);
    for (words, wanted) in [
        (&["verify", "--database", "nowhere"][..], "a database of the file"),
        (&["verify"], "--database <name>"),
    ] {
        let (is_good, told) = hub.command(words);
        assert!(!is_good && told.contains(wanted), "{told}");
    }
}

#[test]
fn rows_that_went_past_capture_are_found_by_comparing() {
    let database = tracked("verify");
    let name = database.name.as_str();
    let hub = Hub::start(&database, StoreKind::Directory);
    let admin = database.session();
    admin.run(
        "create table tally (id integer primary key, label text, hits bigint not null default 0);
         create table beat (id integer primary key, n bigint not null);
         select cloudsync_init('tally'), cloudsync_set_column('tally', 'hits', 'algo', 'counter'), cloudsync_init('beat');
         insert into beat values (1, 1);
         insert into tally values (1, 'one', 5), (2, 'two', 6);
         insert into todo select 'k' || n, 'title ' || n, null, 0 from generate_series(1, 3000) as n",
    );
    let verify = || compare(&hub, name, || admin.run("update beat set n = n + 1"));
    let (is_good, told) = verify();
    assert!(!is_good && told.contains("no finished snapshot"), "{told}");
    let home = places::scratch("verify");
    let device = Client::open(&home.path().join("device"));
    device.run(TODO.sqlite);
    device.run("select cloudsync_init('todo')");
    device.join(&hub.address(), API_KEY);
    device.sync();
    wait::until("the snapshot is whole", || {
        let path = format!("/v1/databases/{name}/snapshots");
        hub.ask_as_operator("GET", &path, None).body.contains("\"finished\":true").then_some(())
    });
    // What was written since travels by the log.
    admin.run(
        "update todo set title = 'changed' where id like 'k2%';
         delete from todo where id in ('k3', 'k4');
         insert into todo values ('k4', 'again', null, 0), ('new', 'new', null, 0);
         update tally set hits = hits + 1, label = 'ONE' where id = 1;
         delete from tally where id = 2",
    );
    device.run("insert into todo values ('d', 'by a device', null, 0)");
    wait::until_ok("the upload is taken", || device.try_sync());
    let (is_good, told) = verify();
    assert!(is_good && told.contains("no differences"), "{told}");
    assert!(
        told.contains("todo: 3001 rows are the same") && told.contains("tally: 1 rows are the same"),
        "{told}"
    );

    write_past_capture(&admin);
    let (is_good, told) = verify();
    assert!(!is_good && told.contains("4 differences"), "{told}");
    for line in [
        "todo: 2998 rows are the same, 4 differ",
        "differs in title: (\"k1\")",
        "differs in title: (\"d\")",
        "only with clients: (\"k5\")",
        "only in the database: (\"untold\")",
        "to mend it: write those rows once more",
    ] {
        assert!(told.contains(line), "{line:?} in\n{told}");
    }
    assert!(!told.contains("not told"), "no values are printed: {told}");
    // As the advice has it.
    admin.run(
        "update todo set title = 'told' where id in ('k1', 'd');
         delete from todo where id = 'untold';
         insert into todo values ('untold', 'told', null, 0), ('k5', 'again', null, 0);
         delete from todo where id = 'k5'",
    );
    wait::until("the device has what the database has", || {
        device.sync();
        (device.value("select count(*) from todo where title = 'told' or id = 'k5'") == "3").then_some(())
    });
}
