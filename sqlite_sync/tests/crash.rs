//! A process that ends at any instant leaves a file that opens, is whole, still has everything that was
//! committed, and syncs on.
//!
//! The process is this test binary, started again to work on one file in a loop. Half of the ends come from
//! outside after a random while, half from inside in the middle of a write to the disk.

#![allow(clippy::print_stdout, reason = "the started process says what it did, a failure says its seed")]

#[path = "support/faults.rs"]
mod faults;
#[path = "support/hub.rs"]
mod hub;
mod support;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use cloudsync::network::default_transport;
use hub::Hub;
use rusqlite::Connection;
use support::random::Random;
use support::{rows, run};

/// Ends from outside.
const KILLS: u64 = 220;

/// Longest work before such an end.
const KILL_WITHIN_MICROS: u64 = 50_000;

/// Ends from inside: one every this many disk operations.
const DEATH_STEP: i64 = 5;

const SCHEMA: &str = "
create table if not exists notes (id text primary key, text text, n integer);
create table if not exists lines (note text, at integer, text text unique, primary key (note, at));";

/// What the started process is told.
const FILE: &str = "CRASH_FILE";
const ADDRESS: &str = "CRASH_ADDRESS";
const DEATH_AFTER: &str = "CRASH_AFTER";
const ROUND: &str = "CRASH_ROUND";
const ROUNDS: &str = "CRASH_ROUNDS";

/// A random source whose seed is printed; `SEED=…` runs it again.
fn random() -> Random {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(now.expect("it is after 1970").subsec_nanos()) | 1);
    println!("SEED={seed}");
    Random(seed)
}

fn open(path: &Path, address: &str) -> Connection {
    let connection = Connection::open(path).expect("the file opens");
    connection.busy_timeout(Duration::from_secs(20)).expect("a timeout");
    cloudsync::register_with(&connection, default_transport()).expect("functions register");
    // The end of a process loses nothing that was given to the system, so waiting for the disk proves nothing.
    run(&connection, "pragma synchronous = off");
    join(&connection, address);
    connection
}

/// Makes the tables and tracks them, as an app does on each start.
fn join(connection: &Connection, address: &str) {
    run(connection, SCHEMA);
    rows(connection, "select cloudsync_init('notes'), cloudsync_init('lines')", []);
    run(connection, &format!("select cloudsync_network_init('{address}')"));
}

fn sync(connection: &Connection) -> Result<(), String> {
    let sql = "select cloudsync_network_sync()";
    connection.query_row(sql, [], |_row| Ok(())).map_err(|error| error.to_string())
}

/// The started process: writes, syncs and applies until somebody ends it; says what it committed.
#[test]
fn child() {
    let Ok(file) = std::env::var(FILE) else { return };
    let told = |name: &str| std::env::var(name).expect("it is told");
    let number = |name: &str| told(name).parse::<i64>().expect("a number");
    faults::install();
    let path = Path::new(&file);
    let round = number(ROUND);
    if let Some(good) = std::env::var(DEATH_AFTER).ok().and_then(|good| good.parse().ok()) {
        faults::after(good, faults::Fault::Death, false);
    }
    let connection = open(path, &told(ADDRESS));
    let mode = if round % 2 == 0 { "wal" } else { "delete" };
    connection.query_row(&format!("pragma journal_mode = {mode}"), [], |_row| Ok(())).expect("a mode");
    println!("ready");
    for i in 0..number(ROUNDS) {
        write(&connection, round, i);
        println!("committed {}", round * 100_000 + i);
        sync(&connection).expect("sync works");
        if let Ok(payload) = std::fs::read(path.with_extension("payload")) {
            let sql = "select cloudsync_payload_apply(?1)";
            connection.query_row(sql, [payload], |_row| Ok(())).expect("apply works");
        }
    }
    println!("done");
}

/// One transaction: a new row, one counter that tells the newest commit, rows that others write too.
fn write(connection: &Connection, round: i64, i: i64) {
    let number = round * 100_000 + i;
    run(
        connection,
        &format!(
            "begin immediate;
             insert into notes values ('own-{number}', 'text {i}', {i});
             insert into notes values ('newest', '', {number})
                 on conflict (id) do update set n = excluded.n;
             update notes set text = 'child {number}' where id like 'shared-%' and n % 3 = {i} % 3;
             delete from lines where note = 'own' and at = {i} % 7;
             insert or replace into lines values ('own', {i} % 5, 'own line ' || ({i} % 4));
             commit;"
        ),
    );
}

/// A running child with what it says.
struct Running {
    child: Child,
    lines: Receiver<String>,
}

fn start(file: &Path, address: &str, round: i64, rounds: i64, death_after: Option<i64>) -> Running {
    let mut command = Command::new(std::env::current_exe().expect("this binary has a path"));
    command
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(FILE, file)
        .env(ADDRESS, address)
        .env(ROUND, round.to_string())
        .env(ROUNDS, rounds.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    if let Some(good) = death_after {
        command.env(DEATH_AFTER, good.to_string());
    }
    let mut child = command.spawn().expect("this binary starts");
    let output = BufReader::new(child.stdout.take().expect("its output is piped"));
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in output.lines().map_while(Result::ok) {
            // The parent may have seen enough.
            let _gone = sender.send(line);
        }
    });
    Running { child, lines }
}

