//! Payloads of what changed: as one value, in chunks, and by way of a file of the server.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use super::rows::Rows;
use super::{Changed, Walk, Wanted, numbers};
use crate::edge::codec;
use crate::edge::query;
use crate::edge::session::as_owner;
use crate::error::SyncError;

/// Bytes of rows in one frame: below what an upload may have, even when nothing compresses.
const FRAME_BYTES: usize = 7 * 1024 * 1024;

/// Size of a chunk when nobody says another: 5 MiB leaves room below what proxies let through.
const CHUNK_BYTES: i64 = 5 * 1024 * 1024;

/// Smallest size of a chunk: below it, definitions outweigh rows.
const CHUNK_BYTES_MIN: i64 = 16 * 1024;

/// Reads a range of numbers.
pub(crate) fn range(since: Option<i64>, until: Option<i64>) -> Result<Wanted, SyncError> {
    let check = |parameter, number: Option<i64>| match number {
        Some(found) if found < 0 => {
            Err(SyncError::Parameter { parameter, found: found.to_string(), wanted: "a number from 0 on" })
        }
        Some(_) | None => Ok(number),
    };
    let after = check("since", since)?.unwrap_or(0);
    Ok(Wanted { after, until: check("until", until)?.unwrap_or(i64::MAX) })
}

/// Everything that changed in a range, as frames behind each other. None when there is nothing.
pub(crate) fn encode(wanted: Wanted) -> Result<Option<Vec<u8>>, SyncError> {
    let mut walk = Walk::begin(wanted)?;
    let mut frames = Vec::new();
    let mut open: Option<(i32, Rows)> = None;
    while let Some(changed) = walk.next_row()? {
        let table_id = changed.table.table_id;
        let is_other = |(id, rows): &mut (i32, Rows)| *id != table_id || rows.byte_len() >= FRAME_BYTES;
        if let Some((_, full)) = open.take_if(is_other) {
            frames.extend(full.finish().unwrap_or_default());
        }
        open.get_or_insert_with(|| (table_id, Rows::of_present(&changed.table))).1.push(&changed);
    }
    frames.extend(open.and_then(|(_, rows)| rows.finish()).unwrap_or_default());
    Ok((!frames.is_empty()).then_some(frames))
}

/// payload, chunk_index, payload_size, rows, db_version_min, db_version_max, watermark_db_version, is_final.
pub(crate) type Chunk = (Vec<u8>, i64, i64, i64, i64, i64, i64, bool);

/// A walk through the chunks of a range.
pub(crate) struct Chunks {
    walk: Walk,
    bytes_max: usize,
    watermark: i64,
    /// The row that begins the next chunk.
    first: Option<Changed>,
    index: i64,
}

impl Chunks {
    /// Begins.
    pub(crate) fn begin(wanted: Wanted, max_bytes: Option<i64>) -> Result<Self, SyncError> {
        let set = || {
            let sql =
                "select s.value::bigint from cloudsync.settings as s where s.key = 'payload_max_chunk_size'";
            as_owner(|| query::read(sql, &[])).first().map(codec::to_i64)
        };
        let bytes_max = match max_bytes {
            Some(found) if found < 0 => {
                let found = found.to_string();
                return Err(SyncError::Parameter {
                    parameter: "max_bytes",
                    found,
                    wanted: "a number from 0 on",
                });
            }
            Some(bytes) => bytes,
            None => set().unwrap_or(CHUNK_BYTES),
        };
        let watermark = wanted.until.min(numbers().0);
        let mut walk = Walk::begin(wanted)?;
        let first = walk.next_row()?;
        let bytes_max = usize::try_from(bytes_max.max(CHUNK_BYTES_MIN)).unwrap_or(usize::MAX);
        Ok(Self { walk, bytes_max, watermark, first, index: 0 })
    }

    /// The next chunk. One frame a chunk keeps each within its size, so a chunk holds rows of one table.
    pub(crate) fn next_chunk(&mut self) -> Result<Option<Chunk>, SyncError> {
        let Some(first) = self.first.take() else { return Ok(None) };
        let table_id = first.table.table_id;
        let (mut least, mut greatest) = (first.number, first.number);
        let mut rows = Rows::of_present(&first.table);
        let mut next = Some(first);
        let mut count: i64 = 0;
        while let Some(changed) = next.take() {
            if changed.table.table_id != table_id || (count > 0 && rows.byte_len() >= self.bytes_max) {
                self.first = Some(changed);
                break;
            }
            rows.push(&changed);
            (least, greatest) = (least.min(changed.number), greatest.max(changed.number));
            count = count.saturating_add(1);
            next = self.walk.next_row()?;
        }
        let frame = rows.finish().unwrap_or_default();
        let size = i64::try_from(frame.len()).unwrap_or(i64::MAX);
        let index = self.index;
        self.index = index.saturating_add(1);
        Ok(Some((frame, index, size, count, least, greatest, self.watermark, self.first.is_none())))
    }
}

/// Writes a payload to a file of the server, whole or not at all; 0 says that there was nothing to write.
pub(crate) fn save(path: &str, wanted: Wanted) -> Result<i64, SyncError> {
    let target = server_file(path, "pg_write_server_files")?;
    let Some(frames) = encode(wanted)? else { return Ok(0) };
    let beside = target.with_added_extension("cloudsync-new");
    let written = fs::File::create(&beside)
        .and_then(|mut file| file.write_all(&frames).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&beside, target));
    if written.is_err() {
        // It may not be there; what matters is why the payload is not.
        drop(fs::remove_file(&beside));
    }
    written.map_err(|source| SyncError::File { action: "write", path: path.to_owned(), source })?;
    Ok(i64::try_from(frames.len()).unwrap_or(i64::MAX))
}

/// Reads a payload from a file of the server.
pub(crate) fn load(path: &str) -> Result<Vec<u8>, SyncError> {
    let target = server_file(path, "pg_read_server_files")?;
    fs::read(target).map_err(|source| SyncError::File { action: "read", path: path.to_owned(), source })
}

/// Checks that the caller may touch files of the server. A relative path would be in the server's own directory.
fn server_file<'p>(path: &'p str, role: &'static str) -> Result<&'p Path, SyncError> {
    let sql = format!("select pg_catalog.pg_has_role('{role}', 'usage')");
    if !query::read(&sql, &[]).first().is_some_and(codec::to_bool) {
        return Err(SyncError::ServerFile(role));
    }
    let target = Path::new(path);
    if !target.is_absolute() {
        let found = String::from("relative");
        return Err(SyncError::Parameter { parameter: "path", found, wanted: "an absolute path" });
    }
    Ok(target)
}
