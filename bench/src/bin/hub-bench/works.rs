//! The works, each on parts of its own.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bench::arrival::{self, DDL};
use tests::client::Client;
use tests::hub::{API_KEY, Hub};
use tests::object_store::StoreKind;
use tests::places;
use tests::postgres::{Cluster, Database, Durability};
use tests::process::Signal;
use tests::wait;
use tokio::runtime::Runtime;
use tokio::sync::Barrier;

use crate::http::Connection;
use crate::uploads::send;
use crate::{Figure, Sizes};

const MEBIBYTE: f64 = 1_048_576.0;

/// Rows of one transaction where many are written.
const TRANSACTION_ROWS: u32 = 10_000;

/// How often each of the nodes, and both, serve in turn.
const NODES_ROUNDS: u32 = 4;

/// Longest wait for what takes seconds.
const PATIENCE: Duration = Duration::from_secs(300);

/// A server with one tracked table, and a hub for it.
struct Parts {
    hub: Hub,
    database: Database,
    _cluster: Cluster,
}

impl Parts {
    fn new(durability: Durability) -> Self {
        let cluster = Cluster::start(durability);
        let database = cluster.database("bench");
        database.session().run(&format!(
            "{DDL}; select cloudsync_init('public.todo'); grant select, insert, update, delete on todo to app"
        ));
        let hub = Hub::start(&database, StoreKind::Directory);
        Self { hub, database, _cluster: cluster }
    }

    /// Writes rows in transactions of ten thousand, each with the same title.
    fn fill(&self, rows: u32) {
        self.fill_with("'a title of usual length'", rows);
    }

    /// Writes rows in transactions of ten thousand, with titles by this expression over `n`.
    fn fill_with(&self, title: &str, rows: u32) {
        let session = self.database.session();
        for first in (0..rows).step_by(TRANSACTION_ROWS as usize) {
            let last = (first + TRANSACTION_ROWS).min(rows) - 1;
            session.run(&format!(
                "insert into todo select lpad(n::text, 12, '0'), {title}, null, 0
                 from generate_series({first}, {last}) as n"
            ));
        }
    }
}

/// A number of the kernel about a process, in KiB.
fn kernel_kib(pid: u32, name: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("the kernel tells it");
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().expect("a number")
}

/// CPU time of all threads of a process, in seconds; the kernel counts it in hundredths.
fn cpu_s(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
    let (_, rest) = stat.rsplit_once(") ").expect("a name in brackets");
    let ticks = rest.split(' ').skip(11).take(2).map(|text| text.parse::<f64>().expect("a number"));
    ticks.sum::<f64>() / 100.0
}

/// Memory of a hub that serves one database, to which nothing happens.
pub(crate) fn idle(_sizes: &Sizes, _runtime: &Runtime) -> Vec<Figure> {
    let parts = Parts::new(Durability::ProcessOnly);
    let memory = kernel_kib(parts.hub.pid(), "VmRSS") / 1024.0;
    vec![Figure::at_most("memory of an idle hub with one database", memory, "MiB", 30.0)]
}

/// From a commit until a waiting client has the row.
pub(crate) fn latency(sizes: &Sizes, _runtime: &Runtime) -> Vec<Figure> {
    let parts = Parts::new(Durability::Real);
    let home = places::scratch("bench");
    let client = Client::open(&home.path().join("bench.sqlite"));
    client.run(&format!("{DDL}; select cloudsync_init('todo')"));
    client.join(&parts.hub.address(), API_KEY);
    client.sync();
    let found = arrival::latencies(&parts.database, &client, sizes.commits as usize);
    vec![
        Figure::at_most("commit to row visible in a waiting client, p50", found.percentile(50), "ms", 10.0),
        Figure::at_most("  the same, p99", found.percentile(99), "ms", 50.0),
    ]
}

/// From the slot into the store: a hub comes back to a slot that holds everything.
pub(crate) fn ingest(sizes: &Sizes, _runtime: &Runtime) -> Vec<Figure> {
    let mut parts = Parts::new(Durability::Real);
    parts.hub.stop(Signal::Terminate);
    parts.fill(sizes.rows);
    let end = parts.database.session().value("select (pg_current_wal_flush_lsn() - '0/0')::text");
    let end: f64 = end.parse().expect("an LSN is a number");
    let begin = Instant::now();
    parts.hub.start_again();
    let cpu = cpu_s(parts.hub.pid());
    wait::until_deadline("all is stored", PATIENCE, || {
        let stored = parts.hub.metric("cloudsync_ingest_position_bytes");
        // What follows the last row in the WAL is the server's own.
        if stored + MEBIBYTE >= end { Ok(()) } else { Err(format!("{stored} of {end}")) }
    });
    let took = begin.elapsed().as_secs_f64();
    let rows = f64::from(sizes.rows);
    let stored = parts.hub.metric("cloudsync_ingested_rows_total");
    assert!((stored - rows).abs() < 1.0, "{stored} rows of {rows} were decoded");
    vec![
        Figure::at_least("slot to durable segments, small rows", rows / took, "rows/s", 100_000.0),
        Figure::told("  CPU of the hub for a million", (cpu_s(parts.hub.pid()) - cpu) / rows * 1e6, "s"),
    ]
}

