//! One node, several databases: what one of them does or suffers is not felt by another.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::hub::{API_KEY, Hub};
use tests::postgres::{APP_ROLE, Cluster, Database, Durability, HUB_ROLE};
use tests::process::Signal;
use tests::sql::Session;
use tests::stage::{Setting, Stage, TODO, on_both};
use tests::wait;

const ROWS: u32 = 1_000_000;

/// Rows that a promoted standby lacks.
const BROUGHT_BACK: u32 = 200_000;

/// Rounds that are measured while nothing else happens.
const ROUNDS: usize = 20;

/// Rounds that a median is taken of at least: the faster a hub is, the fewer pass beside the million rows.
const ROUNDS_MIN: usize = 3;

/// How much later a change may be seen while the others are noisy: two cores are shared with their Postgres too.
const TIMES_MAX: u32 = 20;

/// What is soon enough in any case.
const SOON: Duration = Duration::from_millis(500);

/// More requests than a database may have uploads in memory.
const REQUESTS: usize = 40;

/// A server that takes connections and says nothing, which is worse than none at all.
fn silent_server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = listener.local_addr().expect("it has an address").port();
    thread::spawn(move || {
        let mut held = Vec::new();
        held.extend(listener.incoming());
    });
    port
}

/// Whether a database of the hub is led by it.
fn leads(hub: &Hub, name: &str) -> bool {
    let Some(answer) = hub.try_get("/readyz") else { return false };
    let told: Value = serde_json::from_str(&answer.body).expect("the status is JSON");
    let all = told["databases"].as_array().expect("a list");
    all.iter().any(|database| database["name"] == name && database["feed"]["leader"] == true)
}

/// Keeps uploads that are not sent to their end, and downloads that wait, open at a database.
fn occupy(hub: &Hub, name: &str) -> Vec<TcpStream> {
    let who = format!(
        "HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {API_KEY}\r\n\
         Cloudsync-Site: 00112233445566778899aabbccddeeff\r\n"
    );
    let upload = format!(
        "POST /v1/databases/{name}/uploads {who}Cloudsync-Upload: 00112233445566778899aabbccddeeff\r\n\
         Cloudsync-Range: 1-1\r\nCloudsync-Db-Version: 1\r\nContent-Length: 1000\r\n\r\n"
    );
    let download = format!("GET /v1/databases/{name}/changes?wait_ms=60000 {who}\r\n");
    let open = |request: &String| {
        let address = hub.base().replace("http://", "");
        let mut stream = TcpStream::connect(address).expect("the hub listens");
        stream.write_all(request.as_bytes()).expect("the hub reads");
        stream
    };
    (0..REQUESTS).flat_map(|_| [open(&upload), open(&download)]).collect()
}

/// Writes a row in Postgres and in a client, and waits until each is at the other; tells how long that took.
fn round(stage: &mut Stage, number: usize) -> Duration {
    let start = Instant::now();
    stage.postgres.run(&format!("insert into todo values ('p{number}', 'from postgres', null, 0)"));
    let client = stage.client("a");
    client.run(&format!("insert into todo values ('c{number}', 'from a client', null, 0)"));
    let seen = format!("select count(*) from todo where id = 'p{number}'");
    wait::until("the change is seen", || {
        client.sync_waiting(60_000);
        (client.value(&seen) == "1").then_some(())
    });
    let took = start.elapsed();
    let sent = stage.postgres.value(&format!("select count(*) from todo where id = 'c{number}'"));
    assert_eq!(sent, "1", "what was synced is there");
    took
}

fn median(mut took: Vec<Duration>) -> Duration {
    took.sort_unstable();
    took[took.len() / 2]
}

/// A stage whose hub serves another database too, and what else is configured; a client has synced.
fn stage_beside(setting: Setting<'_>, noisy: &Database, more: &str) -> Stage {
    noisy.session().run(TODO.postgres);
    noisy.session().run("select cloudsync_init('public.todo')");
    let mut stage = Stage::new(setting);
    let others =
        format!("[[database]]\nname = \"noisy\"\nurl = \"{}\"\n{}\n{more}", noisy.url(HUB_ROLE), keys());
    stage.hub.configure(&stage.database, "", &others);
    stage.play(&["hub: terminate"]);
    stage.hub.launch();
    let name = stage.database.name.clone();
    wait::until("both that can be are led", || {
        (leads(&stage.hub, &name) && leads(&stage.hub, "noisy")).then_some(())
    });
    wait::until_ok("a client syncs", || stage.client("a").try_sync());
    stage
}

