//! The values of one column: collected row by row, read back row by row.

use alloc::vec::Vec;

use flatbuffers::{FlatBufferBuilder, Vector, WIPOffset};

use super::generated::cloudsync as fb;
use crate::error::FormatError;
use crate::value::{Image, ValueKind, ValueRef};

/// Collects the values of one column.
#[derive(Debug, Default)]
pub(super) struct ValuesBuilder {
    kinds: Vec<u8>,
    fixed: Vec<u64>,
    lengths: Vec<u32>,
    heap: Vec<u8>,
}

impl ValuesBuilder {
    pub(super) fn push(&mut self, value: ValueRef<'_>) {
        let (kind, image) = value.image();
        self.kinds.push(kind.code());
        match image {
            Image::Nothing => {}
            Image::Fixed(bits) => self.fixed.push(bits),
            Image::Uuid(bytes) => {
                let bits = u128::from_be_bytes(bytes);
                let half = |bits: u128| u64::try_from(bits & u128::from(u64::MAX)).unwrap_or(0);
                self.fixed.extend([half(bits >> 64), half(bits)]);
            }
            Image::Bytes(bytes) => self.push_bytes(bytes),
            Image::Pair(first, second) => {
                self.push_bytes(first);
                self.push_bytes(second);
            }
        }
    }

    fn push_bytes(&mut self, bytes: &[u8]) {
        self.lengths.push(u32::try_from(bytes.len()).expect("a cell is below 4 GiB: see DESIGN section 15"));
        self.heap.extend_from_slice(bytes);
    }

    /// Whether no row has a cell here.
    pub(super) fn is_empty(&self) -> bool {
        self.kinds.is_empty()
    }

    pub(super) fn byte_len(&self) -> usize {
        let fixed = self.fixed.len().saturating_mul(8);
        let lengths = self.lengths.len().saturating_mul(4);
        self.kinds.len().saturating_add(fixed).saturating_add(lengths).saturating_add(self.heap.len())
    }

    /// Writes the values and forgets them.
    pub(super) fn drain<'f>(&mut self, fbb: &mut FlatBufferBuilder<'f>) -> WIPOffset<fb::Values<'f>> {
        one_if_alike(&mut self.kinds);
        let args = fb::ValuesArgs {
            kinds: Some(fbb.create_vector(&self.kinds)),
            fixed: filled(fbb, &self.fixed),
            lengths: filled(fbb, &self.lengths),
            heap: filled(fbb, &self.heap),
        };
        self.kinds.clear();
        self.fixed.clear();
        self.lengths.clear();
        self.heap.clear();
        fb::Values::create(fbb, &args)
    }
}

/// Writes a vector, or nothing where it is empty.
pub(super) fn filled<'f, T: flatbuffers::Push + Copy>(
    fbb: &mut FlatBufferBuilder<'f>,
    items: &[T],
) -> Option<WIPOffset<Vector<'f, T::Output>>> {
    if items.is_empty() { None } else { Some(fbb.create_vector(items)) }
}

/// Shortens a vector whose entries are all alike to one entry.
pub(super) fn one_if_alike<T: PartialEq>(items: &mut Vec<T>) {
    if let Some((first, rest)) = items.split_first()
        && rest.iter().all(|item| item == first)
    {
        items.truncate(1);
    }
}

/// Copies the values of one column from a parsed payload, without looking at them.
pub(super) fn copy<'f>(fbb: &mut FlatBufferBuilder<'f>, values: fb::Values<'_>) -> WIPOffset<fb::Values<'f>> {
    let args = fb::ValuesArgs {
        kinds: values.kinds().map(|v| fbb.create_vector(v.bytes())),
        fixed: copy_vector(fbb, values.fixed()),
        lengths: copy_vector(fbb, values.lengths()),
        heap: values.heap().map(|v| fbb.create_vector(v.bytes())),
    };
    fb::Values::create(fbb, &args)
}

/// Copies a vector of numbers.
pub(super) fn copy_vector<'f, T>(
    fbb: &mut FlatBufferBuilder<'f>,
    items: Option<Vector<'_, T>>,
) -> Option<WIPOffset<Vector<'f, T>>>
where
    T: for<'a> flatbuffers::Follow<'a, Inner = T> + flatbuffers::Push<Output = T> + Copy,
{
    items.map(|items| fbb.create_vector_from_iter(items.iter()))
}

/// Entry `at` of a vector that has either one entry for all or one each.
pub(super) fn entry<'a, T: flatbuffers::Follow<'a> + 'a>(
    items: Option<Vector<'a, T>>,
    at: usize,
    part: &'static str,
) -> Result<T::Inner, FormatError> {
    let items = items.ok_or_else(|| missing(part, 0, at))?;
    let at = if items.len() == 1 { 0 } else { at };
    if at < items.len() { Ok(items.get(at)) } else { Err(missing(part, items.len(), at)) }
}

