//! What the hub may hold in memory of logs and of what it read from the store.

use super::{Environment, Node, Sourced, wrong};
use crate::error::Result;

/// Least bytes of a budget for logs: some frames, so that every leader gets on.
const LOG_BYTES_MIN: usize = 4 * 1024 * 1024;

/// The budgets of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryConfig {
    /// For what was decoded: in front of the store, and kept for clients that follow closely. All databases together.
    pub log_bytes_max: usize,
    /// For segments and snapshot parts that were read.
    pub read_cache_bytes_max: usize,
}

impl Default for MemoryConfig {
    fn default() -> MemoryConfig {
        MemoryConfig { log_bytes_max: 64 * 1024 * 1024, read_cache_bytes_max: 64 * 1024 * 1024 }
    }
}

impl MemoryConfig {
    /// The keys that are read here.
    pub(super) const KEYS: [&'static str; 2] = ["log_memory_bytes_max", "read_cache_bytes_max"];

    pub(super) fn read(root: &Node<'_>, environment: &Environment) -> Result<MemoryConfig> {
        let default = MemoryConfig::default();
        let log_bytes_max = match number(root, environment, "log_memory_bytes_max")? {
            None => default.log_bytes_max,
            Some((_key, bytes)) if bytes >= LOG_BYTES_MIN => bytes,
            Some((key, bytes)) => {
                return Err(wrong(&key, bytes.to_string(), format!("at least {LOG_BYTES_MIN}")));
            }
        };
        let cache = number(root, environment, "read_cache_bytes_max")?;
        let read_cache_bytes_max = cache.map_or(default.read_cache_bytes_max, |(_key, bytes)| bytes);
        Ok(MemoryConfig { log_bytes_max, read_cache_bytes_max })
    }
}

/// A number of bytes with the name of the place that it comes from.
fn number(root: &Node<'_>, environment: &Environment, key: &str) -> Result<Option<(String, usize)>> {
    let variable = format!("CLOUDSYNC_{}", key.to_ascii_uppercase());
    let found = match environment.get(&variable) {
        Some(text) => Some(Sourced { key: variable, text: text.clone() }),
        None => root.optional_number(key)?,
    };
    let Some(Sourced { key, text }) = found else { return Ok(None) };
    match text.parse() {
        Ok(bytes) => Ok(Some((key, bytes))),
        Err(_wrong) => Err(wrong(&key, format!("{text:?}"), "a number of bytes")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, pairs: &[(&str, &str)], wanted: std::result::Result<(usize, usize), &str>) {
        let environment: Environment =
            pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        let read = MemoryConfig::read(&Node::parse(text).unwrap(), &environment);
        match (read, wanted) {
            (Ok(found), Ok(wanted)) => {
                assert_eq!((found.log_bytes_max, found.read_cache_bytes_max), wanted, "{text}");
            }
            (Err(error), Err(word)) => assert!(error.to_string().contains(word), "{word} in {error}"),
            (read, wanted) => panic!("{read:?}, wanted {wanted:?} for {text}"),
        }
    }

    #[test]
    fn budgets_are_read_and_small_ones_refused() {
        let both = "log_memory_bytes_max = 5000000\nread_cache_bytes_max = 0";
        check("", &[], Ok((64 * 1024 * 1024, 64 * 1024 * 1024)));
        check(both, &[], Ok((5_000_000, 0)));
        check(both, &[("CLOUDSYNC_READ_CACHE_BYTES_MAX", "7")], Ok((5_000_000, 7)));
        check("log_memory_bytes_max = 1", &[], Err("log_memory_bytes_max"));
        check("read_cache_bytes_max = -1", &[], Err("read_cache_bytes_max"));
        check("read_cache_bytes_max = \"much\"", &[], Err("a number"));
        check("", &[("CLOUDSYNC_LOG_MEMORY_BYTES_MAX", "much")], Err("CLOUDSYNC_LOG_MEMORY_BYTES_MAX"));
    }
}
