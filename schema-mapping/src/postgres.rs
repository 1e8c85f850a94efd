//! The text that a Postgres column's input function reads for a value that travels.

use alloc::borrow::Cow;
use alloc::format;
use alloc::string::{String, ToString};

use shared_format::ValueRef;

use crate::datetime::{date_text, time_text, timestamp_text, timestamptz_text};
use crate::error::MappingError;
use crate::sqlite::uuid_text;

/// Maps a value to input text for a column of any type; None is NULL.
///
/// A REAL is written with as many digits as bring back the same bits.
///
/// # Errors
/// Text that is not UTF-8.
pub fn to_postgres_text(value: ValueRef<'_>) -> Result<Option<Cow<'_, str>>, MappingError> {
    Ok(Some(match value {
        ValueRef::Null => return Ok(None),
        ValueRef::RawText(v) => return Err(MappingError::NotUtf8 { length: v.len() }),
        ValueRef::Integer(v) => Cow::Owned(v.to_string()),
        ValueRef::Real(v) => Cow::Owned(real_text(v)),
        ValueRef::Text(v)
        | ValueRef::Numeric(v)
        | ValueRef::Json(v)
        | ValueRef::Jsonb(v)
        | ValueRef::Other { text: v, .. } => Cow::Borrowed(v),
        ValueRef::Blob(v) => Cow::Owned(hex_text(v)),
        ValueRef::Boolean(v) => Cow::Borrowed(if v { "true" } else { "false" }),
        ValueRef::TimestampTz(v) => Cow::Owned(timestamptz_text(v)),
        ValueRef::Timestamp(v) => Cow::Owned(timestamp_text(v)),
        ValueRef::Date(v) => Cow::Owned(date_text(v)),
        ValueRef::Time(v) => Cow::Owned(time_text(v)),
        ValueRef::Uuid(v) => Cow::Owned(uuid_text(&v)),
    }))
}

fn real_text(value: f64) -> String {
    if value.is_nan() {
        return "NaN".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity".into() } else { "-Infinity".into() };
    }
    format!("{value:e}")
}

fn hex_text(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(2 + bytes.len() * 2);
    text.push_str("\\x");
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(value: ValueRef<'_>, expected: &str) {
        assert_eq!(to_postgres_text(value).map(Option::unwrap_or_default).as_deref(), Ok(expected));
    }

    #[test]
    fn each_value_has_its_input_text() {
        assert_eq!(to_postgres_text(ValueRef::Null), Ok(None));
        check(ValueRef::Integer(i64::MIN), "-9223372036854775808");
        check(ValueRef::Blob(&[0, 0xab]), "\\x00ab");
        check(ValueRef::Boolean(false), "false");
        check(ValueRef::Date(0), "2000-01-01");
        check(ValueRef::Time(1), "00:00:00.000001");
        check(ValueRef::Uuid([0; 16]), "00000000-0000-0000-0000-000000000000");
    }

    #[test]
    fn a_real_is_written_so_that_the_same_bits_come_back() {
        for value in [0.1, -0.0, 1e300, f64::MIN_POSITIVE, 1.0 / 3.0] {
            let text = to_postgres_text(ValueRef::Real(value)).unwrap().unwrap();
            assert_eq!(text.parse().map(f64::to_bits), Ok(value.to_bits()));
        }
        check(ValueRef::Real(f64::NAN), "NaN");
        check(ValueRef::Real(f64::NEG_INFINITY), "-Infinity");
    }

    #[test]
    fn text_that_is_not_utf8_is_refused() {
        let refused = Err(MappingError::NotUtf8 { length: 2 });
        assert_eq!(to_postgres_text(ValueRef::RawText(&[0xff, 0xfe])), refused);
    }
}
