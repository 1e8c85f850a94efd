//! Two hubs for one database: any of them takes uploads and serves downloads, and one that is gone is not missed.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tests::client::Client;
use tests::hub::{API_KEY, Hub};
use tests::object_store::{Blocked, Frozen, StoreKind};
use tests::process::Signal;
use tests::stage::{Setting, Stage, TODO};
use tests::wait;

/// Longest time that a database may be without a leader.
const TAKE_OVER_MAX: Duration = Duration::from_secs(5);

/// Counts on a client how often each row is really written.
const COUNT_WRITES: &str = "create table writes (id text, what text);
    create trigger written after insert on todo begin insert into writes values (new.id, 'insert'); end;
    create trigger rewritten after update on todo begin insert into writes values (new.id, 'update'); end";

#[test]
fn a_second_node_serves_the_same_rows_and_leads_when_the_first_is_gone() {
    let mut stage = Stage::new(Setting::PLAIN);
    stage.play(&["pg: insert into todo values ('p', 'from postgres', null, 0)", "a: sync"]);
    let mut second = stage.hub.beside(&stage.database);
    second.start_again();
    let device = stage.stranger("device");
    device.join(&second.address(), API_KEY);
    device.run("insert into todo values ('d', 'by the second node', null, 0)");
    device.sync();
    stage.settles_at(&["d|by the second node|NULL|0", "p|from postgres|NULL|0"]);
    stage.play(&["a: update todo set note = 'by the first node' where id = 'd'", "a: sync"]);
    wait::until("the second node serves what the first one stored", || {
        device.sync_waiting(1_000);
        let note = device.rows("select note from todo where id = 'd'");
        (note == ["by the first node"]).then_some(())
    });

    stage.play(&["hub: kill", "pg: insert into todo values ('q', 'while the second leads', null, 0)"]);
    wait::until_ok("the second node leads", || {
        device.try_rows("select cloudsync_network_sync(1000, 1)")?;
        let rows = device.rows(TODO.show);
        (rows.len() == 3).then_some(()).ok_or(rows.join(", "))
    });
    assert_eq!(device.rows(TODO.show), stage.postgres.rows(TODO.show));
    // The first comes back as the follower that it now is, and its client goes on where it was.
    stage.play(&["hub: start"]);
    wait::until_ok("the first node serves what the second one stored", || {
        let client = stage.client("a");
        client.try_rows("select cloudsync_network_sync(1000, 1)")?;
        let rows = client.rows(TODO.show);
        (rows.len() == 3).then_some(()).ok_or(rows.join(", "))
    });
}

/// The fence numbers of the stored segments, one for each.
fn fences(stage: &Stage) -> Vec<String> {
    let log = stage.hub.store_directory().join("v1").join(&stage.database.name).join("0000000001/log");
    let names = fs::read_dir(log).expect("there is a log").filter_map(Result::ok);
    let name = |entry: fs::DirEntry| entry.file_name().into_string().expect("names are text");
    names.filter_map(|entry| name(entry).rsplit('-').next().map(str::to_owned)).collect()
}

/// Two hubs, of which the first leads, and a device at the first that holds a row which the store does not have, since
/// that is blocked by then.
fn from_memory<B>(store: StoreKind, block: impl Fn(&Stage) -> B) -> (Stage, Hub, Client, B) {
    let mut stage = Stage::new(Setting { store, ..Setting::PLAIN });
    stage.play(&["pg: insert into todo values ('p', 'stored', null, 0)", "a: sync", "all: settle"]);
    let mut second = stage.hub.beside(&stage.database);
    second.start_again();
    let device = stage.stranger("device");
    device.run(COUNT_WRITES);
    device.join(&stage.hub.address(), API_KEY);
    device.sync();
    let blocked = block(&stage);
    stage.play(&["pg: insert into todo values ('m', 'from memory', null, 0)"]);
    wait::until("the first node serves what only its memory has", || {
        device.sync_waiting(500);
        (device.rows(TODO.show).len() == 2).then_some(())
    });
    (stage, second, device, blocked)
}

fn blocked_directory(stage: &Stage) -> Blocked {
    Blocked::new(stage.hub.store_directory())
}

fn leads_in_time(hub: &Hub, since: Instant) {
    wait::until("the second node leads", || hub.is_leading().then_some(()));
    let took = since.elapsed();
    assert!(took <= TAKE_OVER_MAX, "the second node leads after {took:?}, wanted {TAKE_OVER_MAX:?}");
}

/// A device goes on at another node with the place that a node which is gone had told it.
fn goes_on(stage: &Stage, device: &Client, hub: &Hub) {
    device.join(&hub.address(), API_KEY);
    stage.postgres.run("insert into todo values ('q', 'after', null, 0)");
    wait::until("the device sees what came after", || {
        device.sync_waiting(500);
        (device.rows(TODO.show).len() == 3).then_some(())
    });
    assert_eq!(device.rows(TODO.show), stage.postgres.rows(TODO.show));
    let writes = device.rows("select id, what, count(*) from writes group by id, what order by id");
    assert_eq!(writes, ["m|insert|1", "p|insert|1", "q|insert|1"], "each row is written once");
}

#[test]
fn another_node_leads_within_five_seconds_of_a_killed_one_and_goes_on_from_its_memory() {
    let (mut stage, second, device, blocked) = from_memory(StoreKind::Directory, blocked_directory);
    let killed = Instant::now();
    stage.hub.stop(Signal::Kill);
    drop(blocked);
    leads_in_time(&second, killed);
    goes_on(&stage, &device, &second);
}

