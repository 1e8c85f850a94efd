//! Figures of the whole stack from one run: how soon a commit in Postgres is in a client that waits for it, and
//! how long a bulk insert takes on that way. Every part is real and commits wait for the disk.

use std::io::Write;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use std::{io, thread};

use tests::client::Client;
use tests::hub::{API_KEY, Hub};
use tests::object_store::StoreKind;
use tests::places;
use tests::postgres::{Cluster, Database, Durability};

/// Commits whose way is measured one by one, after some that warm up.
const COMMITS: usize = 500;
const WARM_UP: usize = 50;

/// Rows of the bulk insert, and the wanted time.
const BULK_ROWS: u32 = 100_000;

const DDL: &str = "create table todo (
    id text primary key not null, title text not null, note text, done integer not null default 0)";

fn main() -> io::Result<()> {
    let cluster = Cluster::start(Durability::Real);
    let database = cluster.database("bench");
    database.session().run(&format!("{DDL}; select cloudsync_init('public.todo')"));
    let hub = Hub::start(&database, StoreKind::Directory);
    let home = places::scratch("bench");
    let client = Client::open(&home.path().join("bench.sqlite"));
    client.run(&format!("{DDL}; select cloudsync_init('todo')"));
    client.join(&hub.address(), API_KEY);
    client.sync();

    let mut out = io::stdout();
    let mut latencies = latencies(&database, &client);
    latencies.sort_unstable();
    let p50 = latencies[latencies.len() / 2];
    let p99 = latencies[latencies.len() * 99 / 100];
    writeln!(out, "commit in Postgres to row visible in a waiting client, {COMMITS} commits")?;
    writeln!(out, "  p50 {:>9.2} ms   target 20 ms    {}", millis(p50), verdict(p50, 20))?;
    writeln!(out, "  p99 {:>9.2} ms   target 100 ms   {}", millis(p99), verdict(p99, 100))?;

    let (insert, visible) = bulk(&database, &client);
    let after = visible.saturating_sub(insert);
    writeln!(
        out,
        "{BULK_ROWS} rows inserted by one statement of psql, until all are visible in a waiting client"
    )?;
    writeln!(
        out,
        "  whole  {:>6.2} s    target 5 s      {}",
        visible.as_secs_f64(),
        verdict(visible, 5_000)
    )?;
    writeln!(
        out,
        "  of which the statement {:.2} s, the way after it {:.2} s",
        insert.as_secs_f64(),
        after.as_secs_f64()
    )
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn verdict(found: Duration, wanted_ms: u64) -> &'static str {
    if found < Duration::from_millis(wanted_ms) { "reached" } else { "missed" }
}

/// Waits at the hub until the query gives the wanted value, and tells when it did.
fn wait_for(client: &Client, sql: &str, wanted: &str) -> Instant {
    loop {
        client.sync_waiting(10_000);
        if client.rows(sql).concat() == wanted {
            return Instant::now();
        }
    }
}

/// Commits one row after another, each when the one before has arrived, and measures the way of each.
fn latencies(database: &Database, client: &Client) -> Vec<Duration> {
    let (arrived, arrivals) = mpsc::channel();
    let (sent, sends) = mpsc::channel();
    let session = database.session();
    let writer = thread::spawn(move || {
        for n in 0..WARM_UP + COMMITS {
            // The client waits at the hub by now or is on its way there: both is the life of a waiting client.
            session.run(&format!("insert into todo values ('n{n}', 'title', null, {n})"));
            sent.send(Instant::now()).expect("the reader lives");
            let () = arrivals.recv().expect("the reader lives");
        }
    });
    let mut found = Vec::new();
    for n in 0..WARM_UP + COMMITS {
        let seen = wait_for(client, &format!("select done from todo where id = 'n{n}'"), &n.to_string());
        let committed = sends.recv().expect("the writer lives");
        arrived.send(()).expect("the writer lives");
        if n >= WARM_UP {
            found.push(seen.saturating_duration_since(committed));
        }
    }
    writer.join().expect("the writer ends well");
    found
}

/// Inserts many rows by psql; returns how long the statement took, and how long until a client had them all.
fn bulk(database: &Database, client: &Client) -> (Duration, Duration) {
    let statement = format!(
        "insert into todo select 'bulk' || n, 'title ' || n, null, n from generate_series(1, {BULK_ROWS}) n"
    );
    let start = Instant::now();
    let inserter = {
        let database = database.clone();
        thread::spawn(move || {
            database.psql(&statement);
            Instant::now()
        })
    };
    let sql = "select count(*) from todo where id like 'bulk%'";
    let seen = wait_for(client, sql, &BULK_ROWS.to_string());
    let committed = inserter.join().expect("psql ends well");
    (committed - start, seen - start)
}
