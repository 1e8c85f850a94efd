//! The harness itself: what it starts is real, and nothing that it starts outlives its test.

use std::path::Path;
use std::process::Command;

use tests::object_store::{ObjectStore, StoreKind};
use tests::places;
use tests::postgres::{Cluster, Durability};
use tests::process::{Launch, Process, Signal, new_log};
use tests::wait;

fn sleeper(log: &Path) -> Process {
    new_log(log);
    Process::start(Launch {
        command: vec!["sleep".into(), "1000".into()],
        environment: Vec::new(),
        log,
        stop: Signal::Kill,
        directory: None,
    })
}

fn runs(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn a_process_ends_when_it_is_dropped() {
    let home = places::scratch("harness");
    let process = sleeper(&home.path().join("log"));
    let pid = process.pid();
    assert!(process.is_running());
    drop(process);
    assert!(!runs(pid));
}

#[test]
fn a_process_ends_when_its_test_panics() {
    let home = places::scratch("harness");
    let log = home.path().join("log");
    let pid = std::thread::spawn(move || {
        let process = sleeper(&log);
        std::panic::panic_any(process.pid());
    })
    .join()
    .expect_err("the thread panics");
    let pid = *pid.downcast::<u32>().expect("it panics with a pid");
    assert!(!runs(pid));
}

#[test]
fn a_killed_process_is_seen_to_have_ended() {
    let home = places::scratch("harness");
    let process = sleeper(&home.path().join("log"));
    process.signal(Signal::Kill);
    process.wait_until_ended();
    assert!(!process.is_running());
}

#[test]
fn a_cluster_comes_back_with_its_rows_after_it_was_killed() {
    let cluster = Cluster::start(Durability::ProcessOnly);
    let database = cluster.database("harness");
    database.session().run("create table kept (id integer); insert into kept values (7)");
    cluster.stop(Signal::Kill);
    cluster.start_again();
    assert_eq!(database.psql("select id from kept"), "7\n");
}

/// Puts an object without any signature and returns the status that curl saw.
fn unsigned_put(url: &str) -> String {
    let output = Command::new("curl")
        .args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "-X", "PUT", "--data", "x", url])
        .output()
        .expect("curl can be started");
    String::from_utf8(output.stdout).expect("curl prints UTF-8")
}

fn object_url(store: &ObjectStore) -> String {
    let (path, query) = store.url.split_once('?').expect("the URL of an S3 store has settings");
    let endpoint = query.split('&').find_map(|setting| setting.strip_prefix("endpoint="));
    let bucket = path.strip_prefix("s3://").expect("it is an S3 URL");
    format!("{}/{bucket}/object", endpoint.expect("it names an endpoint"))
}

#[test]
fn moto_takes_an_object_without_a_signature() {
    assert_eq!(unsigned_put(&object_url(&ObjectStore::new(StoreKind::Moto))), "200");
}

#[test]
fn s3s_fs_refuses_an_object_without_a_signature() {
    // Without this, a hub that signs wrongly would pass its tests.
    wait::until("s3s-fs answers", || {
        let status = unsigned_put(&object_url(&ObjectStore::new(StoreKind::S3sFs)));
        (status != "000").then(|| assert_eq!(status, "403"))
    });
}