/// One change to many clients that wait.
pub(crate) fn fanout(sizes: &Sizes, runtime: &Runtime) -> Vec<Figure> {
    let parts = Parts::new(Durability::Real);
    let address = parts.hub.address();
    let waiting = sizes.waiting;
    let begun = runtime.block_on(async {
        let (cursor, _) = Connection::open(&address, 1).await.catch_up().await;
        let cursor: Arc<str> = cursor.into();
        let ready = Arc::new(Barrier::new(waiting as usize + 1));
        let tasks: Vec<_> = (0..waiting)
            .map(|site| {
                let (address, cursor, ready) = (address.clone(), Arc::clone(&cursor), Arc::clone(&ready));
                tokio::spawn(async move {
                    let mut connection = Connection::open(&address, u128::from(site) + 2).await;
                    ready.wait().await;
                    let answer = connection.changes(Some(&cursor), 60_000).await;
                    assert!(!answer.body.is_empty(), "a client that waited was told nothing");
                    Instant::now()
                })
            })
            .collect();
        ready.wait().await;
        tasks
    });
    wait::until_deadline("all clients wait", PATIENCE, || {
        let open = parts.hub.metric("cloudsync_long_polls_open");
        if open >= f64::from(waiting) { Ok(()) } else { Err(format!("{open}")) }
    });
    let each = kernel_kib(parts.hub.pid(), "VmRSS") / f64::from(waiting);
    let session = parts.database.session();
    session.run("insert into todo values ('one', 'a change for everybody', null, 0)");
    let committed = Instant::now();
    let last = runtime.block_on(async {
        let mut last = committed;
        for task in begun {
            last = last.max(task.await.expect("a client ends well"));
        }
        last
    });
    let memory = kernel_kib(parts.hub.pid(), "VmHWM") / 1024.0;
    let title = format!("one change to {waiting} waiting clients, last one served");
    vec![
        Figure::at_most(title, last.saturating_duration_since(committed).as_secs_f64() * 1e3, "ms", 1_000.0),
        Figure::at_most("  memory of the hub at its highest", memory, "MiB", 400.0),
        Figure::told("  memory of the hub for each while they wait", each, "KiB"),
    ]
}

/// A first sync into a file, with a snapshot that has to be made, and again with one that is there.
pub(crate) fn initial(sizes: &Sizes, _runtime: &Runtime) -> Vec<Figure> {
    let parts = Parts::new(Durability::Real);
    parts.fill(sizes.rows);
    let home = places::scratch("bench");
    let mut figures = Vec::new();
    for (name, title) in
        [("first", "first sync, its snapshot still to be made"), ("second", "  snapshot there already")]
    {
        let client = Client::open(&home.path().join(format!("{name}.sqlite")));
        client.run(&format!("{DDL}; select cloudsync_init('todo')"));
        client.join(&parts.hub.address(), API_KEY);
        let begin = Instant::now();
        let wanted = sizes.rows.to_string();
        while client.value("select count(*) from todo") != wanted {
            client.sync();
        }
        figures.push(Figure::at_most(title, begin.elapsed().as_secs_f64(), "s", 10.0));
    }
    figures
}

/// Uploads of one row from many clients.
pub(crate) fn uploads(sizes: &Sizes, runtime: &Runtime) -> Vec<Figure> {
    let parts = Parts::new(Durability::ProcessOnly);
    let before = cpu_s(parts.hub.pid());
    let sent =
        runtime.block_on(send(&parts.hub.address(), 50, Duration::from_secs(u64::from(sizes.seconds))));
    let hub = cpu_s(parts.hub.pid()) - before;
    let rows = parts.database.session().value("select count(*) from todo");
    assert_eq!(rows, sent.applied.to_string(), "rows in Postgres against uploads that were answered");
    let applied = f64::from(u32::try_from(sent.applied).expect("seconds of uploads"));
    vec![
        Figure::at_least(
            "uploads of 1 row, 50 clients, fsync off",
            applied / sent.took.as_secs_f64(),
            "/s",
            1_500.0,
        ),
        Figure::at_most(
            "  of which failed",
            f64::from(u32::try_from(sent.failed).unwrap_or(u32::MAX)),
            "",
            0.0,
        ),
        Figure::told("  CPU of the hub for one", hub / applied * 1e6, "us"),
    ]
}

