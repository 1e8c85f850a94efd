//! Row keys as bytes: one canonical form per key, so that equal bytes mean the same row.
//!
//! The caller brings the parts into the form that its own table stores; two engines' forms of one key differ.

use alloc::string::String;
use alloc::vec::Vec;

use crate::error::FormatError;
use crate::reader::{Reader, push_varint};
use crate::value::{Image, Value, ValueKind, ValueRef};

/// Encodes the parts of a key: per part a kind byte, then 8 or 16 bytes, or a length and bytes.
#[must_use]
pub fn encode_key<'a>(parts: impl IntoIterator<Item = ValueRef<'a>>) -> Vec<u8> {
    let mut out = Vec::new();
    for part in parts {
        let (kind, image) = part.image();
        out.push(kind.code());
        match image {
            Image::Nothing => {}
            Image::Fixed(bits) => out.extend_from_slice(&bits.to_be_bytes()),
            Image::Uuid(bytes) => out.extend_from_slice(&bytes),
            Image::Bytes(bytes) => push_bytes(&mut out, bytes),
            Image::Pair(first, second) => {
                push_bytes(&mut out, first);
                push_bytes(&mut out, second);
            }
        }
    }
    out
}

/// Decodes what [`encode_key`] wrote.
///
/// # Errors
/// Bytes that end early, an unknown kind, or text that is not UTF-8.
pub fn decode_key(bytes: &[u8]) -> Result<Vec<Value>, FormatError> {
    let mut reader = Reader::new("row key", bytes);
    let mut parts = Vec::new();
    while !reader.is_empty() {
        parts.push(read_part(&mut reader)?);
    }
    Ok(parts)
}

fn push_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).expect("a value is below 4 GiB: see DESIGN section 15");
    push_varint(out, length);
    out.extend_from_slice(bytes);
}

fn read_part(reader: &mut Reader<'_>) -> Result<Value, FormatError> {
    let code = reader.byte()?;
    let kind = ValueKind::from_code(code)
        .ok_or(FormatError::UnknownCode { what: "value kind", code: u64::from(code) })?;
    Ok(match kind {
        ValueKind::Null => Value::Null,
        ValueKind::Integer => Value::Integer(read_i64(reader)?),
        ValueKind::Real => Value::Real(f64::from_bits(u64::from_be_bytes(reader.array()?))),
        ValueKind::Text => Value::Text(read_text(reader)?),
        ValueKind::Blob => Value::Blob(read_bytes(reader)?.into()),
        ValueKind::Boolean => Value::Boolean(read_i64(reader)? != 0),
        ValueKind::Numeric => Value::Numeric(read_text(reader)?),
        ValueKind::TimestampTz => Value::TimestampTz(read_i64(reader)?),
        ValueKind::Timestamp => Value::Timestamp(read_i64(reader)?),
        ValueKind::Date => Value::Date(read_date(reader)?),
        ValueKind::Time => Value::Time(read_i64(reader)?),
        ValueKind::Uuid => Value::Uuid(reader.array()?),
        ValueKind::Json => Value::Json(read_text(reader)?),
        ValueKind::Jsonb => Value::Jsonb(read_text(reader)?),
        ValueKind::Other => Value::Other { type_name: read_text(reader)?, text: read_text(reader)? },
        ValueKind::RawText => Value::RawText(read_bytes(reader)?.into()),
    })
}

fn read_i64(reader: &mut Reader<'_>) -> Result<i64, FormatError> {
    reader.array().map(i64::from_be_bytes)
}

fn read_date(reader: &mut Reader<'_>) -> Result<i32, FormatError> {
    let days = read_i64(reader)?;
    i32::try_from(days).map_err(|_| FormatError::UnknownCode { what: "date", code: days.cast_unsigned() })
}

fn read_bytes<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], FormatError> {
    let length = reader.varint()?;
    reader.take(usize::try_from(length).unwrap_or(usize::MAX))
}

fn read_text(reader: &mut Reader<'_>) -> Result<String, FormatError> {
    core::str::from_utf8(read_bytes(reader)?)
        .map(String::from)
        .map_err(|_| FormatError::Utf8 { part: "row key" })
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    fn check(parts: &[Value]) {
        let bytes = encode_key(parts.iter().map(Value::as_ref));
        assert_eq!(decode_key(&bytes).as_deref(), Ok(parts));
        for end in 1..bytes.len() {
            // A cut key may end between two parts; it never reads back as the whole key.
            assert_ne!(decode_key(&bytes[..end]).as_deref(), Ok(parts));
        }
    }

    #[test]
    fn a_key_reads_back() {
        check(&[Value::Integer(-5)]);
        check(&[Value::Text("a".into()), Value::Blob(vec![0, 1]), Value::Real(-0.0)]);
        check(&[
            Value::Uuid([7; 16]),
            Value::Date(-1),
            Value::TimestampTz(i64::MIN),
            Value::Other { type_name: "inet".into(), text: "::1".into() },
        ]);
    }

    #[test]
    fn an_unknown_kind_is_refused() {
        assert_eq!(decode_key(&[99]), Err(FormatError::UnknownCode { what: "value kind", code: 99 }));
    }
}
