//! What the benchmarks have in common: how figures of several runs become one, and under which load they were taken.

pub mod arrival;

use std::fs;

/// The middle one of the values of several runs; there has to be one.
#[must_use]
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// How busy the machine is: its load averages.
#[must_use]
pub fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

/// What is printed of a target: whether it was reached, or that there was none to reach.
#[must_use]
pub const fn verdict(reached: Option<bool>) -> &'static str {
    match reached {
        Some(true) => "reached",
        Some(false) => "MISSED",
        None => "-",
    }
}
