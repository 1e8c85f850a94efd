//! Figures of the Postgres side from one run: a captured table beside the same table without capture, our output
//! plugin beside `pgoutput`, apply beside COPY. All on one private server whose commits wait for the disk.
//!
//! Arguments, all optional: `rows=100000 decoded=1000000 filled=10000000 runs=5`, and `only=insert,update` to
//! measure some of the works: insert, update, delete, single, wal, fsync, apply, decode, init.
//!
//! CPU time is that of the server process that does the work, as the kernel counts it; a ratio compares medians of
//! runs that take turns. Each run of bulk statements writes to tables made for it, so that no run finds what another
//! has left, and every page was touched since the WAL checkpoint before single statements are measured.

mod backend;
mod decode;
mod report;
mod work;

use std::collections::BTreeMap;
use std::io::{self, Write};

use bench::{Arguments, load, median};
use tests::postgres::{Cluster, Durability};

use crate::report::{Medians, WORKS};
use crate::work::Bench;

/// What server settings keep out of the figures: work that happens at its own time, and scans that begin in the
/// middle of the source, at rows that the measured table does not have.
const QUIET: [&str; 6] = [
    "alter system set autovacuum = off",
    "alter system set checkpoint_timeout = '1h'",
    "alter system set max_wal_size = '6GB'",
    "alter system set jit = off",
    "alter system set synchronize_seqscans = off",
    "select pg_reload_conf()",
];

fn main() -> io::Result<()> {
    let arguments = Arguments::read();
    let number = |name, default| arguments.number(name, default);
    let (rows, decoded, filled) =
        (number("rows", 100_000), number("decoded", 1_000_000), number("filled", 10_000_000));
    let runs = number("runs", 5);
    let only = arguments.only();
    for work in &only {
        assert!(WORKS.contains(work), "there is no work {work}, there are {WORKS:?}");
    }
    let cluster = Cluster::start(Durability::Real);
    let database = cluster.database("bench");
    let session = database.session();
    QUIET.iter().for_each(|setting| session.run(setting));
    let mut out = io::stdout();
    let version = session.value("select current_setting('server_version')");
    writeln!(
        out,
        "Postgres {version}, {rows} rows, {decoded} decoded, {filled} filled, medians of {runs} runs; load before {}",
        load()
    )?;
    let bench = Bench { database, rows, decoded, filled };
    bench.prepare();
    let mut found: BTreeMap<&'static str, Vec<f64>> = BTreeMap::new();
    for work in WORKS.into_iter().filter(|work| only.is_empty() || only.contains(work)) {
        // The large tables are filled once: their works take long, and their figures vary little.
        let runs = if matches!(work, "init") { 1 } else { runs };
        for run in 0..runs {
            for (figure, value) in bench.run(work, run) {
                found.entry(figure).or_default().push(value);
            }
        }
    }
    let medians: Medians = found.into_iter().map(|(figure, values)| (figure, median(values))).collect();
    report::print(&medians)?;
    writeln!(out, "load after {}", load())
}