/// Downloads from one node, from another beside it, and from both at once.
///
/// On a machine that also runs the clients and Postgres, two nodes share the cores of one, so what they send together
/// tells of the machine. What a node more brings where each has cores of its own is worked out from what a MiB costs each
/// of them while the other is up and follows: nodes share nothing but the store and Postgres, which downloads do not ask,
/// so the second one brings what the first brought, less what it costs more.
pub(crate) fn nodes(sizes: &Sizes, runtime: &Runtime) -> Vec<Figure> {
    let parts = Parts::new(Durability::Real);
    // Equal titles are compressed to nothing, and a download is then all about its connection.
    parts.fill_with("md5(n::text)", sizes.rows.min(200_000));
    let mut second = parts.hub.beside(&parts.database);
    second.start_again();
    let hubs = [&parts.hub, &second];
    let serving =
        [("the first node", &hubs[..1]), ("the second node", &hubs[1..]), ("both at once", &hubs[..])];
    let lasting = Duration::from_secs(u64::from(sizes.seconds)) / NODES_ROUNDS;
    let mut sums = [Served::default(); 3];
    // In turns, so that whatever else the machine does falls on all alike.
    for _ in 0..NODES_ROUNDS {
        for ((_, hubs), sum) in serving.iter().zip(&mut sums) {
            let addresses: Vec<String> = hubs.iter().map(|hub| hub.address()).collect();
            let cpu = || {
                [hubs.iter(), [&parts.hub, &second].iter()]
                    .map(|hubs| hubs.map(|hub| cpu_s(hub.pid())).sum::<f64>())
            };
            let before = cpu();
            let (bytes, took) = runtime.block_on(download(&addresses, lasting));
            let [of_these, of_all] = cpu();
            sum.mebibytes += bytes / MEBIBYTE;
            sum.took_s += took;
            sum.cpu_s += of_these - before[0];
            sum.cpu_of_all_s += of_all - before[1];
        }
    }
    let mut figures = Vec::new();
    for ((name, _), sum) in serving.iter().zip(&sums) {
        figures.push(Figure::told(format!("downloads from {name}"), sum.mebibytes / sum.took_s, "MiB/s"));
        figures.push(Figure::told("  CPU of the nodes for one MiB", sum.cost_ms(), "ms"));
    }
    let [first, second, both] = sums;
    let idle = (first.cpu_of_all_s - first.cpu_s + second.cpu_of_all_s - second.cpu_s)
        / (first.took_s + second.took_s);
    figures.push(Figure::told("  CPU of a node that is up beside the one that serves", idle * 1e3, "ms/s"));
    let rate = |served: &Served| served.mebibytes / served.took_s;
    figures.push(Figure::told("  2 nodes against 1, on these cores", rate(&both) / rate(&first), "x"));
    figures.push(Figure::told(
        "  the same by CPU, of both at once",
        2.0 * first.cost_ms() / both.cost_ms(),
        "x",
    ));
    figures.push(Figure::at_least(
        "  and with cores of their own, by CPU of each",
        1.0 + first.cost_ms() / second.cost_ms(),
        "x",
        1.8,
    ));
    figures
}

/// What was downloaded, and what it took.
#[derive(Clone, Copy, Default)]
struct Served {
    mebibytes: f64,
    took_s: f64,
    /// CPU of the nodes that served.
    cpu_s: f64,
    /// CPU of all nodes.
    cpu_of_all_s: f64,
}

impl Served {
    fn cost_ms(&self) -> f64 {
        self.cpu_s / self.mebibytes * 1e3
    }
}

/// Lets eight clients download everything again and again, spread over the hubs; gives bytes and seconds.
async fn download(addresses: &[String], lasting: Duration) -> (f64, f64) {
    let begin = Instant::now();
    let tasks: Vec<_> = (0..8_u32)
        .map(|client| {
            let address = addresses[client as usize % addresses.len()].clone();
            tokio::spawn(async move {
                let mut bytes = 0;
                while begin.elapsed() < lasting {
                    bytes += Connection::open(&address, u128::from(client) + 1).await.catch_up().await.1;
                }
                bytes
            })
        })
        .collect();
    let mut bytes = 0.0;
    for task in tasks {
        bytes += f64::from(
            u32::try_from(task.await.expect("a client ends well") / 1024).expect("less than 4 TiB"),
        );
    }
    (bytes * 1024.0, begin.elapsed().as_secs_f64())
}
