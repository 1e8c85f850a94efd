//! Values as they travel: what either engine stores, without loss.
//!
//! Leaves the form that each engine stores to `schema-mapping`.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;
use core::cmp::Ordering;

/// One value, borrowed from a payload, a row or a statement.
#[derive(Clone, Copy, Debug)]
pub enum ValueRef<'a> {
    /// SQL NULL.
    Null,
    /// Any integer type.
    Integer(i64),
    /// Any floating-point type, bit for bit.
    Real(f64),
    /// Any character type.
    Text(&'a str),
    /// Bytes.
    Blob(&'a [u8]),
    /// Postgres boolean.
    Boolean(bool),
    /// Postgres numeric in its text form.
    Numeric(&'a str),
    /// Microseconds since 2000-01-01 UTC; `i64::MIN` and `i64::MAX` are the infinities.
    TimestampTz(i64),
    /// Microseconds since 2000-01-01 of no time zone; infinities as in `TimestampTz`.
    Timestamp(i64),
    /// Days since 2000-01-01; `i32::MIN` and `i32::MAX` are the infinities.
    Date(i32),
    /// Microseconds since midnight.
    Time(i64),
    /// The 16 bytes of a UUID.
    Uuid([u8; 16]),
    /// Postgres json, as written.
    Json(&'a str),
    /// Postgres jsonb, as Postgres prints it.
    Jsonb(&'a str),
    /// Any other Postgres type in its text form.
    Other {
        /// Name of the type, as `format_type` prints it.
        type_name: &'a str,
        /// The text form.
        text: &'a str,
    },
    /// Text that is not UTF-8; only SQLite stores it.
    RawText(&'a [u8]),
}

/// One value that owns its bytes; the variants are those of [`ValueRef`].
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "each variant is documented on ValueRef")]
pub enum Value {
    Null,
    Integer(i64),
    Real(f64),
    Text(String),
    Blob(Vec<u8>),
    Boolean(bool),
    Numeric(String),
    TimestampTz(i64),
    Timestamp(i64),
    Date(i32),
    Time(i64),
    Uuid([u8; 16]),
    Json(String),
    Jsonb(String),
    Other { type_name: String, text: String },
    RawText(Vec<u8>),
}

impl Value {
    /// Borrows the value.
    #[must_use]
    pub fn as_ref(&self) -> ValueRef<'_> {
        match self {
            Self::Null => ValueRef::Null,
            Self::Integer(v) => ValueRef::Integer(*v),
            Self::Real(v) => ValueRef::Real(*v),
            Self::Text(v) => ValueRef::Text(v),
            Self::Blob(v) => ValueRef::Blob(v),
            Self::Boolean(v) => ValueRef::Boolean(*v),
            Self::Numeric(v) => ValueRef::Numeric(v),
            Self::TimestampTz(v) => ValueRef::TimestampTz(*v),
            Self::Timestamp(v) => ValueRef::Timestamp(*v),
            Self::Date(v) => ValueRef::Date(*v),
            Self::Time(v) => ValueRef::Time(*v),
            Self::Uuid(v) => ValueRef::Uuid(*v),
            Self::Json(v) => ValueRef::Json(v),
            Self::Jsonb(v) => ValueRef::Jsonb(v),
            Self::Other { type_name, text } => ValueRef::Other { type_name, text },
            Self::RawText(v) => ValueRef::RawText(v),
        }
    }
}

impl<'a> ValueRef<'a> {
    /// Copies the value.
    #[must_use]
    pub fn to_owned_value(&self) -> Value {
        match *self {
            Self::Null => Value::Null,
            Self::Integer(v) => Value::Integer(v),
            Self::Real(v) => Value::Real(v),
            Self::Text(v) => Value::Text(v.to_owned()),
            Self::Blob(v) => Value::Blob(v.to_owned()),
            Self::Boolean(v) => Value::Boolean(v),
            Self::Numeric(v) => Value::Numeric(v.to_owned()),
            Self::TimestampTz(v) => Value::TimestampTz(v),
            Self::Timestamp(v) => Value::Timestamp(v),
            Self::Date(v) => Value::Date(v),
            Self::Time(v) => Value::Time(v),
            Self::Uuid(v) => Value::Uuid(v),
            Self::Json(v) => Value::Json(v.to_owned()),
            Self::Jsonb(v) => Value::Jsonb(v.to_owned()),
            Self::Other { type_name, text } => {
                Value::Other { type_name: type_name.to_owned(), text: text.to_owned() }
            }
            Self::RawText(v) => Value::RawText(v.to_owned()),
        }
    }

    /// Orders values by kind, then by encoded bytes: the decision between equal stamps.
    ///
    /// Total and the same everywhere, which is all that it is for: numbers do not order by size.
    #[must_use]
    pub fn cmp_encoded(&self, other: &Self) -> Ordering {
        let (kind, image) = self.image();
        let (other_kind, other_image) = other.image();
        kind.code().cmp(&other_kind.code()).then_with(|| image.cmp(&other_image))
    }

    pub(crate) fn image(&self) -> (ValueKind, Image<'a>) {
        match *self {
            Self::Null => (ValueKind::Null, Image::Nothing),
            Self::Integer(v) => (ValueKind::Integer, Image::Fixed(v.cast_unsigned())),
            Self::Real(v) => (ValueKind::Real, Image::Fixed(v.to_bits())),
            Self::Text(v) => (ValueKind::Text, Image::Bytes(v.as_bytes())),
            Self::Blob(v) => (ValueKind::Blob, Image::Bytes(v)),
            Self::Boolean(v) => (ValueKind::Boolean, Image::Fixed(u64::from(v))),
            Self::Numeric(v) => (ValueKind::Numeric, Image::Bytes(v.as_bytes())),
            Self::TimestampTz(v) => (ValueKind::TimestampTz, Image::Fixed(v.cast_unsigned())),
            Self::Timestamp(v) => (ValueKind::Timestamp, Image::Fixed(v.cast_unsigned())),
            Self::Date(v) => (ValueKind::Date, Image::Fixed(i64::from(v).cast_unsigned())),
            Self::Time(v) => (ValueKind::Time, Image::Fixed(v.cast_unsigned())),
            Self::Uuid(v) => (ValueKind::Uuid, Image::Uuid(v)),
            Self::Json(v) => (ValueKind::Json, Image::Bytes(v.as_bytes())),
            Self::Jsonb(v) => (ValueKind::Jsonb, Image::Bytes(v.as_bytes())),
            Self::Other { type_name, text } => {
                (ValueKind::Other, Image::Pair(type_name.as_bytes(), text.as_bytes()))
            }
            Self::RawText(v) => (ValueKind::RawText, Image::Bytes(v)),
        }
    }
}

impl PartialEq for ValueRef<'_> {
    /// Equal means the same kind and the same bits: -0.0 differs from 0.0, a NaN equals itself.
    fn eq(&self, other: &Self) -> bool {
        self.cmp_encoded(other) == Ordering::Equal
    }
}

/// The bytes that stand for a value; the order of variants never decides, the kind did before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Image<'a> {
    Nothing,
    Fixed(u64),
    Uuid([u8; 16]),
    Bytes(&'a [u8]),
    Pair(&'a [u8], &'a [u8]),
}

/// How a kind is numbered on the wire. Numbers are never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ValueKind {
    Null,
    Integer,
    Real,
    Text,
    Blob,
    Boolean,
    Numeric,
    TimestampTz,
    Timestamp,
    Date,
    Time,
    Uuid,
    Json,
    Jsonb,
    Other,
    RawText,
}

