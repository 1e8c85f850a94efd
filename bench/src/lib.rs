//! What the benchmarks have in common: how figures of several runs become one, and under which load they were taken.

pub mod arrival;

use std::collections::BTreeMap;
use std::{env, fs};

/// What a benchmark is told: `name=value`, in any order.
#[derive(Debug)]
pub struct Arguments(BTreeMap<String, String>);

impl Arguments {
    /// Reads the arguments of this process.
    #[must_use]
    pub fn read() -> Self {
        let pair =
            |argument: String| argument.split_once('=').map(|(name, value)| (name.into(), value.into()));
        Self(env::args().filter_map(pair).collect())
    }

    /// What was said under a name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&String> {
        self.0.get(name)
    }

    /// A number; it panics when something else was said.
    #[must_use]
    pub fn number(&self, name: &str, default: u32) -> u32 {
        self.get(name).map_or(default, |text| text.parse().expect("an argument is a number"))
    }

    /// What `only` names, by commas; nothing when all is wanted.
    #[must_use]
    pub fn only(&self) -> Vec<&str> {
        self.get("only").map(|only| only.split(',').collect()).unwrap_or_default()
    }
}

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
