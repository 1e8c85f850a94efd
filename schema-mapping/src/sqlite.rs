//! What a client stores in SQLite for a value that travels: DESIGN section 7.

use alloc::borrow::Cow;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use shared_format::{Value, ValueRef};

use crate::datetime::{date_text, time_text, timestamp_text, timestamptz_text};

/// A value in one of SQLite's storage classes.
#[derive(Clone, Debug, PartialEq)]
pub enum SqliteValue<'a> {
    /// NULL.
    Null,
    /// INTEGER; booleans are 0 and 1.
    Integer(i64),
    /// REAL.
    Real(f64),
    /// TEXT.
    Text(Cow<'a, str>),
    /// BLOB.
    Blob(Cow<'a, [u8]>),
    /// TEXT that is not UTF-8.
    RawText(Cow<'a, [u8]>),
}

impl SqliteValue<'_> {
    /// The same value as it would travel from SQLite.
    #[must_use]
    pub fn as_value(&self) -> ValueRef<'_> {
        match self {
            Self::Null => ValueRef::Null,
            Self::Integer(v) => ValueRef::Integer(*v),
            Self::Real(v) => ValueRef::Real(*v),
            Self::Text(v) => ValueRef::Text(v),
            Self::Blob(v) => ValueRef::Blob(v),
            Self::RawText(v) => ValueRef::RawText(v),
        }
    }

    /// Copies the value, in the form in which it would travel from SQLite.
    #[must_use]
    pub fn to_value(&self) -> Value {
        self.as_value().to_owned_value()
    }

    /// The same value with bytes of its own.
    #[must_use]
    pub fn into_owned(self) -> SqliteValue<'static> {
        match self {
            Self::Null => SqliteValue::Null,
            Self::Integer(v) => SqliteValue::Integer(v),
            Self::Real(v) => SqliteValue::Real(v),
            Self::Text(v) => SqliteValue::Text(Cow::Owned(v.into_owned())),
            Self::Blob(v) => SqliteValue::Blob(Cow::Owned(v.into_owned())),
            Self::RawText(v) => SqliteValue::RawText(Cow::Owned(v.into_owned())),
        }
    }
}

/// Maps a value to what SQLite stores for it.
///
/// A NaN becomes NULL and -0.0 becomes 0.0, because SQLite stores neither.
#[must_use]
pub fn to_sqlite(value: ValueRef<'_>) -> SqliteValue<'_> {
    let text = |text: String| SqliteValue::Text(Cow::Owned(text));
    match value {
        ValueRef::Null => SqliteValue::Null,
        ValueRef::Integer(v) => SqliteValue::Integer(v),
        ValueRef::Real(v) if v.is_nan() => SqliteValue::Null,
        ValueRef::Real(v) => SqliteValue::Real(v + 0.0),
        ValueRef::Text(v)
        | ValueRef::Numeric(v)
        | ValueRef::Json(v)
        | ValueRef::Jsonb(v)
        | ValueRef::Other { text: v, .. } => SqliteValue::Text(Cow::Borrowed(v)),
        ValueRef::Blob(v) => SqliteValue::Blob(Cow::Borrowed(v)),
        ValueRef::Boolean(v) => SqliteValue::Integer(i64::from(v)),
        ValueRef::TimestampTz(v) => text(timestamptz_text(v)),
        ValueRef::Timestamp(v) => text(timestamp_text(v)),
        ValueRef::Date(v) => text(date_text(v)),
        ValueRef::Time(v) => text(time_text(v)),
        ValueRef::Uuid(v) => text(uuid_text(&v)),
        ValueRef::RawText(v) => SqliteValue::RawText(Cow::Borrowed(v)),
    }
}

/// Lower-case text of a UUID.
pub(crate) fn uuid_text(bytes: &[u8; 16]) -> String {
    let hex: Vec<u8> = format!("{:032x}", u128::from_be_bytes(*bytes)).into_bytes();
    let mut text = String::with_capacity(36);
    for (at, digit) in hex.into_iter().enumerate() {
        if matches!(at, 8 | 12 | 16 | 20) {
            text.push('-');
        }
        text.push(char::from(digit));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(value: ValueRef<'_>, expected: SqliteValue<'_>) {
        assert_eq!(to_sqlite(value), expected);
    }

    #[test]
    fn each_value_is_stored_as_the_mapping_says() {
        let text = |v: &'static str| SqliteValue::Text(v.into());
        check(ValueRef::Boolean(true), SqliteValue::Integer(1));
        check(ValueRef::Numeric("1.50"), text("1.50"));
        check(ValueRef::Jsonb("{\"a\": 1}"), text("{\"a\": 1}"));
        check(ValueRef::TimestampTz(0), text("2000-01-01T00:00:00.000000Z"));
        check(ValueRef::Other { type_name: "inet", text: "::1" }, text("::1"));
        check(ValueRef::Blob(&[1]), SqliteValue::Blob(Cow::Borrowed(&[1])));
        let uuid = 0x0123_4567_89AB_CDEF_0123_4567_89AB_CDEF_u128.to_be_bytes();
        check(ValueRef::Uuid(uuid), text("01234567-89ab-cdef-0123-456789abcdef"));
    }

    #[test]
    fn what_sqlite_cannot_store_becomes_what_it_does_store() {
        check(ValueRef::Real(f64::NAN), SqliteValue::Null);
        let stored = to_sqlite(ValueRef::Real(-0.0));
        assert_eq!(stored.as_value(), ValueRef::Real(0.0));
        check(ValueRef::Real(f64::INFINITY), SqliteValue::Real(f64::INFINITY));
    }
}
