//! Reads a segment: sums and lengths first, then its parts.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use bytes::Bytes;
use crc::{CRC_32_ISCSI, Crc, Table};

use super::{
    FLAG_TRANSACTION_END, FORMAT, FORMAT_UNCOUNTED, HEAD_BYTES, LogFrame, MAGIC, OBJECT_BYTES_MAX,
    ScopeBlock, Segment, TAIL_BYTES, Transaction,
};
use crate::error::{Error, Result};
use crate::keys::SegmentName;
use crate::position::{Lsn, Position};

/// CRC-32C, sixteen bytes at a step.
pub(super) static CRC_32C: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);

impl Segment {
    /// Reads the object that lies under `name`.
    pub fn decode(name: SegmentName, object: Bytes) -> Result<Segment> {
        if object.len() > OBJECT_BYTES_MAX {
            return Err(Error::Segment { part: "size" });
        }
        let (format, mut blocks, footer) = split(object)?;
        let mut footer = Reader(footer);
        let found =
            SegmentName { previous: footer.position()?, last: footer.position()?, fence: footer.u64()? };
        if found != name {
            return Err(Error::Segment { part: "name" });
        }
        let transaction_end = footer.transaction_end()?;
        let mut scopes = Vec::new();
        for _ in 0..footer.u32()? {
            scopes.push(read_block(&name, &mut footer, &mut blocks, format)?);
        }
        if !blocks.is_empty() {
            return Err(Error::Segment { part: "block length" });
        }
        let mut transactions = Vec::new();
        for _ in 0..footer.u32()? {
            transactions.push(Transaction { xid: footer.u64()?, commit_end: Lsn::new(footer.u64()?) });
        }
        let definitions = footer.sized()?;
        if !footer.0.is_empty() {
            return Err(Error::Segment { part: "footer end" });
        }
        Ok(Segment { name, transaction_end, scopes, transactions, definitions })
    }
}

/// Checks the ends and the footer's sum; gives the format, the blocks and the footer.
fn split(mut object: Bytes) -> Result<(u8, Bytes, Bytes)> {
    if object.len() < HEAD_BYTES.saturating_add(TAIL_BYTES) {
        return Err(Error::Segment { part: "length" });
    }
    let mut tail = Reader(object.split_off(object.len().saturating_sub(TAIL_BYTES)));
    let mut head = Reader(object.split_to(HEAD_BYTES));
    let magic = head.array::<4>()?;
    let [format] = head.array()?;
    if magic != MAGIC || !matches!(format, FORMAT | FORMAT_UNCOUNTED) {
        return Err(Error::Segment { part: "head" });
    }
    let length = usize::try_from(tail.u32()?).map_err(|_wide| Error::Segment { part: "footer length" })?;
    let sum = tail.u32()?;
    if tail.array::<4>()? != MAGIC {
        return Err(Error::Segment { part: "tail" });
    }
    let at = object.len().checked_sub(length).ok_or(Error::Segment { part: "footer length" })?;
    let footer = object.split_off(at);
    if CRC_32C.checksum(&footer) != sum {
        return Err(Error::Segment { part: "footer checksum" });
    }
    Ok((format, object, footer))
}

fn read_block(name: &SegmentName, footer: &mut Reader, blocks: &mut Bytes, format: u8) -> Result<ScopeBlock> {
    let scope =
        String::from_utf8(footer.sized()?.into()).map_err(|_other| Error::Segment { part: "scope" })?;
    let mut frames = Vec::new();
    let mut digest = CRC_32C.digest();
    let mut previous = name.previous;
    for _ in 0..footer.u32()? {
        let last = footer.position()?;
        if last <= previous || last > name.last {
            return Err(Error::Segment { part: "frame position" });
        }
        previous = last;
        let transaction_end = footer.transaction_end()?;
        let length =
            usize::try_from(footer.u32()?).map_err(|_wide| Error::Segment { part: "frame length" })?;
        let rows = if format == FORMAT_UNCOUNTED { 0 } else { footer.u32()? };
        if length > blocks.len() {
            return Err(Error::Segment { part: "frame length" });
        }
        let bytes = blocks.split_to(length);
        digest.update(&bytes);
        frames.push(LogFrame { last, transaction_end, bytes, rows, pieces: Vec::new() });
    }
    if digest.finalize() != footer.u32()? {
        return Err(Error::Segment { part: "block checksum" });
    }
    Ok(ScopeBlock { scope, frames })
}

/// Takes numbers off the front of the footer.
struct Reader(Bytes);

impl Reader {
    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let found = *self.0.first_chunk::<N>().ok_or(Error::Segment { part: "footer" })?;
        drop(self.0.split_to(N));
        Ok(found)
    }

    fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_be_bytes)
    }

    fn position(&mut self) -> Result<Position> {
        Ok(Position::new(Lsn::new(self.u64()?), Lsn::new(self.u64()?)))
    }

    fn transaction_end(&mut self) -> Result<bool> {
        let [flags] = self.array()?;
        match flags {
            0 => Ok(false),
            FLAG_TRANSACTION_END => Ok(true),
            _ => Err(Error::Segment { part: "flags" }),
        }
    }

    fn sized(&mut self) -> Result<Bytes> {
        let length = usize::try_from(self.u32()?).map_err(|_wide| Error::Segment { part: "footer" })?;
        if length > self.0.len() {
            return Err(Error::Segment { part: "footer" });
        }
        Ok(self.0.split_to(length))
    }
}
