//! Epochs: one life of the log each, and whether a server still belongs to one.
//!
//! Invariant: within one epoch, LSNs are comparable, so that nothing is skipped by a comparison of places that
//! have nothing to do with each other. When an epoch has to end is decided in `ground`.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::hex;
use crate::lineage::{Ended, Fork, Lineage};
use crate::position::{Lsn, Position};

/// The output plugin that a slot of ours uses.
pub const PLUGIN: &str = "pg_sync";

/// One epoch as clients know it: its number, and a random tag.
///
/// The tag tells apart two stores that both begin at epoch one, so a cursor from the one means nothing in the
/// other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EpochId {
    number: u32,
    tag: u32,
}

impl EpochId {
    /// The epoch of this number and tag.
    #[must_use]
    pub const fn new(number: u32, tag: u32) -> EpochId {
        EpochId { number, tag }
    }

    /// Its number, which names its folder in the store.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.number
    }

    /// Reads what `Display` writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<EpochId> {
        let (number, tag) = text.split_once('-')?;
        let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        let hex = tag.len() == 8 && tag.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !digits || !hex {
            return None;
        }
        Some(EpochId { number: number.parse().ok()?, tag: u32::from_str_radix(tag, 16).ok()? })
    }
}

impl fmt::Display for EpochId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:08x}", self.number, self.tag)
    }
}

/// Which Postgres database a log comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerIdentity {
    /// The system identifier, as `IDENTIFY_SYSTEM` prints it.
    pub system: String,
    /// Its timelines; one more with each promotion of a standby.
    pub lineage: Lineage,
    /// The oid of the database.
    pub database_oid: u32,
}

/// The object that opens an epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Epoch {
    /// Its name.
    pub id: EpochId,
    /// Where its log comes from.
    pub server: ServerIdentity,
    /// The log of this epoch has what committed after here.
    pub start: Lsn,
    /// A payload of the table definitions that the first messages may refer to.
    pub definitions: Vec<u8>,
    /// Why it was opened.
    pub reason: EpochReason,
    /// Names the newest restore on purpose of the database; empty when there was none.
    pub restored: String,
}

/// Why an epoch was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EpochReason {
    /// It is the first of its database.
    #[default]
    First,
    /// A table has to be read anew by everybody.
    Reload,
    /// The slot was lost in some way.
    Slot,
    /// The server lacks what the one before had.
    Failover,
    /// The server was set back on purpose.
    Restore,
}

/// The epoch object as it lies in the store.
#[derive(Serialize, Deserialize)]
struct EpochText {
    format: u32,
    number: u32,
    tag: u32,
    system: String,
    timeline: u32,
    #[serde(default)]
    timelines_before: Vec<Ended>,
    database_oid: u32,
    start_lsn: String,
    definitions: String,
    #[serde(default)]
    reason: EpochReason,
    #[serde(default)]
    restored: String,
}

/// The number in `EpochText::format`.
const EPOCH_FORMAT: u32 = 1;

impl Epoch {
    /// The position before the first message of the epoch.
    #[must_use]
    pub const fn start_position(&self) -> Position {
        Position::after(self.start)
    }

