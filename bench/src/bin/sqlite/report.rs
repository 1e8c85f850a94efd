//! The table of figures: what is wanted, what plain SQLite does for each, and what was found.

use std::collections::BTreeMap;
use std::io::{self, Write};

use bench::verdict;

use crate::subject::Subject;

/// Medians by subject and figure.
pub(crate) type Medians = BTreeMap<(&'static str, String), f64>;

/// How a figure is judged.
enum Target {
    /// At most this many times what plain SQLite needs.
    Ratio(f64),
    /// How many times what plain SQLite needs, only told.
    Compared,
    /// At most this, in the unit, after multiplying by the number.
    AtMost(f64, f64, &'static str),
    /// At least this many rows in a second.
    Rate(f64),
    /// Only told.
    Told(f64, &'static str),
}

struct Line {
    title: &'static str,
    figure: &'static str,
    /// What plain SQLite does.
    plain: &'static str,
    target: Target,
}

const fn line(title: &'static str, figure: &'static str, plain: &'static str, target: Target) -> Line {
    Line { title, figure, plain, target }
}

const LINES: [Line; 19] = [
    line("INSERT, 1,000 rows a transaction", "insert", "the same statements", Target::Ratio(1.9)),
    line("UPDATE one column by key", "update", "the same statements, keys shuffled", Target::Ratio(1.25)),
    line("DELETE by key", "delete", "the same statements, keys shuffled", Target::Ratio(1.25)),
    line("1-row INSERT transactions", "single", "the same statements", Target::Ratio(1.5)),
    line("export all as payload, fold included", "export", "the table as one JSON value", Target::Ratio(6.0)),
    line("INSERT + export + acknowledge", "total", "INSERT, then the table as JSON", Target::Ratio(3.5)),
    line("apply all into an empty database", "apply", "INSERT in one transaction", Target::Ratio(3.0)),
    line("merge, half the rows in conflict", "merge", "upsert as edited, keys shuffled", Target::Ratio(2.5)),
    line("the same merge, by key", "merge_by_key", "upsert of all rows by key", Target::Compared),
    line("apply again, no effect", "again", "upsert of all rows by key", Target::Ratio(2.0)),
    line("point reads", "points", "the same statements, keys shuffled", Target::Ratio(1.05)),
    line("file size after the inserts", "inserted_bytes", "its file", Target::Ratio(1.4)),
    line("file size after sync, no free pages", "synced_bytes", "its file", Target::Ratio(1.5)),
    line("payload, whole table", "payload_bytes", "-", Target::AtMost(6.0, 1.0, "MB")),
    line("cloudsync_init, filled table", "init", "-", Target::AtMost(50.0, 1e3, "ms")),
    line("cloudsync_init, large filled table", "init_large", "-", Target::AtMost(50.0, 1e3, "ms")),
    line("ADD COLUMN on a synced table", "add_column", "-", Target::AtMost(50.0, 1e3, "ms")),
    line("large table received", "received", "INSERT", Target::Rate(250_000.0)),
    line("memory while a large log is sent", "send_memory", "-", Target::Told(1.0, "MB")),
];

/// Prints the table.
pub(crate) fn print(medians: &Medians, large: u32) -> io::Result<()> {
    let mut out = io::stdout();
    writeln!(
        out,
        "{:<38} {:>12} {:>12} {:>12} {:>12}  {:<8} what plain SQLite does",
        "work", "plain", "ours", "peer", "wanted", "verdict"
    )?;
    for line in &LINES {
        let of = |subject: Subject| medians.get(&(subject.name(), line.figure.to_owned())).copied();
        let [plain, ours, peer] = Subject::ALL.map(of);
        let shown = |found: Option<f64>| shown(&line.target, found, plain, large);
        let (wanted, verdict) = wanted(&line.target, ours, plain, large);
        writeln!(
            out,
            "{:<38} {:>12} {:>12} {:>12} {wanted:>12}  {verdict:<8} {}",
            line.title,
            absolute(line, plain, large),
            shown(ours),
            shown(peer),
            line.plain
        )?;
    }
    Ok(())
}

/// What plain SQLite needs, as it is.
fn absolute(line: &Line, plain: Option<f64>, large: u32) -> String {
    let Some(plain) = plain else { return String::from("-") };
    match line.target {
        Target::Ratio(_) if line.figure.ends_with("_bytes") => format!("{plain:.1} MB"),
        Target::Ratio(_) | Target::Compared => format!("{plain:.3} s"),
        Target::AtMost(_, scale, unit) | Target::Told(scale, unit) => format!("{:.1} {unit}", plain * scale),
        Target::Rate(_) => format!("{:.0} rows/s", f64::from(large) / plain),
    }
}

fn shown(target: &Target, found: Option<f64>, plain: Option<f64>, large: u32) -> String {
    let Some(found) = found else { return String::from("-") };
    match target {
        Target::Ratio(_) | Target::Compared => {
            plain.map_or_else(|| String::from("-"), |plain| format!("{:.2}", found / plain))
        }
        Target::AtMost(_, scale, unit) | Target::Told(scale, unit) => format!("{:.1} {unit}", found * scale),
        Target::Rate(_) => format!("{:.0} rows/s", f64::from(large) / found),
    }
}

fn wanted(target: &Target, ours: Option<f64>, plain: Option<f64>, large: u32) -> (String, &'static str) {
    match target {
        Target::Ratio(most) => {
            let reached = ours.zip(plain).map(|(ours, plain)| ours / plain <= *most);
            (format!("<= {most}"), verdict(reached))
        }
        Target::AtMost(most, scale, unit) => {
            (format!("<= {most} {unit}"), verdict(ours.map(|ours| ours * scale <= *most)))
        }
        Target::Rate(least) => {
            let reached = ours.map(|ours| f64::from(large) / ours >= *least);
            (format!(">= {least}"), verdict(reached))
        }
        Target::Told(..) | Target::Compared => (String::from("-"), "-"),
    }
}
