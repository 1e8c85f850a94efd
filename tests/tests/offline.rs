//! Devices that were away, files that were written without the extension, transactions that came to nothing.

use tests::client::{Client, sqlite3_shell};
use tests::hub::API_KEY;
use tests::places;
use tests::stage::{Centre, Stage, on_both};

#[test]
fn a_client_that_was_offline_through_a_thousand_foreign_changes_catches_up() {
    on_both(|setting| {
        let mut stage = Stage::new(setting);
        stage.play(&[
            "pg: with recursive n (n) as (values (1) union all select n + 1 from n where n < 100)
                insert into todo select 'k' || n, 'title', null, 0 from n",
            "a: sync",
            "b: sync",
            "all: settle",
            "b: update todo set note = 'offline' where id = 'k7'",
            "b: insert into todo values ('b', 'made offline', null, 1)",
            "b: delete from todo where id = 'k8'",
        ]);
        for n in 0..500 {
            let key = n % 100 + 1;
            stage.postgres.run(&format!("update todo set done = {n} where id = 'k{key}'"));
            stage.play(&[&format!("a: update todo set title = 'edit {n}' where id = 'k{key}'")]);
            if n % 50 == 0 {
                stage.play(&["a: sync"]);
            }
        }
        stage.settle();
        stage.all_equal();
        let b = stage.client("b");
        assert_eq!(b.value("select title, note, done from todo where id = 'k7'"), "edit 406|offline|406");
        assert_eq!(b.value("select count(*) from todo"), "100");
    });
}

#[test]
fn a_file_written_by_the_plain_sqlite3_shell_syncs() {
    on_both(|setting| {
        let mut stage = Stage::new(setting);
        stage.play(&["b: sync"]);
        let path = {
            let device = stage.stranger("device");
            device.join(&stage.hub.address(), API_KEY);
            device.run("insert into todo values ('s', 'before', null, 0), ('gone', 'before', null, 0)");
            device.sync();
            device.path().to_path_buf()
        };
        sqlite3_shell(
            &path,
            "update todo set title = 'by the shell' where id = 's'; delete from todo where id = 'gone';
         insert into todo values ('n', 'new by the shell', 'note', 3);
         begin; insert into todo values ('ghost', 'never', null, 0); rollback;",
        );
        let device = Client::open(&path);
        device.join(&stage.hub.address(), API_KEY);
        device.sync();
        stage.settles_at(&["n|new by the shell|note|3", "s|by the shell|NULL|0"]);
    });
}

#[test]
fn the_sqlite3_shell_syncs_by_itself_after_load() {
    on_both(|setting| {
        let mut stage = Stage::new(setting);
        stage.play(&["b: insert into todo values ('t', 'from b', null, 0)", "b: sync"]);
        let path = stage.stranger("device").path().to_path_buf();
        let load = places::workspace().join("dist/sqlite/cloudsync");
        let script = format!(
            ".load {}\nselect cloudsync_network_init('{}');\nselect cloudsync_network_set_apikey('{API_KEY}');\n\
         insert into todo values ('s', 'from the shell', null, 0);\nselect cloudsync_network_sync();\n",
            load.display(),
            stage.hub.address()
        );
        let script_file = path.with_extension("sql");
        std::fs::write(&script_file, script).expect("a script can be written");
        sqlite3_shell(&path, &format!(".read {}", script_file.display()));
        assert_eq!(sqlite3_shell(&path, "select title from todo order by id"), "from the shell\nfrom b\n");
        stage.settles_at(&["s|from the shell|NULL|0", "t|from b|NULL|0"]);
    });
}

/// Counts what a SQLite file has noted about the key `ghost`, beside the table itself.
const TRACES_IN_A_FILE: &str = "select (select count(*) from todo_cloudsync where pk = 'ghost')
    + (select count(*) from cloudsync_log where pk = 'ghost') + (select count(*) from todo where id = 'ghost')";

/// The same of the centre and of a client.
fn traces(stage: &mut Stage, centre: Centre) -> (String, String) {
    let in_centre = match centre {
        Centre::SqliteFile => stage.postgres.value(TRACES_IN_A_FILE),
        Centre::Postgres => {
            let id = "select table_id from cloudsync.tracked_tables where name = 'todo'";
            let table = stage.postgres.value(id);
            stage.postgres.value(&format!(
                "select (select count(*) from cloudsync.meta_{table} m where m::text like '%ghost%')
                      + (select count(*) from todo where id = 'ghost')"
            ))
        }
    };
    (in_centre, stage.client("a").value(TRACES_IN_A_FILE))
}

#[test]
fn a_rolled_back_transaction_leaves_no_trace_on_any_side() {
    on_both(|setting| {
        let mut stage = Stage::new(setting);
        stage.play(&[
            "a: insert into todo values ('t', 'kept', null, 0)",
            "a: sync",
            "b: sync",
            "all: settle",
        ]);
        let unsent = stage.client("a").value("select cloudsync_db_version()");
        stage.play(&[
            "a: begin; insert into todo values ('ghost', 'x', null, 0); update todo set title = 'x'; rollback",
            "pg: begin; insert into todo values ('ghost', 'y', null, 0); update todo set title = 'y'; rollback",
        ]);
        assert_eq!(stage.client("a").value("select cloudsync_db_version()"), unsent);
        stage.play(&[
            "a: begin; update todo set note = 'real'; savepoint s; insert into todo values ('ghost', 'x', null, 0);
                delete from todo where id = 't'; rollback to s; commit",
            "pg: begin; update todo set done = 1; savepoint s; insert into todo values ('ghost', 'y', null, 0);
                delete from todo where id = 't'; rollback to s; commit",
        ]);
        stage.settles_at(&["t|kept|real|1"]);
        assert_eq!(traces(&mut stage, setting.centre), ("0".to_owned(), "0".to_owned()));
    });
}

#[test]
fn rows_that_a_client_had_before_init_travel_as_its_baseline() {
    on_both(|setting| {
        let mut stage = Stage::new(setting);
        stage.play(&["pg: insert into todo values ('k1', 'of postgres', null, 0)", "b: sync"]);
        let home = places::scratch("filled");
        let device = Client::open(&home.path().join("filled.sqlite"));
        device.run(tests::stage::TODO.sqlite);
        device.run(
            "with recursive n (n) as (values (1) union all select n + 1 from n where n < 300)
         insert into todo select 'k' || n, 'seed', null, n from n",
        );
        device.run("select cloudsync_init('todo')");
        device.join(&stage.hub.address(), API_KEY);
        device.sync();
        stage.settle();
        stage.all_equal();
        let b = stage.client("b");
        assert_eq!(b.value("select count(*) from todo"), "300");
        assert_eq!(
            b.value("select title from todo where id = 'k1'"),
            "of postgres",
            "a seed beats no real write"
        );
    });
}