#[test]
fn another_node_leads_on_s3_and_what_a_killed_one_had_sent_does_no_harm() {
    let (mut stage, second, device, frozen) = from_memory(StoreKind::Moto, |_| Frozen::begin());
    stage.hub.stop(Signal::Kill);
    // What the first had on its way is stored now.
    drop(frozen);
    leads_in_time(&second, Instant::now());
    goes_on(&stage, &device, &second);
    stage.play(&["hub: start", "late: sync"]);
    stage.settle();
    stage.all_equal();
}

#[test]
fn another_node_leads_within_five_seconds_of_one_that_vanished_and_a_late_write_does_no_harm() {
    let (mut stage, second, device, blocked) = from_memory(StoreKind::Directory, blocked_directory);
    let of_first = fences(&stage);
    let vanished = Instant::now();
    stage.hub.signal(Signal::Stop);
    drop(blocked);
    leads_in_time(&second, vanished);
    goes_on(&stage, &device, &second);
    wait::until("the second node stores", || {
        fences(&stage).iter().any(|fence| *fence != of_first[0]).then_some(())
    });
    // The first wakes up with a segment to write, and learns only then that it leads no more.
    stage.hub.signal(Signal::Continue);
    wait::until("the first node writes late", || {
        let fences = fences(&stage);
        let late = fences.iter().filter(|fence| **fence == of_first[0]).count();
        (late > of_first.len()).then_some(())
    });
    wait::until("the first node follows", || (!stage.hub.is_leading()).then_some(()));
    stage.settle();
    stage.all_equal();
    // What is stored twice serves a node that has nothing in memory.
    stage.play(&["hub: kill", "hub: start", "late: sync"]);
    stage.settle();
    stage.all_equal();
    device.sync();
    assert_eq!(device.rows("select id from writes where what = 'update'"), Vec::<String>::new());
    assert!(second.is_leading(), "a node that comes back does not take the lead");
}

/// How often a hub has listed what its store holds.
fn lists(hub: &Hub) -> f64 {
    let text = hub.get("/metrics").body;
    let line = text.lines().find_map(|line| {
        line.strip_prefix("cloudsync_store_seconds_count{operation=\"list\"} ")?.parse().ok()
    });
    line.unwrap_or_else(|| panic!("lists are counted:\n{text}"))
}

#[test]
fn a_node_that_does_not_lead_is_told_of_what_is_new() {
    let mut stage = Stage::new(Setting::PLAIN);
    stage.play(&["pg: insert into todo values ('p', 'from postgres', null, 0)", "a: sync", "all: settle"]);
    let mut second = stage.hub.beside(&stage.database);
    second.start_again();
    let device = stage.stranger("device");
    device.join(&second.address(), API_KEY);
    device.sync();
    let listed = lists(&second);
    let forged = "select pg_notify('cloudsync_segments', '1-00000001 nothing that is signed')";
    for round in 1..=20 {
        stage.postgres.run(forged);
        stage.postgres.run(&format!("update todo set done = {round} where id = 'p'"));
        wait::until("the device sees what is new", || {
            device.sync_waiting(500);
            (device.value("select done from todo") == round.to_string()).then_some(())
        });
    }
    // One when it began to listen, and one now and then in case that something was not heard.
    assert!(lists(&second) - listed <= 3.0, "{} lists for 20 changes", lists(&second) - listed);
}

/// Writes and syncs until it is told to end, and goes to the other node whenever one refuses, as behind a balancer.
/// Returns how many rows it wrote and how often it had to try again.
fn write_and_sync(device: &Client, addresses: [String; 2], name: &str, done: &AtomicBool) -> (usize, usize) {
    let (mut rows, mut again) = (0, 0);
    device.join(&addresses[0], API_KEY);
    while !done.load(Ordering::Acquire) {
        device.run(&format!("insert into todo values ('{name}-{rows}', 'title', null, {rows})"));
        rows += 1;
        wait::until_ok("the device syncs", || {
            device.try_sync().map(drop).inspect_err(|error| {
                let retryable = error.contains("server answered 503") || error.contains("no answer (");
                assert!(retryable, "{name} failed beyond what is tried again: {error}");
                again += 1;
                device.join(&addresses[again % 2], API_KEY);
            })
        });
    }
    (rows, again)
}

#[test]
fn nodes_are_restarted_one_after_another_under_load_and_nothing_fails_for_good() {
    const DEVICES: usize = 4;
    const ROUNDS: usize = 3;
    let mut stage = Stage::new(Setting::PLAIN);
    stage.play(&["a: sync"]);
    let mut second = stage.hub.beside(&stage.database);
    second.start_again();
    let done = AtomicBool::new(false);
    let devices: Vec<Client> = (0..DEVICES).map(|n| stage.stranger(&format!("device{n}"))).collect();
    let addresses = [stage.hub.address(), second.address()];
    let (rows, again) = thread::scope(|scope| {
        let load: Vec<_> = devices
            .into_iter()
            .enumerate()
            .map(|(n, device)| {
                let mut addresses = addresses.clone();
                addresses.rotate_left(n % 2);
                let done = &done;
                scope.spawn(move || write_and_sync(&device, addresses, &format!("device{n}"), done))
            })
            .collect();
        for _ in 0..ROUNDS {
            for hub in [&mut stage.hub, &mut second] {
                hub.stop(Signal::Terminate);
                hub.start_again();
            }
        }
        done.store(true, Ordering::Release);
        let ended = load.into_iter().map(|thread| thread.join().expect("a device does not fail"));
        ended.fold((0, 0), |(rows, again), (more, times)| (rows + more, again + times))
    });
    assert!(again > 0, "the restarts were noticed by somebody");
    stage.play(&["b: sync"]);
    stage.settle();
    stage.all_equal();
    assert_eq!(stage.client("b").value("select count(*) from todo"), rows.to_string());
}
