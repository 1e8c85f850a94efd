//! How soon a commit in Postgres is in a client that waits for it at the hub.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use tests::client::Client;
use tests::postgres::Database;

/// Commits that warm up before those that are measured.
const WARM_UP: usize = 50;

/// The tracked table of the benchmarks, on both engines.
pub const DDL: &str = "create table todo (
    id text primary key not null, title text not null, note text, done integer not null default 0)";

/// The ways of commits, sorted.
#[derive(Debug)]
pub struct Latencies(Vec<Duration>);

impl Latencies {
    /// The latency that this share of the commits does not exceed, in milliseconds.
    #[must_use]
    pub fn percentile(&self, percent: usize) -> f64 {
        let at = (self.0.len() * percent / 100).min(self.0.len() - 1);
        self.0[at].as_secs_f64() * 1e3
    }
}

/// Waits at the hub until the query gives the wanted value, and tells when it did.
pub fn wait_for(client: &Client, sql: &str, wanted: &str) -> Instant {
    loop {
        client.sync_waiting(10_000);
        if client.rows(sql).concat() == wanted {
            return Instant::now();
        }
    }
}

/// Commits one row after another, each when the one before has arrived, and measures the way of each.
#[must_use]
pub fn latencies(database: &Database, client: &Client, commits: usize) -> Latencies {
    let (arrived, arrivals) = mpsc::channel();
    let (sent, sends) = mpsc::channel();
    let session = database.session();
    let writer = thread::spawn(move || {
        for n in 0..WARM_UP + commits {
            // The client waits at the hub by now or is on its way there: both is the life of a waiting client.
            session.run(&format!("insert into todo values ('n{n}', 'title', null, {n})"));
            sent.send(Instant::now()).expect("the reader lives");
            let () = arrivals.recv().expect("the reader lives");
        }
    });
    let mut found = Vec::new();
    for n in 0..WARM_UP + commits {
        let seen = wait_for(client, &format!("select done from todo where id = 'n{n}'"), &n.to_string());
        let committed = sends.recv().expect("the writer lives");
        arrived.send(()).expect("the writer lives");
        if n >= WARM_UP {
            found.push(seen.saturating_duration_since(committed));
        }
    }
    writer.join().expect("the writer ends well");
    found.sort_unstable();
    Latencies(found)
}
