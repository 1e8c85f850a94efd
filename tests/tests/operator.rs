//! What operators type beside `hub serve`: `hub check` and `hub status`, on set-ups that are good and on some that
//! are not.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tests::client::Client;
use tests::hub::{API_KEY, Hub};
use tests::object_store::{ObjectStore, StoreKind};
use tests::places;
use tests::postgres::{Cluster, Database, Durability};
use tests::process::Signal;
use tests::stage::TODO;
use tests::wait;

fn tracked(name: &str) -> Database {
    let database = Cluster::shared().database(name);
    database.session().run(TODO.postgres);
    database.session().run("select cloudsync_init('todo')");
    database
}

/// Checks what `hub check` finds: that it ends in failure, and its lines hold these words.
fn check_found(hub: &Hub, words: &[&str]) {
    let (is_good, told) = hub.command(&["check"]);
    assert!(!is_good, "{told}");
    assert!(told.contains("WRONG") && told.contains("to mend it: "), "{told}");
    for word in words {
        assert!(told.contains(word), "{word:?} in\n{told}");
    }
    assert!(!told.contains("private-cluster") && !told.contains(API_KEY), "{told}");
}

#[test]
fn a_good_set_up_is_found_in_order_before_and_while_a_hub_runs() {
    let database = tracked("good");
    let slots = "select count(*) from pg_replication_slots where slot_name like 'cloudsync_check%'";
    let mut hub = Hub::new(&database, ObjectStore::new(StoreKind::Directory));
    let (is_good, told) = hub.command(&["check"]);
    assert!(is_good && told.contains("all is well") && told.contains("there is no slot yet"), "{told}");
    assert!(told.contains("the output plugin loads") && told.contains("may act as role \"app\""), "{told}");
    hub.start_again();
    wait::until("the hub leads", || hub.is_leading().then_some(()));
    let (is_good, told) = hub.command(&["check"]);
    assert!(is_good && told.contains("a hub reads it"), "{told}");
    assert!(told.contains("it is the database that the store knows") && told.contains("is in use"), "{told}");
    assert_eq!(database.session().value(slots), "0");
}

#[test]
fn a_good_set_up_on_a_service_and_with_a_central_file_is_found_in_order() {
    let home = places::scratch("operator");
    let hub = Hub::new(&tracked("service"), ObjectStore::new(StoreKind::Moto));
    let (is_good, told) = hub.command(&["check"]);
    assert!(is_good, "{told}");
    let file = Database::in_file(&home.path().join("centre.sqlite"));
    let mut hub = Hub::new(&file, ObjectStore::new(StoreKind::Directory));
    let (is_good, told) = hub.command(&["check"]);
    assert!(is_good && told.contains("is not there yet"), "{told}");
    hub.start_again();
    let (is_good, told) = hub.command(&["check"]);
    assert!(is_good && told.contains("a hub serves the file"), "{told}");
    hub.stop(Signal::Kill);
    let (is_good, told) = hub.command(&["check"]);
    assert!(is_good && told.contains("nobody serves it now"), "{told}");
    std::fs::write(file.file().expect("it is a file"), "no database").expect("a file can be written");
    check_found(&hub, &["central file"]);
}

#[test]
fn a_configuration_that_is_not_understood_is_told_by_its_key() {
    let database = tracked("configuration");
    let mut hub = Hub::new(&database, ObjectStore::new(StoreKind::Directory));
    hub.configure(&database, "connections_max = 0", "");
    let (is_good, told) = hub.command(&["check"]);
    assert!(!is_good && told.contains("connections_max") && told.contains("wanted"), "{told}");
}

#[test]
fn what_a_database_lacks_is_found_with_what_mends_it() {
    let cluster = Cluster::start(Durability::ProcessOnly);
    let database = cluster.database("lacking");
    let admin = database.session();
    let hub = Hub::new(&database, ObjectStore::new(StoreKind::Directory));
    let good = || {
        let (is_good, told) = hub.command(&["check"]);
        assert!(is_good, "{told}");
    };
    good();
    for (break_it, words, mend_it) in [
        (
            "revoke app from cloudsync",
            &["may not act as role \"app\"", "grant \"app\" to \"cloudsync\""][..],
            "grant app to cloudsync",
        ),
        (
            "alter role app rename to somebody",
            &["role \"app\" of a key", "create role \"app\""],
            "alter role somebody rename to app",
        ),
        (
            "revoke execute on function cloudsync.apply_upload from cloudsync; revoke cloudsync_owner from cloudsync",
            &[
                "lacks rights: apply_upload, membership in cloudsync_owner",
                "cloudsync_grant_hub('cloudsync')",
            ],
            "select cloudsync_grant_hub('cloudsync')",
        ),
        (
            "alter role cloudsync noreplication",
            &["no replication connection", "alter role \"cloudsync\" replication"],
            "alter role cloudsync replication",
        ),
        (
            "alter role cloudsync password 'another'",
            &["28P01", "correct user and password"],
            "alter role cloudsync password 'private-cluster'",
        ),
        (
            "select pg_create_logical_replication_slot('cloudsync_' || oid, 'test_decoding') from pg_database \
             where datname = current_database()",
            &["output plugin test_decoding, wanted pg_sync", "pg_drop_replication_slot('cloudsync_"],
            "select pg_drop_replication_slot('cloudsync_' || oid) from pg_database \
             where datname = current_database()",
        ),
        (
            "drop extension pg_sync cascade",
            &["extension pg_sync is not there", "create extension pg_sync"],
            "create extension pg_sync; select cloudsync_grant_hub('cloudsync')",
        ),
    ] {
        admin.run(break_it);
        check_found(&hub, words);
        admin.run(mend_it);
        good();
    }
}

