//! Registers as bytes: what travels as the value of a cell, and what metadata keeps.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use super::block::{Block, Blocks};
use super::counter::Counts;
use super::extreme::Front;
use super::position::{Position, Step};
use super::{ColumnRule, Entries, OwnEntries, Register, Start};
use crate::clock::{Hlc, SiteId, Stamp};
use crate::error::FormatError;
use crate::reader::{Reader, push_varint};
use crate::row_key::{decode_key, encode_key};
use crate::value::Value;

/// The only layout so far; its number leaves room for others.
const LAYOUT: u8 = 1;

/// Writes numbers, each site by its place in a dictionary that goes in front.
#[derive(Default)]
struct Writer {
    sites: Vec<SiteId>,
    body: Vec<u8>,
}

impl Writer {
    fn number(&mut self, number: usize) {
        push_varint(
            &mut self.body,
            u32::try_from(number).expect("a cell is below 4 GiB: see DESIGN section 15"),
        );
    }

    fn stamp(&mut self, stamp: Stamp) {
        let at = self.sites.iter().position(|site| *site == stamp.site).unwrap_or_else(|| {
            self.sites.push(stamp.site);
            self.sites.len().saturating_sub(1)
        });
        self.number(at);
        self.body.extend_from_slice(&stamp.hlc.raw().to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len());
        self.body.extend_from_slice(bytes);
    }

    fn value(&mut self, value: &Value) {
        self.bytes(&encode_key([value.as_ref()]));
    }
}

impl Register {
    /// Writes the register: a layout byte, the algorithm, the sites, the start, the entries. Equal registers give
    /// equal bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.number(usize::from(self.start.is_some()));
        if let Some(start) = &self.start {
            writer.stamp(start.base);
            writer.value(&start.value);
        }
        let algorithm = match &self.entries {
            Entries::Counter(counts) => {
                writer.number(counts.0.len());
                for (origin, (hlc, delta)) in &counts.0 {
                    writer.stamp(*origin);
                    writer.body.extend_from_slice(&hlc.raw().to_le_bytes());
                    writer.body.extend_from_slice(&delta.to_le_bytes());
                }
                ColumnRule::Counter.algorithm()
            }
            Entries::Max(front) => {
                write_front(&mut writer, front);
                ColumnRule::Max.algorithm()
            }
            Entries::Min(front) => {
                write_front(&mut writer, front);
                ColumnRule::Min.algorithm()
            }
            Entries::Block(blocks) => {
                writer.number(blocks.0.len());
                blocks.0.iter().for_each(|(position, block)| write_block(&mut writer, position, block));
                crate::payload::ColumnAlgorithm::Block
            }
        };
        let mut out = alloc::vec![LAYOUT, algorithm.code()];
        push_varint(&mut out, u32::try_from(writer.sites.len()).unwrap_or(u32::MAX));
        out.extend(writer.sites.iter().flat_map(|site| *site.as_bytes()));
        out.extend(writer.body);
        out
    }

    /// Reads what [`Register::encode`] wrote.
    ///
    /// # Errors
    /// Bytes that end early, another layout or algorithm, sites that are not there, text that is not UTF-8.
    pub fn decode(rule: &ColumnRule, bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new("register", bytes);
        let layout = reader.byte()?;
        if layout != LAYOUT {
            return Err(FormatError::UnknownCode { what: "layout of a register", code: u64::from(layout) });
        }
        let algorithm = reader.byte()?;
        if !rule.is_register() || algorithm != rule.algorithm().code() {
            return Err(FormatError::UnknownCode {
                what: "algorithm of a register",
                code: u64::from(algorithm),
            });
        }
        let mut sites = Vec::new();
        for _ in 0..reader.varint()? {
            sites.push(SiteId::from_bytes(reader.array()?));
        }
        let mut body = Body { reader, sites };
        let start = match body.reader.varint()? {
            0 => None,
            _some => Some(Start { base: body.stamp()?, value: body.value()? }),
        };
        let entries = body.entries(rule)?;
        if body.reader.is_empty() {
            return Ok(Self { start, entries });
        }
        let found = u64::try_from(body.reader.rest().len()).unwrap_or(u64::MAX);
        Err(FormatError::Structure { part: "register: bytes after its end", found, wanted: 0 })
    }
}

fn write_front(writer: &mut Writer, front: &Front) {
    writer.number(front.0.len());
    for (stamp, value) in &front.0 {
        writer.stamp(*stamp);
        writer.value(value);
    }
}

fn write_block(writer: &mut Writer, position: &Position, block: &Block) {
    writer.number(position.0.len());
    for step in &position.0 {
        writer.number(step.place.len());
        step.place.iter().for_each(|word| writer.body.extend_from_slice(&word.to_be_bytes()));
        writer.stamp(step.run);
        push_varint(&mut writer.body, step.index);
    }
    writer.stamp(block.stamp);
    writer.number(usize::from(block.text.is_some()));
    if let Some(text) = &block.text {
        writer.bytes(text.as_bytes());
    }
}