fn missing(part: &'static str, found: usize, at: usize) -> FormatError {
    let number = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    FormatError::Structure { part, found: number(found), wanted: number(at).saturating_add(1) }
}

/// Reads the values of one column in order.
#[derive(Clone, Debug)]
pub(super) struct ValuesCursor<'a> {
    kinds: Option<Vector<'a, u8>>,
    fixed: Option<Vector<'a, u64>>,
    lengths: Option<Vector<'a, u32>>,
    heap: &'a [u8],
    at: usize,
    fixed_at: usize,
    length_at: usize,
}

impl<'a> ValuesCursor<'a> {
    pub(super) fn new(values: fb::Values<'a>) -> Self {
        Self {
            kinds: values.kinds(),
            fixed: values.fixed(),
            lengths: values.lengths(),
            heap: values.heap().map_or(&[], |heap| heap.bytes()),
            at: 0,
            fixed_at: 0,
            length_at: 0,
        }
    }

    pub(super) fn next_value(&mut self) -> Result<ValueRef<'a>, FormatError> {
        let code = entry(self.kinds, self.at, "value kinds")?;
        let kind = ValueKind::from_code(code)
            .ok_or(FormatError::UnknownCode { what: "value kind", code: u64::from(code) })?;
        self.at = self.at.saturating_add(1);
        Ok(match kind {
            ValueKind::Null => ValueRef::Null,
            ValueKind::Integer => ValueRef::Integer(self.number()?),
            ValueKind::Real => ValueRef::Real(f64::from_bits(self.bits()?)),
            ValueKind::Text => ValueRef::Text(self.text()?),
            ValueKind::Blob => ValueRef::Blob(self.bytes()?),
            ValueKind::Boolean => ValueRef::Boolean(self.bits()? != 0),
            ValueKind::Numeric => ValueRef::Numeric(self.text()?),
            ValueKind::TimestampTz => ValueRef::TimestampTz(self.number()?),
            ValueKind::Timestamp => ValueRef::Timestamp(self.number()?),
            ValueKind::Date => ValueRef::Date(self.days()?),
            ValueKind::Time => ValueRef::Time(self.number()?),
            ValueKind::Uuid => ValueRef::Uuid(self.uuid()?),
            ValueKind::Json => ValueRef::Json(self.text()?),
            ValueKind::Jsonb => ValueRef::Jsonb(self.text()?),
            ValueKind::Other => ValueRef::Other { type_name: self.text()?, text: self.text()? },
            ValueKind::RawText => ValueRef::RawText(self.bytes()?),
        })
    }

    fn bits(&mut self) -> Result<u64, FormatError> {
        let found = self.fixed.map_or(0, |fixed| fixed.len());
        let fixed = self.fixed.filter(|_| self.fixed_at < found);
        let bits = fixed.ok_or_else(|| missing("fixed values", found, self.fixed_at))?.get(self.fixed_at);
        self.fixed_at = self.fixed_at.saturating_add(1);
        Ok(bits)
    }

    fn number(&mut self) -> Result<i64, FormatError> {
        self.bits().map(u64::cast_signed)
    }

    fn days(&mut self) -> Result<i32, FormatError> {
        let days = self.number()?;
        i32::try_from(days).map_err(|_| FormatError::UnknownCode { what: "date", code: days.cast_unsigned() })
    }

    fn uuid(&mut self) -> Result<[u8; 16], FormatError> {
        let high = u128::from(self.bits()?);
        Ok((high << 64 | u128::from(self.bits()?)).to_be_bytes())
    }

    fn bytes(&mut self) -> Result<&'a [u8], FormatError> {
        let found = self.lengths.map_or(0, |lengths| lengths.len());
        let lengths = self.lengths.filter(|_| self.length_at < found);
        let length = lengths.ok_or_else(|| missing("lengths", found, self.length_at))?.get(self.length_at);
        self.length_at = self.length_at.saturating_add(1);
        let wanted = usize::try_from(length).unwrap_or(usize::MAX);
        let truncated = FormatError::Truncated { part: "value heap", found: self.heap.len(), wanted };
        let (bytes, heap) = self.heap.split_at_checked(wanted).ok_or(truncated)?;
        self.heap = heap;
        Ok(bytes)
    }

    fn text(&mut self) -> Result<&'a str, FormatError> {
        core::str::from_utf8(self.bytes()?).map_err(|_| FormatError::Utf8 { part: "text value" })
    }
}
