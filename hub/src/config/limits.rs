//! What one database may take of a node, so that the others have theirs; without a key there is no such limit.
//!
//! | key, in the table `limits` of a database | what it holds |
//! |---|---|
//! | `requests_per_s_max` | most requests a second, on average; those of ten seconds may come at once |
//! | `in_flight_bytes_max` | most bytes of uploads and downloads that are on their way at once |
//! | `waits_max` | most downloads that wait for something new at once: each holds a connection |
//! | `stored_bytes_max` | most bytes that the store may hold of it; above, uploads are refused |

use super::tree::Node;
use super::wrong;
use crate::error::Result;

/// What one database may take of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitsConfig {
    /// Most requests a second, on average.
    pub requests_per_s_max: Option<u32>,
    /// Most bytes of uploads and downloads that are on their way at once.
    pub in_flight_bytes_max: Option<u64>,
    /// Most downloads that wait for something new at once.
    pub waits_max: Option<usize>,
    /// Most bytes that the store may hold.
    pub stored_bytes_max: Option<u64>,
}

impl LimitsConfig {
    /// The keys of the table.
    const KEYS: [&'static str; 4] =
        ["requests_per_s_max", "in_flight_bytes_max", "waits_max", "stored_bytes_max"];

    /// Reads the table of a database.
    pub(super) fn read(database: &Node<'_>) -> Result<LimitsConfig> {
        let Some(node) = database.optional_table("limits")? else { return Ok(LimitsConfig::default()) };
        node.only(&Self::KEYS)?;
        let bytes = |key| -> Result<Option<u64>> {
            Ok(node.optional_count(key)?.map(|bytes| u64::try_from(bytes).unwrap_or(u64::MAX)))
        };
        let requests = node.optional_count("requests_per_s_max")?.map(|requests| {
            let too_many = |_| {
                let wanted = format!("at most {}", u32::MAX);
                wrong(&node.place("requests_per_s_max"), requests.to_string(), wanted)
            };
            u32::try_from(requests).map_err(too_many)
        });
        Ok(LimitsConfig {
            requests_per_s_max: requests.transpose()?,
            in_flight_bytes_max: bytes("in_flight_bytes_max")?,
            waits_max: node.optional_count("waits_max")?,
            stored_bytes_max: bytes("stored_bytes_max")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_and_wrong_ones_named() {
        let read = |text: &str| LimitsConfig::read(&Node::parse(text).unwrap());
        assert_eq!(read("").unwrap(), LimitsConfig::default());
        let all =
            "[limits]\nrequests_per_s_max = 5\nin_flight_bytes_max = 6\nwaits_max = 7\nstored_bytes_max = 8";
        let wanted = LimitsConfig {
            requests_per_s_max: Some(5),
            in_flight_bytes_max: Some(6),
            waits_max: Some(7),
            stored_bytes_max: Some(8),
        };
        assert_eq!(read(all).unwrap(), wanted);
        for (text, words) in [
            ("limits = 5", ["limits", "a table"]),
            ("[limits]\nrequests = 5", ["limits.requests", "unknown key"]),
            ("[limits]\nrequests_per_s_max = 0", ["limits.requests_per_s_max", "from 1"]),
            ("[limits]\nrequests_per_s_max = 5000000000", ["limits.requests_per_s_max", "at most"]),
            ("[limits]\nin_flight_bytes_max = \"much\"", ["limits.in_flight_bytes_max", "a text"]),
            ("[limits]\nwaits_max = -1", ["limits.waits_max", "from 1"]),
            ("[limits]\nstored_bytes_max = 1.5", ["limits.stored_bytes_max", "a float"]),
        ] {
            let error = read(text).expect_err(text).to_string();
            assert!(words.iter().all(|word| error.contains(word)), "{words:?} in {error}");
        }
    }
}
