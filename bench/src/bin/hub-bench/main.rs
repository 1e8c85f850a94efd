//! Figures of the hub from one run, with clients and Postgres on the same machine.
//!
//! Arguments, all optional: `rows=1000000 waiting=10000 commits=500 seconds=10`, and `only=latency,ingest` to measure
//! some of the works: idle, latency, ingest, fanout, initial, uploads, nodes.
//!
//! Each work has a database and a hub of its own on a local store. Memory is resident memory as the kernel tells it,
//! CPU time is that of the hub's process.

mod http;
mod uploads;
mod works;

use std::io::{self, Write};

use bench::{Arguments, load, verdict};
use tokio::runtime::Runtime;

/// One line of what was found.
pub(crate) struct Figure {
    title: String,
    found: f64,
    unit: &'static str,
    /// What is wanted, and whether more is better; none for what is only told.
    wanted: Option<(f64, bool)>,
}

impl Figure {
    pub(crate) fn at_most(title: impl Into<String>, found: f64, unit: &'static str, wanted: f64) -> Self {
        Self { title: title.into(), found, unit, wanted: Some((wanted, false)) }
    }

    pub(crate) fn at_least(title: impl Into<String>, found: f64, unit: &'static str, wanted: f64) -> Self {
        Self { title: title.into(), found, unit, wanted: Some((wanted, true)) }
    }

    pub(crate) fn told(title: impl Into<String>, found: f64, unit: &'static str) -> Self {
        Self { title: title.into(), found, unit, wanted: None }
    }

    fn line(&self) -> String {
        let reached =
            self.wanted.map(|(wanted, more)| if more { self.found >= wanted } else { self.found <= wanted });
        let wanted = self.wanted.map_or("-".to_owned(), |(wanted, _)| format!("{wanted}"));
        format!(
            "{:<58} {:>12.2} {:<6} {:>9}  {}",
            self.title,
            self.found,
            self.unit,
            wanted,
            verdict(reached)
        )
    }
}

/// How much of everything.
pub(crate) struct Sizes {
    pub(crate) rows: u32,
    pub(crate) waiting: u32,
    pub(crate) commits: u32,
    pub(crate) seconds: u32,
}

type Work = fn(&Sizes, &Runtime) -> Vec<Figure>;

const WORKS: [(&str, Work); 7] = [
    ("idle", works::idle),
    ("latency", works::latency),
    ("ingest", works::ingest),
    ("fanout", works::fanout),
    ("initial", works::initial),
    ("uploads", works::uploads),
    ("nodes", works::nodes),
];

fn main() -> io::Result<()> {
    let arguments = Arguments::read();
    let number = |name, default| arguments.number(name, default);
    let sizes = Sizes {
        rows: number("rows", 1_000_000),
        waiting: number("waiting", 10_000),
        commits: number("commits", 500),
        seconds: number("seconds", 10),
    };
    let only = arguments.only();
    for name in &only {
        assert!(WORKS.iter().any(|(known, _)| known == name), "there is no work {name}");
    }
    let runtime = Runtime::new()?;
    let mut out = io::stdout();
    writeln!(out, "{:<58} {:>12} {:<6} {:>9}  load before {}", "work", "found", "", "wanted", load())?;
    for (_, work) in WORKS.iter().filter(|(name, _)| only.is_empty() || only.contains(name)) {
        for figure in work(&sizes, &runtime) {
            writeln!(out, "{}", figure.line())?;
        }
    }
    writeln!(out, "load after {}", load())
}