    /// The epoch as an object.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let text = EpochText {
            format: EPOCH_FORMAT,
            number: self.id.number,
            tag: self.id.tag,
            system: self.server.system.clone(),
            timeline: self.server.lineage.current(),
            timelines_before: self.server.lineage.ended().to_vec(),
            database_oid: self.server.database_oid,
            start_lsn: self.start.to_string(),
            definitions: hex::encode(&self.definitions),
            reason: self.reason,
            restored: self.restored.clone(),
        };
        serde_json::to_vec_pretty(&text).expect("an epoch is plain text and numbers")
    }

    /// Reads an epoch object.
    pub fn decode(object: &[u8]) -> Result<Epoch> {
        let text: EpochText =
            serde_json::from_slice(object).map_err(|_wrong| Error::EpochObject { part: "JSON" })?;
        if text.format != EPOCH_FORMAT {
            return Err(Error::EpochObject { part: "format" });
        }
        Ok(Epoch {
            id: EpochId { number: text.number, tag: text.tag },
            server: ServerIdentity {
                system: text.system,
                lineage: Lineage::new(text.timelines_before, text.timeline),
                database_oid: text.database_oid,
            },
            start: text.start_lsn.parse()?,
            definitions: hex::decode(&text.definitions).ok_or(Error::EpochObject { part: "definitions" })?,
            reason: text.reason,
            restored: text.restored,
        })
    }

    /// How the log of this server relates to this epoch; a server that cannot follow it is an error.
    pub fn fork_of(&self, found: &ServerIdentity) -> Result<Fork> {
        let ServerIdentity { system, lineage, database_oid } = &self.server;
        let differ = |what, found: String, wanted: String| {
            Err(Error::EpochMismatch { what, found, wanted, epoch: self.id.number })
        };
        if found.system != *system {
            return differ("system identifier", found.system.clone(), system.clone());
        }
        if found.database_oid != *database_oid {
            return differ("database oid", found.database_oid.to_string(), database_oid.to_string());
        }
        match found.lineage.fork_from(lineage) {
            fork @ (Fork::Same | Fork::At(_)) => Ok(fork),
            Fork::Behind | Fork::Unrelated => {
                differ("timeline", found.lineage.current().to_string(), lineage.current().to_string())
            }
        }
    }

    /// Whether the log of this server goes on from this epoch.
    pub fn check_server(&self, found: &ServerIdentity) -> Result<()> {
        match self.fork_of(found)? {
            Fork::Same => Ok(()),
            Fork::At(_) | Fork::Behind | Fork::Unrelated => Err(Error::EpochMismatch {
                what: "timeline",
                found: found.lineage.current().to_string(),
                wanted: self.server.lineage.current().to_string(),
                epoch: self.id.number,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch() -> Epoch {
        Epoch {
            id: EpochId::new(2, 0xfeed_0001),
            server: ServerIdentity {
                system: "7412".to_owned(),
                lineage: Lineage::new(vec![Ended { timeline: 1, end: 0x15_0000_0000 }], 2),
                database_oid: 16384,
            },
            start: Lsn::new(0x16_B374_8000),
            definitions: vec![0, 0x7f, 0xff],
            reason: EpochReason::Failover,
            restored: "c0ffee".to_owned(),
        }
    }

    #[test]
    fn an_epoch_reads_back() {
        assert_eq!(Epoch::decode(&epoch().encode()).unwrap(), epoch());
    }

    #[test]
    fn an_epoch_of_before_reasons_were_kept_is_read() {
        let text = String::from_utf8(epoch().encode()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let is_new = |line: &&&str| line.contains("\"reason\"") || line.contains("\"restored\"");
        let old: String = lines.iter().filter(|line| !is_new(line)).copied().collect();
        let read = Epoch::decode(old.replace("007fff\",", "007fff\"").as_bytes()).unwrap();
        assert_eq!((read.reason, read.restored.as_str()), (EpochReason::First, ""));
    }

    #[test]
    fn an_epoch_of_another_format_is_refused() {
        let text = String::from_utf8(epoch().encode()).unwrap();
        for (from, to, part) in [
            ("\"format\": 1", "\"format\": 2", "format"),
            ("007fff", "07fff", "definitions"),
            ("007fff", "00xfff", "definitions"),
            ("{", "[", "JSON"),
        ] {
            let broken = text.replace(from, to);
            let error = Epoch::decode(broken.as_bytes()).unwrap_err();
            assert!(matches!(error, Error::EpochObject { part: found } if found == part), "{from} {error}");
        }
    }

    #[test]
    fn another_server_does_not_go_on_with_an_epoch() {
        let wanted = epoch();
        wanted.check_server(&wanted.server).unwrap();
        let other = |change: fn(&mut ServerIdentity)| {
            let mut server = epoch().server;
            change(&mut server);
            server
        };
        for (server, what) in [
            (other(|server| server.system = "9".to_owned()), "system identifier"),
            (other(|server| server.lineage = Lineage::first(1)), "timeline"),
            (other(|server| server.lineage = Lineage::first(7)), "timeline"),
            (other(|server| server.database_oid = 5), "database oid"),
        ] {
            let error = wanted.check_server(&server).unwrap_err();
            assert!(matches!(error, Error::EpochMismatch { what: found, .. } if found == what), "{error}");
        }
    }
}