struct Body<'a> {
    reader: Reader<'a>,
    sites: Vec<SiteId>,
}

impl<'a> Body<'a> {
    fn stamp(&mut self) -> Result<Stamp, FormatError> {
        let at = self.reader.varint()?;
        let site = usize::try_from(at).ok().and_then(|at| self.sites.get(at)).copied();
        let site = site.ok_or(FormatError::Structure {
            part: "register: site",
            found: u64::from(at),
            wanted: u64::try_from(self.sites.len()).unwrap_or(u64::MAX),
        })?;
        Ok(Stamp { hlc: self.hlc()?, site })
    }

    fn hlc(&mut self) -> Result<Hlc, FormatError> {
        Ok(Hlc::from_raw(u64::from_le_bytes(self.reader.array()?)))
    }

    fn bytes(&mut self) -> Result<&'a [u8], FormatError> {
        let length = self.reader.varint()?;
        self.reader.take(usize::try_from(length).unwrap_or(usize::MAX))
    }

    fn value(&mut self) -> Result<Value, FormatError> {
        let mut values = decode_key(self.bytes()?)?;
        let found = u64::try_from(values.len()).unwrap_or(u64::MAX);
        match (values.pop(), values.is_empty()) {
            (Some(value), true) => Ok(value),
            _other => Err(FormatError::Structure { part: "register: values", found, wanted: 1 }),
        }
    }

    fn entries(&mut self, rule: &ColumnRule) -> Result<Entries, FormatError> {
        let count = self.reader.varint()?;
        Ok(match rule {
            ColumnRule::Counter => {
                let mut counts = BTreeMap::new();
                for _ in 0..count {
                    let origin = self.stamp()?;
                    let hlc = self.hlc()?;
                    counts.insert(origin, (hlc, i64::from_le_bytes(self.reader.array()?)));
                }
                Entries::Counter(Counts(counts))
            }
            ColumnRule::Max => Entries::Max(self.front(count, true)?),
            ColumnRule::Min => Entries::Min(self.front(count, false)?),
            ColumnRule::Block { .. } | ColumnRule::Lww | ColumnRule::Group { .. } => {
                let mut blocks = BTreeMap::new();
                for _ in 0..count {
                    let (position, block) = self.block()?;
                    blocks.insert(position, block);
                }
                Entries::Block(Blocks(blocks))
            }
        })
    }

    fn front(&mut self, count: u32, wants_greatest: bool) -> Result<Front, FormatError> {
        let mut front = Front::default();
        for _ in 0..count {
            let stamp = self.stamp()?;
            let value = self.value()?;
            front.add(stamp, value, wants_greatest);
        }
        Ok(front)
    }

    fn block(&mut self) -> Result<(Position, Block), FormatError> {
        let steps = self.reader.varint()?;
        if steps == 0 {
            return Err(FormatError::Structure { part: "register: steps of a block", found: 0, wanted: 1 });
        }
        let mut path = Vec::new();
        for _ in 0..steps {
            let mut place = Vec::new();
            for _ in 0..self.reader.varint()? {
                place.push(u32::from_be_bytes(self.reader.array()?));
            }
            path.push(Step { place, run: self.stamp()?, index: self.reader.varint()? });
        }
        let stamp = self.stamp()?;
        let text = match self.reader.varint()? {
            0 => None,
            _some => {
                let text = core::str::from_utf8(self.bytes()?);
                Some(String::from(text.map_err(|_| FormatError::Utf8 { part: "text block" })?))
            }
        };
        Ok((Position(path), Block { stamp, text }))
    }
}

impl OwnEntries {
    /// Writes it in front of a register in metadata: whether there is an origin and what it is, then numbers.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.push(u8::from(self.origin.is_some()));
        if let Some(origin) = self.origin {
            out.extend_from_slice(&origin.hlc.raw().to_le_bytes());
            out.extend_from_slice(origin.site.as_bytes());
        }
        out.extend_from_slice(&self.seq.to_le_bytes());
        out.extend_from_slice(&self.sent_hlc.raw().to_le_bytes());
        out.extend_from_slice(&self.sent_delta.to_le_bytes());
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        let hlc = |reader: &mut Reader<'_>| -> Result<Hlc, FormatError> {
            Ok(Hlc::from_raw(u64::from_le_bytes(reader.array()?)))
        };
        let origin = match reader.byte()? {
            0 => None,
            _some => Some(Stamp { hlc: hlc(reader)?, site: SiteId::from_bytes(reader.array()?) }),
        };
        let seq = i64::from_le_bytes(reader.array()?);
        Ok(Self { origin, seq, sent_hlc: hlc(reader)?, sent_delta: i64::from_le_bytes(reader.array()?) })
    }
}