impl Running {
    /// Waits until the child works, then ends it after a while.
    fn kill_after(mut self, micros: u64) -> Option<i64> {
        let mut newest = None;
        let mut said = Vec::new();
        for line in &self.lines {
            said.push(line.clone());
            if line.ends_with("ready") {
                break;
            }
        }
        assert!(said.iter().any(|line| line.ends_with("ready")), "the child works: {said:?}");
        let deadline = std::time::Instant::now() + Duration::from_micros(micros);
        loop {
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => newest = committed(&line).or(newest),
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => panic!("the child ended by itself"),
            }
        }
        self.child.kill().expect("the child can be ended");
        self.child.wait().expect("the child ends");
        self.rest(newest)
    }

    /// Waits until the child has ended by itself; says what it committed last and whether it got through.
    fn wait(mut self) -> (Option<i64>, bool) {
        let status = self.child.wait().expect("the child ends");
        (self.rest(None), status.success())
    }

    fn rest(self, newest: Option<i64>) -> Option<i64> {
        self.lines.iter().filter_map(|line| committed(&line)).last().or(newest)
    }
}

fn committed(line: &str) -> Option<i64> {
    line.strip_prefix("committed ")?.parse().ok()
}

/// Another device: writes the shared rows and some of its own, and syncs.
struct Peer {
    connection: Connection,
    written: i64,
}

impl Peer {
    fn new(hub: &Hub) -> Self {
        let connection = Connection::open_in_memory().expect("memory is there");
        cloudsync::register_with(&connection, Box::new(hub.clone())).expect("functions register");
        join(&connection, "http://hub/demo");
        Self { connection, written: 0 }
    }

    fn work(&mut self) {
        self.written += 1;
        let n = self.written;
        run(
            &self.connection,
            &format!(
                "with recursive i(i) as (select 1 union all select i + 1 from i where i < 40)
                 insert into notes select 'peer-' || ({n} % 10) || '-' || i, 'peer {n}', i from i
                     where true on conflict (id) do update set text = excluded.text;
                 insert into notes values ('shared-' || ({n} % 20), 'peer', {n})
                     on conflict (id) do update set text = excluded.text || {n};
                 delete from notes where id = 'shared-' || (({n} + 10) % 20);
                 insert or replace into lines values ('peer', {n} % 5, 'peer line ' || ({n} % 4));"
            ),
        );
        sync(&self.connection).expect("the peer syncs");
    }
}

const EVERYTHING: &str =
    "select * from (select id, text, n from notes union all select note, text, at from lines)
    order by 1, 3, 2";

/// Checks a file after an end: whole, nothing committed lost, syncs on.
fn check(file: &Path, address: &str, newest: Option<i64>) {
    let connection = open(file, address);
    assert_eq!(rows(&connection, "pragma integrity_check", []), "ok");
    if let Some(newest) = newest {
        let found: i64 = connection
            .query_row("select n from notes where id = 'newest'", [], |row| row.get(0))
            .expect("the newest commit is there");
        assert!(found >= newest, "{newest} was committed, {found} is there");
        let own = format!("select count(*) from notes where id = 'own-{newest}'");
        assert_eq!(rows(&connection, &own, []), "1");
    }
    sync(&connection).expect("sync goes on");
    let unsent = "select cloudsync_network_has_unsent_changes()";
    assert_eq!(rows(&connection, unsent, []), "0");
}

/// Checks that the file, a peer and a new device hold the same rows.
fn check_converged(file: &Path, address: &str, hub: &Hub, peer: &Peer) {
    let connection = open(file, address);
    // What a row that was refused at first gives way to travels in a second round.
    for _ in 0..2 {
        sync(&connection).expect("sync goes on");
        sync(&peer.connection).expect("the peer syncs");
    }
    let fresh = Peer::new(hub);
    sync(&fresh.connection).expect("a new device syncs");
    let mine = rows(&connection, EVERYTHING, []);
    assert!(mine.contains("own-"), "{mine}");
    assert_eq!(mine, rows(&peer.connection, EVERYTHING, []), "file and peer");
    assert_eq!(mine, rows(&fresh.connection, EVERYTHING, []), "file and new device");
}

#[test]
fn a_process_killed_at_any_time_loses_nothing_and_syncs_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("app.db");
    let hub = Hub::default();
    let address = hub.serve();
    let mut peer = Peer::new(&hub);
    let mut random = random();
    for round in 0..i64::try_from(KILLS).expect("a small number") {
        peer.work();
        let payload = support::encode(&peer.connection, 0).expect("the peer has rows");
        std::fs::write(file.with_extension("payload"), payload).expect("a file can be written");
        let child = start(&file, &address, round, 100_000, None);
        let newest = child.kill_after(random.below(KILL_WITHIN_MICROS));
        check(&file, &address, newest);
        if round % 20 == 19 {
            check_converged(&file, &address, &hub, &peer);
        }
    }
}

#[test]
fn a_process_that_dies_within_a_write_loses_nothing_and_syncs_on() {
    for mode in 0..2 {
        let mut good = 0;
        loop {
            let dir = tempfile::tempdir().expect("a directory");
            let file = dir.path().join("app.db");
            let hub = Hub::default();
            let address = hub.serve();
            let mut peer = Peer::new(&hub);
            peer.work();
            let payload = support::encode(&peer.connection, 0).expect("the peer has rows");
            std::fs::write(file.with_extension("payload"), payload).expect("a file can be written");
            let (newest, is_through) = start(&file, &address, mode, 2, Some(good)).wait();
            check(&file, &address, newest);
            let connection = open(&file, &address);
            run(&connection, "insert into notes values ('own-last', '', 0)");
            drop(connection);
            check_converged(&file, &address, &hub, &peer);
            if is_through {
                assert!(good > 30, "the work writes to the disk");
                break;
            }
            good += DEATH_STEP;
        }
    }
}
