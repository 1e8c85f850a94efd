//! The object that closes a snapshot: how many parts it has. Without it a snapshot is not finished.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::cursor::SnapshotId;
use crate::epoch::EpochId;
use crate::error::{Error, Result};
use crate::position::Lsn;

/// The number in `ManifestText::format`.
const MANIFEST_FORMAT: u32 = 1;

/// By table, where its frames lie in a part.
pub(super) type TablePlaces = BTreeMap<u32, (usize, usize)>;

/// By table, how many rows its frames in a part hold.
pub(super) type TableRows = BTreeMap<u32, u64>;

/// What is known of a finished snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Manifest {
    pub(super) epoch: EpochId,
    pub(super) snapshot: SnapshotId,
    pub(super) parts: u32,
    /// Parts that hold the rows of several audiences, with an index.
    pub(super) split: Vec<u32>,
    /// The tables of each part, and where in it the frames for everybody begin and end that are of them; shorter
    /// than the parts are where nobody noted them.
    pub(super) tables: Arc<Vec<TablePlaces>>,
    /// The rows in those frames; nothing where nobody counted.
    pub(super) rows: Arc<Vec<TableRows>>,
    /// Of all parts together.
    pub(super) bytes: u64,
    /// When it was begun, in milliseconds since 1970.
    pub(super) begun_ms: u64,
    /// How long it took to make.
    pub(super) took_ms: u64,
}

#[derive(Serialize, Deserialize)]
struct ManifestText {
    format: u32,
    epoch: String,
    lsn: String,
    build: String,
    parts: u32,
    #[serde(default)]
    split: Vec<u32>,
    #[serde(default)]
    tables: Vec<TablePlaces>,
    #[serde(default)]
    rows: Vec<TableRows>,
    bytes: u64,
    begun_ms: u64,
    took_ms: u64,
}

impl Manifest {
    pub(super) fn encode(&self) -> Vec<u8> {
        let text = ManifestText {
            format: MANIFEST_FORMAT,
            epoch: self.epoch.to_string(),
            lsn: self.snapshot.lsn.to_string(),
            build: format!("{:016x}", self.snapshot.build),
            parts: self.parts,
            split: self.split.clone(),
            tables: self.tables.to_vec(),
            rows: self.rows.to_vec(),
            bytes: self.bytes,
            begun_ms: self.begun_ms,
            took_ms: self.took_ms,
        };
        serde_json::to_vec_pretty(&text).expect("a manifest is plain text and numbers")
    }

    pub(super) fn decode(object: &[u8]) -> Result<Manifest> {
        let wrong = |part| Error::SnapshotManifest { part };
        let text: ManifestText = serde_json::from_slice(object).map_err(|_wrong| wrong("JSON"))?;
        if text.format != MANIFEST_FORMAT {
            return Err(wrong("format"));
        }
        let build = Lsn::from_hex(&text.build).ok_or_else(|| wrong("build"))?.raw();
        Ok(Manifest {
            epoch: EpochId::parse(&text.epoch).ok_or_else(|| wrong("epoch"))?,
            snapshot: SnapshotId { lsn: text.lsn.parse()?, build },
            parts: text.parts,
            split: text.split,
            tables: Arc::new(text.tables),
            rows: Arc::new(text.rows),
            bytes: text.bytes,
            begun_ms: text.begun_ms,
            took_ms: text.took_ms,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let snapshot = SnapshotId { lsn: Lsn::new(0x1_0000_0007), build: 0xbeef };
        Manifest {
            epoch: EpochId::new(2, 9),
            snapshot,
            parts: 3,
            split: vec![1],
            tables: Arc::new(vec![BTreeMap::from([(1, (0, 9))]), BTreeMap::from([(1, (0, 3)), (2, (3, 5))])]),
            rows: Arc::new(vec![BTreeMap::from([(1, 7)]), BTreeMap::from([(1, 2), (2, 0)])]),
            bytes: 9,
            begun_ms: 1_790_000_000_000,
            took_ms: 5,
        }
    }

    #[test]
    fn a_manifest_reads_back() {
        assert_eq!(Manifest::decode(&manifest().encode()).unwrap(), manifest());
    }

    #[test]
    fn a_broken_manifest_is_refused() {
        let text = String::from_utf8(manifest().encode()).unwrap();
        for (from, to, part) in [
            ("\"format\": 1", "\"format\": 7", "format"),
            ("2-00000009", "2", "epoch"),
            ("000000000000beef", "beef", "build"),
            ("{", "", "JSON"),
        ] {
            let read = Manifest::decode(text.replace(from, to).as_bytes());
            assert!(
                matches!(read, Err(Error::SnapshotManifest { part: found }) if found == part),
                "{read:?}"
            );
        }
    }
}