#[test]
fn the_check_asks_for_exactly_what_the_grant_gives() {
    let cluster = Cluster::start(Durability::ProcessOnly);
    let database = cluster.database("granted");
    let admin = database.session();
    admin.run("create role probe login password 'private-cluster'");
    let probe = database.session_as("probe");
    // Whoever has no right at all is told of each that is asked for.
    let check = include_str!("../../sql/hub/check.sql").replace("$1", "array[]::text[]");
    let found = || -> Value { serde_json::from_str(&probe.value(&check)).expect("it is JSON") };
    let before = found();
    assert_eq!((&before["missing"], &before["owns"]), (&json!([]), &json!(false)));
    let asked: BTreeSet<String> =
        serde_json::from_value(before["denied"].clone()).expect("the rights have names");
    admin.run("select cloudsync_grant_hub('probe')");
    let given = admin.rows(
        "select p.proname from pg_proc as p, aclexplode(p.proacl) as a where a.grantee = 'probe'::regrole
         union select c.relname from pg_class as c, aclexplode(c.relacl) as a where a.grantee = 'probe'::regrole",
    );
    assert_eq!(asked, BTreeSet::from_iter(given), "asked (left) and given");
    let after = found();
    assert_eq!(
        (&after["denied"], &after["enters"], &after["owns"]),
        (&json!([]), &json!(true), &json!(true))
    );
}

#[test]
fn what_a_server_lacks_is_found_with_what_mends_it() {
    let cluster = Cluster::start(Durability::ProcessOnly);
    let database = cluster.database("server");
    let hub = Hub::new(&database, ObjectStore::new(StoreKind::Directory));
    let admin = database.session();
    let knows_plugins =
        admin.value("select count(*) from pg_settings where name = 'output_plugin_libraries'") == "1";
    admin.run("alter system set wal_level = replica");
    if knows_plugins {
        admin.run("alter system set output_plugin_libraries = 'pgoutput', 'test_decoding'");
    }
    cluster.stop(Signal::Interrupt);
    check_found(&hub, &["Postgres listens at the address"]);
    cluster.start_again();
    check_found(&hub, &["wal_level is replica, wanted logical", "alter system set wal_level = logical"]);
    database.session().run("alter system reset wal_level");
    cluster.stop(Signal::Interrupt);
    cluster.start_again();
    if knows_plugins {
        check_found(&hub, &["no slot can be made", "list it in output_plugin_libraries"]);
        // Only whoever may read all settings is told of this one.
        database.session().run("alter role cloudsync inherit; grant pg_read_all_settings to cloudsync");
        let wanted = "set output_plugin_libraries = 'pgoutput, test_decoding, pg_sync'";
        check_found(&hub, &["output_plugin_libraries is 'pgoutput, test_decoding'", wanted]);
    }
    database.session().run("alter system reset all");
    cluster.stop(Signal::Interrupt);
    cluster.start_again();
    let (is_good, told) = hub.command(&["check"]);
    assert!(is_good, "{told}");
    let standby = cluster.standby();
    hub.point_at(&standby.copy_of(&database));
    check_found(&hub, &["the server is a standby", "the server that takes writes"]);
}

#[test]
fn a_store_that_is_away_or_knows_another_server_is_found() {
    let first = tracked("first");
    let mut hub = Hub::start(&first, StoreKind::Directory);
    wait::until("the hub leads", || hub.is_leading().then_some(()));
    hub.stop(Signal::Terminate);
    let other = Cluster::start(Durability::ProcessOnly);
    hub.point_at(&other.database("other"));
    check_found(&hub, &["ingest stops until an operator decides", "correct `url`"]);
    hub.point_at(&first);
    let folder = hub.store_directory().to_owned();
    std::fs::remove_dir_all(&folder).expect("the store can be removed");
    std::fs::write(&folder, "no folder").expect("a file can be written");
    check_found(&hub, &["store: ", "let the hub's user write"]);
    std::fs::remove_file(&folder).expect("the file can be removed");
    std::fs::create_dir(&folder).expect("a folder can be made");
}

#[test]
fn the_status_tells_how_each_database_is() {
    let database = tracked("status");
    let mut hub = Hub::new(&database, ObjectStore::new(StoreKind::Directory));
    let (is_good, told) = hub.command(&["status"]);
    assert!(is_good && told.contains("no hub has served it yet"), "{told}");
    hub.start_again();
    let home = places::scratch("status");
    let device = Client::open(&home.path().join("device"));
    device.run(TODO.sqlite);
    device.run("select cloudsync_init('todo')");
    device.join(&hub.address(), API_KEY);
    device.run("insert into todo values ('a', 'by a device', null, 0)");
    wait::until_ok("the upload is taken", || device.try_sync());
    wait::until("a segment is stored", || {
        let (is_good, told) = hub.command(&["status"]);
        assert!(is_good, "{told}");
        let words =
            ["1 tracked tables, 1 devices, 0 refused", "is read, ", "1 segments of ", "1 snapshots of "];
        words.iter().all(|word| told.contains(word)).then_some(())
    });
    hub.stop(Signal::Kill);
    wait::until("the slot is free", || {
        hub.command(&["status"]).1.contains("is read by nobody").then_some(())
    });
    let name = &database.name;
    database.session().run(&format!("alter database {name} connection limit 0"));
    let (is_good, told) = hub.command(&["status"]);
    assert!(!is_good && told.contains("PROBLEM") && told.contains("53300"), "{told}");
}
