//! Epochs: one life of the log each, and the rules that say when a server and a slot still belong to it.
//!
//! Invariant: within one epoch, LSNs are comparable, so that nothing is skipped by a comparison of places that
//! have nothing to do with each other. The rules are pure; ingest asks them at every connect.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
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
    /// The timeline; it grows with each promotion of a standby.
    pub timeline: u32,
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
}

/// The epoch object as it lies in the store.
#[derive(Serialize, Deserialize)]
struct EpochText {
    format: u32,
    number: u32,
    tag: u32,
    system: String,
    timeline: u32,
    database_oid: u32,
    start_lsn: String,
    definitions: String,
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
            timeline: self.server.timeline,
            database_oid: self.server.database_oid,
            start_lsn: self.start.to_string(),
            definitions: hex(&self.definitions),
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
                timeline: text.timeline,
                database_oid: text.database_oid,
            },
            start: text.start_lsn.parse()?,
            definitions: unhex(&text.definitions).ok_or(Error::EpochObject { part: "definitions" })?,
        })
    }

    /// Whether the log of this server goes on from this epoch.
    pub fn check_server(&self, found: &ServerIdentity) -> Result<()> {
        let ServerIdentity { system, timeline, database_oid } = &self.server;
        let differ = |what, found: String, wanted: String| {
            Err(Error::EpochMismatch { what, found, wanted, epoch: self.id.number })
        };
        if found.system != *system {
            return differ("system identifier", found.system.clone(), system.clone());
        }
        if found.timeline != *timeline {
            return differ("timeline", found.timeline.to_string(), timeline.to_string());
        }
        if found.database_oid != *database_oid {
            return differ("database oid", found.database_oid.to_string(), database_oid.to_string());
        }
        Ok(())
    }
}

/// What Postgres says about our slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its output plugin.
    pub plugin: String,
    /// Up to where it never sends again.
    pub confirmed: Lsn,
    /// Postgres removed WAL that the slot needs.
    pub lost: bool,
}

/// What to do about the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotStep {
    /// Nothing is there yet: make the slot, then open epoch one where it begins.
    Create,
    /// The slot is there, but the hub died before it opened an epoch: open it where the slot stands.
    OpenEpochAt(Lsn),
    /// Go on.
    Continue,
}

/// Decides whether a slot still belongs to the newest epoch, whose log ends at `stored` in the store.
pub fn check_slot(name: &str, slot: Option<&Slot>, stored: Option<Lsn>) -> Result<SlotStep> {
    let Some(slot) = slot else {
        return match stored {
            None => Ok(SlotStep::Create),
            Some(_) => Err(Error::SlotMissing { slot: name.to_owned() }),
        };
    };
    if slot.plugin != PLUGIN {
        return Err(Error::SlotPlugin { slot: name.to_owned(), found: slot.plugin.clone() });
    }
    if slot.lost {
        return Err(Error::SlotLost { slot: name.to_owned() });
    }
    match stored {
        None => Ok(SlotStep::OpenEpochAt(slot.confirmed)),
        Some(stored) if slot.confirmed > stored => {
            Err(Error::SlotAhead { slot: name.to_owned(), confirmed: slot.confirmed, stored })
        }
        Some(_) => Ok(SlotStep::Continue),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|digit| digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
    let digits = digits?;
    let pairs = digits.chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return None;
    }
    pairs.map(|pair| Some(pair.first()? << 4 | pair.last()?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch() -> Epoch {
        Epoch {
            id: EpochId::new(2, 0xfeed_0001),
            server: ServerIdentity { system: "7412".to_owned(), timeline: 1, database_oid: 16384 },
            start: Lsn::new(0x16_B374_8000),
            definitions: vec![0, 0x7f, 0xff],
        }
    }

    #[test]
    fn an_epoch_reads_back() {
        assert_eq!(Epoch::decode(&epoch().encode()).unwrap(), epoch());
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
            (other(|server| server.timeline = 2), "timeline"),
            (other(|server| server.database_oid = 5), "database oid"),
        ] {
            let error = wanted.check_server(&server).unwrap_err();
            assert!(matches!(error, Error::EpochMismatch { what: found, .. } if found == what), "{error}");
        }
    }

    #[test]
    fn a_slot_goes_on_only_where_the_store_ends() {
        let slot =
            |confirmed| Slot { plugin: PLUGIN.to_owned(), confirmed: Lsn::new(confirmed), lost: false };
        let check = |slot: Option<Slot>, stored: Option<u64>| {
            check_slot("cloudsync_1", slot.as_ref(), stored.map(Lsn::new))
        };
        assert_eq!(check(None, None).unwrap(), SlotStep::Create);
        assert_eq!(check(Some(slot(7)), None).unwrap(), SlotStep::OpenEpochAt(Lsn::new(7)));
        assert_eq!(check(Some(slot(7)), Some(7)).unwrap(), SlotStep::Continue);
        assert_eq!(check(Some(slot(7)), Some(8)).unwrap(), SlotStep::Continue);
        assert!(matches!(check(None, Some(1)), Err(Error::SlotMissing { .. })));
        assert!(matches!(check(Some(slot(9)), Some(8)), Err(Error::SlotAhead { .. })));
        let lost = Slot { lost: true, ..slot(1) };
        assert!(matches!(check(Some(lost), Some(8)), Err(Error::SlotLost { .. })));
        let foreign = Slot { plugin: "pgoutput".to_owned(), ..slot(1) };
        assert!(matches!(check(Some(foreign), Some(8)), Err(Error::SlotPlugin { .. })));
    }
}
