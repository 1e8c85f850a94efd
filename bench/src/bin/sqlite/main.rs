//! Figures of the SQLite side from one run: our library and the peers' beside plain SQLite, as ratios of CPU
//! time (user and system), medians of interleaved runs, each in a process of its own, all on the SQLite that
//! this program brings.
//!
//! Arguments, all optional: `rows=100000 large=1000000 runs=5`, and `only=ours` to leave out subjects.
//!
//! An export is compared with SQLite's own way to make one value of a table, `json_group_array`; applying with
//! the statements that an app would write to get the same rows in: INSERT where the file is empty, an upsert
//! where it is not. The other side of the merge edits its rows in no order of their keys; plain SQLite writes them
//! in that order, as they would come, and a second line compares the same merge with an upsert in key order,
//! which an app would have to sort for. The edits of this side are folded inside the measured merge.
//!
//! Plain SQLite is driven by prepared statements that are reused, from Rust: close to its floor. From Python the
//! same INSERTs take 1.7 times, so ratios of an app in such a language are that much lower, ours and the peers'.
//!
//! Keys of updates, deletions and reads come in no order, journal and cache are those of most
//! apps: WAL, `synchronous = normal`, the default cache.

mod report;
mod rows;
mod server;
mod subject;
mod work;

use std::collections::BTreeMap;
use std::env;
use std::io::{self, Write};
use std::path::Path;
use std::process::Command;

use bench::{Arguments, load, median};

use crate::report::Medians;
use crate::subject::Subject;
use crate::work::Work;

fn main() -> io::Result<()> {
    let arguments = Arguments::read();
    let number = |name, default| arguments.number(name, default);
    let (rows, large, runs) = (number("rows", 100_000), number("large", 1_000_000), number("runs", 5));
    if let Some(subject) = arguments.get("subject").and_then(|name| Subject::named(name)) {
        let text = |name: &str| arguments.get(name).cloned().expect("the starting process says it");
        Work { subject, dir: text("dir").into(), rows, large, server: text("server") }.run();
        return Ok(());
    }
    let wanted = |subject: &Subject| match arguments.get("only") {
        Some(only) => *subject == Subject::Plain || only == subject.name(),
        None => !subject.syncs() || subject.library().is_some(),
    };
    let subjects: Vec<Subject> = Subject::ALL.into_iter().filter(wanted).collect();
    let server = format!("http://127.0.0.1:{}/bench", server::start()?);
    let scratch = tempfile::tempdir()?;
    let mut out = io::stdout();
    writeln!(
        out,
        "SQLite {}, {rows} rows, large is {large} rows, medians of {runs} runs, CPU time; load before {}",
        rusqlite::version(),
        load()
    )?;
    let mut found: BTreeMap<(&'static str, String), Vec<f64>> = BTreeMap::new();
    for _run in 0..runs {
        for subject in &subjects {
            for (figure, value) in measured(*subject, scratch.path(), rows, large, &server)? {
                found.entry((subject.name(), figure)).or_default().push(value);
            }
        }
    }
    let medians: Medians = found.into_iter().map(|(figure, values)| (figure, median(values))).collect();
    report::print(&medians, large)?;
    writeln!(out, "load after {}", load())
}

/// Runs one subject in a process of its own and returns its figures.
fn measured(
    subject: Subject,
    dir: &Path,
    rows: u32,
    large: u32,
    server: &str,
) -> io::Result<Vec<(String, f64)>> {
    let output = Command::new(env::current_exe()?)
        .args([format!("subject={}", subject.name()), format!("dir={}", dir.display())])
        .args([format!("rows={rows}"), format!("large={large}"), format!("server={server}")])
        .output()?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(io::Error::other(format!("measuring {}: {complaint}", subject.name())));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let figure = |line: &str| {
        let (figure, value) = line.split_once(' ')?;
        Some((figure.to_owned(), value.parse().ok()?))
    };
    Ok(text.lines().filter_map(figure).collect())
}
