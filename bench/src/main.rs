//! Figures of the whole stack from one run: how soon a commit in Postgres is in a client that waits for it, and
//! how long a bulk insert takes on that way. Every part is real and commits wait for the disk.

use std::io::Write;
use std::time::{Duration, Instant};
use std::{io, thread};

use bench::arrival::{DDL, latencies, wait_for};
use bench::verdict;
use tests::client::Client;
use tests::hub::{API_KEY, Hub};
use tests::object_store::StoreKind;
use tests::places;
use tests::postgres::{Cluster, Database, Durability};

/// Commits whose way is measured one by one.
const COMMITS: usize = 500;

/// Rows of the bulk insert, and the wanted time.
const BULK_ROWS: u32 = 100_000;

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
    let latencies = latencies(&database, &client, COMMITS);
    writeln!(out, "commit in Postgres to row visible in a waiting client, {COMMITS} commits")?;
    for (percent, wanted) in [(50, 20.0), (99, 100.0)] {
        let found = latencies.percentile(percent);
        let verdict = verdict(Some(found < wanted));
        writeln!(out, "  p{percent} {found:>9.2} ms   target {wanted} ms   {verdict}")?;
    }

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
        verdict(Some(visible < Duration::from_secs(5)))
    )?;
    writeln!(
        out,
        "  of which the statement {:.2} s, the way after it {:.2} s",
        insert.as_secs_f64(),
        after.as_secs_f64()
    )
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