impl ValueKind {
    const ALL: [Self; 16] = [
        Self::Null,
        Self::Integer,
        Self::Real,
        Self::Text,
        Self::Blob,
        Self::Boolean,
        Self::Numeric,
        Self::TimestampTz,
        Self::Timestamp,
        Self::Date,
        Self::Time,
        Self::Uuid,
        Self::Json,
        Self::Jsonb,
        Self::Other,
        Self::RawText,
    ];

    pub(crate) fn code(self) -> u8 {
        self as u8
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(lesser: ValueRef<'_>, greater: ValueRef<'_>) {
        assert_eq!(lesser.cmp_encoded(&greater), Ordering::Less);
        assert_eq!(greater.cmp_encoded(&lesser), Ordering::Greater);
        assert_eq!(lesser.cmp_encoded(&lesser), Ordering::Equal);
    }

    #[test]
    fn kinds_decide_before_bytes() {
        check(ValueRef::Null, ValueRef::Integer(i64::MIN));
        check(ValueRef::Integer(i64::MAX), ValueRef::Real(-1.0));
        check(ValueRef::Text("z"), ValueRef::Blob(b"a"));
    }

    #[test]
    fn equal_kinds_are_decided_by_their_bytes() {
        check(ValueRef::Integer(1), ValueRef::Integer(2));
        check(ValueRef::Real(0.0), ValueRef::Real(-0.0));
        check(ValueRef::Text("a"), ValueRef::Text("ab"));
        check(ValueRef::Other { type_name: "a", text: "z" }, ValueRef::Other { type_name: "b", text: "a" });
    }

    #[test]
    fn every_kind_reads_back_from_its_code() {
        for kind in ValueKind::ALL {
            assert_eq!(ValueKind::from_code(kind.code()), Some(kind));
        }
        assert_eq!(ValueKind::from_code(16), None);
    }
}
