//! The table of figures: what is wanted, what Postgres needs without us, and what was found.

use std::collections::BTreeMap;
use std::io::{self, Write};

/// Medians by figure.
pub(crate) type Medians = BTreeMap<&'static str, f64>;

/// What can be measured, in the order of the table.
pub(crate) const WORKS: [&str; 9] =
    ["insert", "update", "delete", "single", "fsync", "wal", "decode", "apply", "init"];

/// How a figure is judged.
enum Target {
    /// At most this many times what Postgres needs without us.
    AtMost(f64),
    /// At least this many times.
    AtLeast(f64),
    /// Only told.
    Compared,
    /// At most this, by itself.
    Limit(f64),
}

struct Line {
    title: &'static str,
    figure: &'static str,
    /// What the measured numbers are multiplied by to be shown, and their unit.
    unit: (f64, &'static str),
    plain: &'static str,
    target: Target,
}

const CPU: (f64, &str) = (1e3, "ms");

const fn line(
    title: &'static str,
    figure: &'static str,
    unit: (f64, &'static str),
    plain: &'static str,
    target: Target,
) -> Line {
    Line { title, figure, unit, plain, target }
}

const LINES: [Line; 14] = [
    line("bulk INSERT, CPU", "insert", CPU, "without capture", Target::AtMost(2.6)),
    line("bulk UPDATE of a column, CPU", "update", CPU, "without capture", Target::Compared),
    line("bulk DELETE, CPU", "delete", CPU, "without capture", Target::Compared),
    line("single-row UPDATE, CPU", "single", (1e6, "us"), "without capture", Target::AtMost(3.2)),
    line("1-row transactions with fsync", "fsync", (1.0, "/s"), "without capture", Target::AtLeast(0.9)),
    line("  CPU of each", "commit", (1e6, "us"), "without capture", Target::Compared),
    line("WAL of a one-column UPDATE", "wal", (1.0, "B"), "without capture", Target::AtMost(3.6)),
    line("decoding, walsender CPU", "decode", CPU, "pgoutput binary", Target::AtMost(0.6)),
    line("  heap rows it sent", "sent", (1.0, ""), "pgoutput", Target::Limit(0.0)),
    line("apply of new rows, CPU", "apply", CPU, "COPY, no capture", Target::AtMost(4.0)),
    line("  the same", "applied", CPU, "COPY, captured", Target::AtMost(4.0)),
    line("cloudsync_init, filled table, time", "init", CPU, "-", Target::Limit(0.1)),
    line("  times it wrote the table again", "rewritten", (1.0, ""), "-", Target::Limit(0.0)),
    line("  ACCESS EXCLUSIVE locks on it", "exclusive", (1.0, ""), "-", Target::Limit(0.0)),
];

/// Prints the table.
pub(crate) fn print(medians: &Medians) -> io::Result<()> {
    let mut out = io::stdout();
    writeln!(
        out,
        "{:<36} {:>12} {:>12} {:>7} {:>9}  {:<8} beside",
        "work", "plain", "ours", "ratio", "wanted", "verdict"
    )?;
    for line in &LINES {
        let of = |subject: &str| {
            let name = format!("{}.{subject}", line.figure);
            medians.iter().find(|(figure, _)| **figure == name).map(|(_, value)| *value)
        };
        let (plain, ours) = (of("plain"), of("ours"));
        let Some(ours) = ours else { continue };
        let (scale, unit) = line.unit;
        let shown = |value: f64| format!("{:.2} {unit}", value * scale);
        let ratio = plain.map(|plain| ours / plain);
        let (wanted, reached) = match line.target {
            Target::AtMost(most) => (format!("<= {most}"), ratio.map(|ratio| ratio <= most)),
            Target::AtLeast(least) => (format!(">= {least}"), ratio.map(|ratio| ratio >= least)),
            Target::Limit(limit) => (format!("<= {}", limit * scale), Some(ours <= limit)),
            Target::Compared => (String::from("-"), None),
        };
        let verdict = bench::verdict(reached);
        writeln!(
            out,
            "{:<36} {:>12} {:>12} {:>7} {wanted:>9}  {verdict:<8} {}",
            line.title,
            plain.map_or_else(|| String::from("-"), shown),
            shown(ours),
            ratio.map_or_else(|| String::from("-"), |ratio| format!("{ratio:.2}")),
            line.plain
        )?;
    }
    Ok(())
}
