//! Writes a segment.
//!
//! Layout: magic, format; the blocks, each the frames of one scope; the footer; its length, its CRC-32C, the
//! magic again. The footer says where each frame lies and how many rows are in it, and has a CRC-32C of each block.
//! Big endian throughout.

use bytes::{BufMut, Bytes, BytesMut};

use super::{FLAG_TRANSACTION_END, FORMAT, FORMAT_UNCOUNTED, MAGIC, ScopeBlock, Segment};
use crate::error::{Error, Result};
use crate::position::Position;

impl Segment {
    /// The segment as an object.
    pub fn encode(&self) -> Result<Bytes> {
        self.encode_as(FORMAT)
    }

    pub(super) fn encode_as(&self, format: u8) -> Result<Bytes> {
        let mut object = BytesMut::with_capacity(self.payload_bytes() + 4_096);
        object.put_slice(&MAGIC);
        object.put_u8(format);
        let mut footer = BytesMut::new();
        put_position(&mut footer, self.name.previous);
        put_position(&mut footer, self.name.last);
        footer.put_u64(self.name.fence);
        footer.put_u8(flags(self.transaction_end));
        footer.put_u32(count(self.scopes.len(), "scope count")?);
        for block in &self.scopes {
            put_block(&mut object, &mut footer, block, format)?;
        }
        footer.put_u32(count(self.transactions.len(), "transaction count")?);
        for transaction in &self.transactions {
            footer.put_u64(transaction.xid);
            footer.put_u64(transaction.commit_end.raw());
        }
        footer.put_u32(count(self.definitions.len(), "definitions")?);
        footer.put_slice(&self.definitions);
        let length = count(footer.len(), "footer length")?;
        object.put_slice(&footer);
        object.put_u32(length);
        object.put_u32(super::decode::CRC_32C.checksum(&footer));
        object.put_slice(&MAGIC);
        Ok(object.freeze())
    }

    fn payload_bytes(&self) -> usize {
        self.scopes.iter().flat_map(|block| &block.frames).map(|frame| frame.bytes.len()).sum()
    }
}

fn put_block(object: &mut BytesMut, footer: &mut BytesMut, block: &ScopeBlock, format: u8) -> Result<()> {
    footer.put_u32(count(block.scope.len(), "scope")?);
    footer.put_slice(block.scope.as_bytes());
    let mut digest = super::decode::CRC_32C.digest();
    footer.put_u32(count(block.frames.len(), "frame count")?);
    for frame in &block.frames {
        put_position(footer, frame.last);
        footer.put_u8(flags(frame.transaction_end));
        footer.put_u32(count(frame.bytes.len(), "frame length")?);
        if format != FORMAT_UNCOUNTED {
            footer.put_u32(frame.rows);
        }
        object.put_slice(&frame.bytes);
        digest.update(&frame.bytes);
    }
    footer.put_u32(digest.finalize());
    Ok(())
}

fn put_position(bytes: &mut BytesMut, position: Position) {
    bytes.put_u64(position.commit_end.raw());
    bytes.put_u64(position.message.raw());
}

fn flags(transaction_end: bool) -> u8 {
    if transaction_end { FLAG_TRANSACTION_END } else { 0 }
}

fn count(number: usize, part: &'static str) -> Result<u32> {
    u32::try_from(number).map_err(|_wide| Error::Segment { part })
}
