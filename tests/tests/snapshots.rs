//! New clients that take their snapshot while others commit: nothing that was committed is missing.
//!
//! Each writer goes round its own slots of the table, operation after operation; what operation `k` did to its
//! slot follows from `k`. So for every moment it is known what a client must hold at least, and at most.

use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use tests::client::Client;
use tests::hub::API_KEY;
use tests::object_store::StoreKind;
use tests::sql::Session;
use tests::stage::{Centre, Setting, Stage, Table, on_both};
use tests::wait;

const WRITERS: usize = 4;
const SLOTS: u64 = 40;

const SLOT_DDL: &str = "create table slot (writer integer not null, slot integer not null, n bigint not null, primary key (writer, slot))";
const SLOT: Table = Table {
    name: "slot",
    postgres: SLOT_DDL,
    sqlite: SLOT_DDL,
    show: "select writer, slot, n from slot order by writer, slot",
};

/// How far one writer is; operations count from 1.
#[derive(Default)]
struct Progress {
    started: AtomicU64,
    committed: AtomicU64,
}

/// What an operation leaves in its slot: a number, or no row.
fn outcome(operation: u64) -> Option<u64> {
    (!operation.is_multiple_of(7)).then_some(operation)
}

fn perform(session: &Session, writer: usize, operation: u64) {
    let slot = operation % SLOTS;
    match outcome(operation) {
        Some(n) => session.run(&format!(
            "insert into slot values ({writer}, {slot}, {n})
             on conflict (writer, slot) do update set n = excluded.n"
        )),
        None => session.run(&format!("delete from slot where writer = {writer} and slot = {slot}")),
    }
}

fn write_until(done: &AtomicBool, session: &Session, writer: usize, progress: &Progress) {
    for operation in 1.. {
        if done.load(Ordering::Acquire) {
            return;
        }
        progress.started.store(operation, Ordering::Release);
        perform(session, writer, operation);
        progress.committed.store(operation, Ordering::Release);
    }
}

/// The operations up to `last` on `slot`, newest first.
fn operations_on(slot: u64, last: u64) -> impl Iterator<Item = u64> {
    (1..=last).rev().filter(move |operation| operation % SLOTS == slot)
}

/// Checks one writer's slots on a client against what was committed before the client's mark.
fn check_slots(client: &Client, writer: usize, committed: u64, started: u64) {
    for slot in 0..SLOTS {
        let sql = format!("select n from slot where writer = {writer} and slot = {slot}");
        let held: Option<u64> = client.rows(&sql).first().map(|n| n.parse().expect("n is a number"));
        let known = operations_on(slot, committed).next();
        let mut allowed: Vec<Option<u64>> = operations_on(slot, started)
            .take_while(|operation| Some(*operation) > known)
            .map(outcome)
            .collect();
        allowed.push(known.and_then(outcome));
        assert!(
            allowed.contains(&held),
            "writer {writer}, slot {slot}: the client holds {held:?}, but one of {allowed:?} was committed"
        );
    }
}

/// Takes the snapshot of a new client and checks that it holds all that was committed before a mark.
fn take_and_check(stage: &Stage, number: usize, progress: &[Progress]) {
    let client = stage.stranger(&format!("new{number}"));
    client.join(&stage.hub.address(), API_KEY);
    client.sync();
    let committed: Vec<u64> =
        progress.iter().map(|writer| writer.committed.load(Ordering::Acquire)).collect();
    let mark = stage.mark();
    wait::until(&format!("new client {number} sees mark {mark}"), || {
        client.sync_waiting(500);
        (client.rows("select n from mark").concat() == mark).then_some(())
    });
    for (writer, committed) in committed.iter().enumerate() {
        let started = progress[writer].started.load(Ordering::Acquire);
        check_slots(&client, writer, *committed, started);
    }
}

/// Counts the snapshots that the hub made, by its log.
///
/// A client may also be given one that was made a moment ago, with the log behind it.
fn snapshots_made(stage: &Stage) -> usize {
    stage.hub.whole_log().matches("snapshot made").count()
}

fn check(setting: Setting<'_>, snapshots: usize) {
    let mut stage = Stage::new(Setting { tables: &[SLOT], ..setting });
    let progress: Vec<Progress> = (0..WRITERS).map(|_| Progress::default()).collect();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        // Set also when a check fails, or the scope would wait for the writers for ever.
        let _done = SetAtEnd(&done);
        for (writer, progress) in progress.iter().enumerate() {
            let session = stage.database.session();
            let done = &done;
            scope.spawn(move || write_until(done, &session, writer, progress));
        }
        let mut number = 0;
        while snapshots_made(&stage) < snapshots {
            take_and_check(&stage, number, &progress);
            number += 1;
            assert!(number < 10 * snapshots, "{number} new clients saw {} snapshots", snapshots_made(&stage));
        }
    });
    stage.play(&["late: sync"]);
    stage.settle();
    stage.all_equal();
}

struct SetAtEnd<'a>(&'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[test]
fn two_hundred_snapshots_amid_four_writers_miss_nothing_on_a_directory() {
    check(Setting::PLAIN, 200);
}

#[test]
fn twenty_snapshots_amid_four_writers_miss_nothing_on_s3() {
    check(Setting { store: StoreKind::Moto, ..Setting::PLAIN }, 20);
}

#[test]
fn fifty_snapshots_of_a_file_amid_four_writers_miss_nothing() {
    check(Setting { centre: Centre::SqliteFile, ..Setting::PLAIN }, 50);
}

#[test]
fn a_snapshot_tells_a_new_client_of_deletions() {
    on_both(|setting| {
        let mut stage = Stage::new(setting);
        stage.play(&["pg: insert into todo values ('t', 'title', null, 0)", "a: sync", "all: settle"]);
        stage.play(&["pg: delete from todo where id = 't'", "new: sync"]);
        // An older creation of the key, should one arrive here, must not bring the row back.
        let alive = stage.client("new").rows("select alive from todo_cloudsync where pk = 't'");
        assert_eq!(alive, ["0"]);
    });
}

#[test]
fn rows_that_were_written_before_the_first_sync_stay_while_the_log_is_behind() {
    let mut stage = Stage::new(Setting { own_cluster: true, ..Setting::PLAIN });
    stage.play(&["a: insert into todo values ('a', 'from a', null, 1)", "a: sync", "all: settle"]);
    // The newest snapshot holds all that the hub knows of, so that it is given to the next one too.
    for name in ["first", "second", "third"] {
        let earlier = stage.stranger(name);
        earlier.join(&stage.hub.address(), API_KEY);
        earlier.sync();
    }
    let client = stage.stranger("client");
    client.join(&stage.hub.address(), API_KEY);
    client.run("insert into todo values ('b', 'written before', null, 2)");
    let sender = stage.postgres.value("select pid from pg_stat_replication");
    let signal = |name: &str| {
        let told = Command::new("kill").args([name, &sender]).status().expect("kill can be run");
        assert!(told.success(), "the sender takes {name}");
    };
    signal("-STOP");
    let synced = client.try_sync();
    let rows = client.rows("select id from todo order by id");
    signal("-CONT");
    synced.expect("Postgres takes uploads, and the hub has a snapshot");
    assert_eq!(rows, ["a", "b"]);
    client.run("delete from todo where id = 'b'");
    client.sync();
    assert_eq!(stage.postgres.rows("select id from todo order by id"), ["a"]);
}