fn keys() -> String {
    format!("api_keys = [{{ key = \"{API_KEY}\", role = \"{APP_ROLE}\" }}]")
}

fn fill(noisy: &Session, rows: u32) {
    noisy.run(&format!(
        "insert into todo select 'k' || n, md5(n::text), md5((-n)::text), n from generate_series(1, {rows}) n"
    ));
}

/// The median of rounds while nothing else happens.
fn pace(stage: &mut Stage) -> Duration {
    median((0..ROUNDS).map(|number| round(stage, number)).collect())
}

/// Measures rounds while a metric of the hub goes from a hundredth of so many rows to all of them.
fn rounds_while(stage: &mut Stage, metric: &str, rows: u32) -> Vec<Duration> {
    let counted = |stage: &Stage| stage.hub.try_metric(metric).unwrap_or_default();
    wait::until_deadline("the first rows come", 5 * wait::PATIENCE, || {
        if counted(stage) > f64::from(rows / 100) { Ok(()) } else { Err(String::new()) }
    });
    let (begun, mut took) = (Instant::now(), Vec::new());
    while counted(stage) < f64::from(rows) {
        assert!(begun.elapsed() < 10 * wait::PATIENCE, "the rows do not come");
        took.push(round(stage, ROUNDS + took.len()));
    }
    took
}

fn check_pace(quiet: Duration, noisy: Vec<Duration>) {
    let rounds = noisy.len();
    let noisy = median(noisy);
    eprintln!("{quiet:?} alone, {noisy:?} beside the others, {rounds} rounds");
    assert!(rounds >= ROUNDS_MIN, "{rounds} rounds beside the others");
    assert!(noisy <= SOON.max(quiet * TIMES_MAX), "{quiet:?} alone, {noisy:?} beside the others");
}

fn check_beside_others(setting: Setting<'_>) {
    let noisy_cluster = Cluster::start(Durability::ProcessOnly);
    let noisy = noisy_cluster.database("noisy");
    let away = format!("postgres://nobody@127.0.0.1:{}/away", silent_server());
    let away = format!("[[database]]\nname = \"away\"\nurl = \"{away}\"\n{}\n", keys());
    let mut stage = stage_beside(setting, &noisy, &away);
    let quiet = pace(&mut stage);
    let occupied = occupy(&stage.hub, "away");
    let noisy_session = noisy.session();
    let writing = thread::spawn(move || fill(&noisy_session, ROWS));
    let took = rounds_while(&mut stage, "cloudsync_ingested_rows_total", ROWS);
    writing.join().expect("the million rows are written");
    drop(occupied);
    check_pace(quiet, took);
    stage.settle();
    stage.all_equal();
}

#[test]
fn a_database_keeps_its_pace_beside_one_that_is_away_and_one_with_a_million_rows() {
    on_both(check_beside_others);
}

#[test]
fn a_database_keeps_its_pace_while_rows_are_brought_back_into_another() {
    let primary = Cluster::start(Durability::ProcessOnly);
    let noisy = primary.database("noisy");
    let mut stage = stage_beside(Setting::PLAIN, &noisy, "");
    let standby = primary.standby();
    primary.wait_for(&standby);
    standby.cut_off();
    fill(&noisy.session(), BROUGHT_BACK);
    wait::until_deadline("the rows are in the log", 5 * wait::PATIENCE, || {
        let ingested = stage.hub.metric("cloudsync_ingested_rows_total");
        if ingested >= f64::from(BROUGHT_BACK) { Ok(()) } else { Err(ingested.to_string()) }
    });
    let quiet = pace(&mut stage);
    primary.stop(Signal::Kill);
    standby.promote();
    let _promoted = standby.in_place_of(&primary);
    let took = rounds_while(&mut stage, "cloudsync_replayed_rows_total", BROUGHT_BACK);
    check_pace(quiet, took);
    assert_eq!(noisy.session().value("select count(*) from todo"), BROUGHT_BACK.to_string());
    stage.settle();
    stage.all_equal();
}
