//! Rows that a reader may read no more, by their keys.

use alloc::vec::Vec;

use flatbuffers::{FlatBufferBuilder, WIPOffset};

use super::decode::{Changes, cursors, structure};
use super::generated::cloudsync as fb;
use super::values::{self, ValuesBuilder, ValuesCursor};
use crate::error::FormatError;
use crate::value::ValueRef;

/// Collects keys of rows of one table that readers have to forget.
#[derive(Debug)]
pub struct EvictionBuilder {
    table: u32,
    incarnation: u64,
    version: u32,
    rows: u32,
    keys: Vec<ValuesBuilder>,
}

impl EvictionBuilder {
    /// Starts without rows; `key_len` is the number of key columns.
    #[must_use]
    pub fn new(table: u32, incarnation: u64, version: u32, key_len: usize) -> Self {
        let keys = core::iter::repeat_with(ValuesBuilder::default).take(key_len).collect();
        Self { table, incarnation, version, rows: 0, keys }
    }

    /// Adds the key of a row.
    ///
    /// # Panics
    /// When the key has another number of parts, which is a broken invariant of the caller.
    pub fn key(&mut self, key: &[ValueRef<'_>]) {
        assert_eq!(key.len(), self.keys.len(), "a row key has one part per key column");
        for (part, values) in key.iter().zip(&mut self.keys) {
            values.push(*part);
        }
        self.rows = self.rows.saturating_add(1);
    }

    pub(super) fn finish<'f>(self, fbb: &mut FlatBufferBuilder<'f>) -> WIPOffset<fb::Eviction<'f>> {
        let Self { table, incarnation, version, rows, keys } = self;
        let keys: Vec<_> = keys.into_iter().map(|mut values| values.drain(fbb)).collect();
        let keys = Some(fbb.create_vector(&keys));
        fb::Eviction::create(fbb, &fb::EvictionArgs { table, incarnation, version, rows, keys })
    }
}

/// Copies the keys of a batch of rows, without looking at them.
pub(super) fn of_all<'f>(
    fbb: &mut FlatBufferBuilder<'f>,
    changes: &Changes<'_>,
) -> WIPOffset<fb::Eviction<'f>> {
    let raw = changes.raw;
    let keys: Vec<_> = raw.keys().into_iter().flatten().map(|column| values::copy(fbb, column)).collect();
    let args = fb::EvictionArgs {
        table: raw.table(),
        incarnation: raw.incarnation(),
        version: raw.version(),
        rows: raw.rows(),
        keys: Some(fbb.create_vector(&keys)),
    };
    fb::Eviction::create(fbb, &args)
}

/// Rows of one table that the reader has to forget.
#[derive(Clone, Copy, Debug)]
pub struct Eviction<'a> {
    pub(super) raw: fb::Eviction<'a>,
}

impl<'a> Eviction<'a> {
    /// The table's number in its author's registry.
    #[must_use]
    pub fn table(&self) -> u32 {
        self.raw.table()
    }

    /// Which life of that registry.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.raw.incarnation()
    }

    /// Version of the definition that the keys were written under.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.raw.version()
    }

    /// Number of rows.
    #[must_use]
    pub fn row_count(&self) -> usize {
        usize::try_from(self.raw.rows()).unwrap_or(usize::MAX)
    }

    /// Starts reading the keys.
    #[must_use]
    pub fn keys(&self) -> KeyCursor<'a> {
        KeyCursor { left: self.row_count(), keys: cursors(self.raw.keys()), key: Vec::new() }
    }

    pub(super) fn check(&self) -> Result<(), FormatError> {
        super::decode::check_keys(self.raw.keys(), self.row_count())
    }
}

/// Reads keys in order, into one that is used again.
#[derive(Clone, Debug)]
pub struct KeyCursor<'a> {
    left: usize,
    keys: Vec<ValuesCursor<'a>>,
    key: Vec<ValueRef<'a>>,
}

impl<'a> KeyCursor<'a> {
    /// Reads the next key; None after the last.
    ///
    /// # Errors
    /// A value that is not there, text that is not UTF-8, or NULL.
    pub fn next_key(&mut self) -> Result<Option<&[ValueRef<'a>]>, FormatError> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left = self.left.saturating_sub(1);
        read_key(&mut self.keys, &mut self.key)?;
        Ok(Some(&self.key))
    }
}

/// Reads one key into `key`.
pub(super) fn read_key<'a>(
    cursors: &mut [ValuesCursor<'a>],
    key: &mut Vec<ValueRef<'a>>,
) -> Result<(), FormatError> {
    key.clear();
    for cursor in &mut *cursors {
        key.push(cursor.next_value()?);
    }
    // Takes no bytes, so that alone in a payload it would not be read again; and no engine has such a key.
    let parts = key.iter().filter(|part| !matches!(part, ValueRef::Null)).count();
    if parts < cursors.len() {
        return Err(structure("row key: parts that are not NULL", parts, cursors.len()));
    }
    Ok(())
}
