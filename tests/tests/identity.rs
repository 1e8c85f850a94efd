//! Who wrote what: copied files, foreign messages in the log, databases that are not the one the store knows.

use std::fs;

use tests::client::Client;
use tests::hub::API_KEY;
use tests::postgres::{APP_ROLE, Cluster, Database, Durability};
use tests::stage::{Centre, Setting, Stage, TODO, on_both};
use tests::wait;

#[test]
fn a_copied_file_becomes_a_site_of_its_own_and_both_go_on() {
    on_both(|setting| {
        let mut stage = Stage::new(setting);
        stage.play(&["b: sync"]);
        let original = stage.stranger("original");
        original.join(&stage.hub.address(), API_KEY);
        original.run("insert into todo values ('t', 'before the copy', null, 0)");
        original.sync();
        original.run("vacuum");
        let copy_path = original.path().with_file_name("copy.sqlite");
        fs::copy(original.path(), &copy_path).expect("the file can be copied");
        let copy = Client::open(&copy_path);
        copy.join(&stage.hub.address(), API_KEY);
        original.run("insert into todo values ('o', 'by the original', null, 0)");
        copy.run("insert into todo values ('c', 'by the copy', null, 0)");
        original.sync();
        wait::until_ok("the copy syncs", || copy.try_sync());
        original.run("update todo set note = 'later, by the original' where id = 'o'");
        original.sync();
        stage.settles_at(&[
            "c|by the copy|NULL|0",
            "o|by the original|later, by the original|0",
            "t|before the copy|NULL|0",
        ]);
        let site = "select hex(cloudsync_siteid())";
        assert_ne!(original.value(site), copy.value(site));
        for client in [&original, &copy] {
            wait::until("both files hold every row", || {
                client.sync_waiting(500);
                (client.rows(TODO.show) == stage.postgres.rows(TODO.show)).then_some(())
            });
        }
    });
}

#[test]
fn a_client_of_the_app_role_cannot_reach_what_is_ours() {
    let stage = Stage::new(Setting::PLAIN);
    let app = stage.database.session_as(APP_ROLE);
    for sql in [
        "select cloudsync.message_key()",
        "select cloudsync.definitions()",
        "select * from cloudsync.sites",
        "select * from cloudsync.secret",
        "select nextval('cloudsync.fence')",
        "update cloudsync.tables set version = 99",
        "set role cloudsync_owner",
    ] {
        let answer = app.try_rows(sql);
        assert!(answer.as_ref().is_err_and(|error| error.contains("42501")), "{sql}: {answer:?}");
    }
}

#[test]
fn a_table_that_is_tracked_later_reaches_clients_that_were_there_before() {
    on_both(|setting| {
        let mut stage = Stage::new(Setting { tables: &[], ..setting });
        // A client that has the table already and knows the hub, while Postgres does not track it yet.
        let early = stage.stranger("early");
        early.run(&format!("{}; select cloudsync_init('todo')", TODO.sqlite));
        early.join(&stage.hub.address(), API_KEY);
        early.sync();
        stage.postgres.run(TODO.postgres);
        stage.play(&["pg: with recursive n (n) as (values (1) union all select n + 1 from n where n < 700)
                insert into todo select 'k' || n, 'filled before', null, n from n"]);
        stage.track(TODO);
        stage.play(&["pg: insert into todo values ('new', 'after', null, 0)"]);
        wait::until_ok("the early client has the rows of the table", || {
            early.try_rows("select cloudsync_network_sync(1000, 1)")?;
            let count = early.value("select count(*) from todo");
            (count == "701").then_some(()).ok_or(count)
        });
        assert_eq!(early.rows(TODO.show), stage.postgres.rows(TODO.show));
    });
}

#[test]
fn a_hub_on_the_store_of_another_database_says_so_and_stops_ingest() {
    on_both(|setting| {
        let mut first = Stage::new(setting);
        first.play(&[
            "pg: insert into todo values ('t', 'of the first', null, 0)",
            "a: sync",
            "all: settle",
            "hub: terminate",
        ]);
        // The same name on the same store, but another database behind it.
        let (_cluster, database) = another(&first, setting.centre);
        let mut hub = first.hub.beside(&database);
        hub.launch();
        let told = wait::until("the hub tells what is wrong", || {
            hub.try_get("/readyz").filter(|answer| answer.body.contains("system identifier"))
        });
        assert_eq!(told.status, 503, "{}", told.body);
        assert!(hub.is_running(), "it goes on telling");
        drop(hub);
        // The database that the store belongs to is served as before.
        first.play(&["hub: start", "pg: insert into todo values ('u', 'later', null, 0)"]);
        first.settles_at(&["t|of the first|NULL|0", "u|later|NULL|0"]);
    });
}

/// Makes another database of the same name and kind, with its server where it has one.
fn another(stage: &Stage, centre: Centre) -> (Option<Cluster>, Database) {
    match centre {
        Centre::Postgres => {
            let cluster = Cluster::start(Durability::ProcessOnly);
            let database = cluster.database(&stage.database.name);
            database.session().run(&format!("{}; select cloudsync_init('public.todo')", TODO.postgres));
            (Some(cluster), database)
        }
        Centre::SqliteFile => {
            let file = stage.database.file().expect("the centre is a file").with_file_name("other.sqlite");
            let database = Database::in_file(&file);
            database.session().run(&format!("{}; select cloudsync_init('todo', 'cls', 1)", TODO.sqlite));
            (None, database)
        }
    }
}

#[test]
fn a_copy_that_only_reads_and_a_backup_that_comes_back_get_what_the_original_wrote() {
    on_both(|setting| {
        let mut stage = Stage::new(setting);
        let original = stage.stranger("original");
        original.join(&stage.hub.address(), API_KEY);
        original.run("insert into todo values ('t', 'before the copy', null, 0)");
        original.sync();
        original.run("vacuum");
        let backup = original.path().with_file_name("backup.sqlite");
        fs::copy(original.path(), &backup).expect("the file can be copied");
        original.run("insert into todo values ('u', 'after the copy', null, 0); update todo set done = 1");
        original.sync();
        // Long enough ago that every message of it is in the log behind others.
        stage.play(&["pg: insert into todo values ('v', 'by postgres', null, 0)", "b: sync", "all: settle"]);
        let reader = Client::open(&backup);
        reader.join(&stage.hub.address(), API_KEY);
        wait::until("the copy has every row", || {
            reader.run("select cloudsync_network_receive_changes()");
            (reader.rows(TODO.show) == stage.postgres.rows(TODO.show)).then_some(())
        });
        // It takes the place of the original, and goes on.
        drop(original);
        reader.run("update todo set note = 'restored' where id = 't'; delete from todo where id = 'u'");
        wait::until_ok("the backup syncs", || reader.try_sync());
        stage.settles_at(&["t|before the copy|restored|1", "v|by postgres|NULL|0"]);
    });
}
