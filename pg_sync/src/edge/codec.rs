//! Values of one Postgres type, to and from the values that travel.
//!
//! Datums stay valid as long as the memory context or tuple that they came from; no function here keeps one.

use std::ffi::{CStr, CString};

use pgrx::pg_sys;
use pgrx::pg_sys::Datum;
use schema_mapping::to_postgres_text;
use shared_format::{Value, ValueRef};

use super::server;
use crate::error::{SyncError, or_raise};

/// How values of a type travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Int2,
    Int4,
    Int8,
    Float4,
    Float8,
    Bool,
    Text,
    Bytea,
    Numeric,
    TimestampTz,
    Timestamp,
    Date,
    Time,
    Uuid,
    Json,
    Jsonb,
    Other,
}

impl Form {
    fn of(base: pg_sys::Oid) -> Self {
        match base {
            pg_sys::INT2OID => Self::Int2,
            pg_sys::INT4OID => Self::Int4,
            pg_sys::INT8OID => Self::Int8,
            pg_sys::FLOAT4OID => Self::Float4,
            pg_sys::FLOAT8OID => Self::Float8,
            pg_sys::BOOLOID => Self::Bool,
            pg_sys::TEXTOID | pg_sys::VARCHAROID | pg_sys::BPCHAROID => Self::Text,
            pg_sys::BYTEAOID => Self::Bytea,
            pg_sys::NUMERICOID => Self::Numeric,
            pg_sys::TIMESTAMPTZOID => Self::TimestampTz,
            pg_sys::TIMESTAMPOID => Self::Timestamp,
            pg_sys::DATEOID => Self::Date,
            pg_sys::TIMEOID => Self::Time,
            pg_sys::UUIDOID => Self::Uuid,
            pg_sys::JSONOID => Self::Json,
            pg_sys::JSONBOID => Self::Jsonb,
            _ => Self::Other,
        }
    }
}

/// What is known of a type: looked up once for many values.
#[derive(Clone, Debug)]
pub(crate) struct Codec {
    type_oid: pg_sys::Oid,
    form: Form,
    /// A domain checks what is put into it, so its values go through its input function.
    is_domain: bool,
    input: Input,
    /// Of a domain, that of the type below it, which runs no check of a user; else the same.
    base_input: Input,
    output: pg_sys::Oid,
    length: i16,
    by_value: bool,
    name: String,
}

/// An input function and its second argument.
#[derive(Clone, Copy, Debug)]
struct Input {
    function: pg_sys::Oid,
    parameter: pg_sys::Oid,
}

impl Input {
    fn of(type_oid: pg_sys::Oid) -> Self {
        let mut input = Self { function: pg_sys::InvalidOid, parameter: pg_sys::InvalidOid };
        // SAFETY: the type exists: a column of an open relation has it. Both are valid for writing.
        unsafe {
            pg_sys::getTypeInputInfo(type_oid, &raw mut input.function, &raw mut input.parameter);
        }
        input
    }

    /// Calls it; without text, for a null, which a domain may refuse.
    fn call(self, text: Option<&CStr>) -> Datum {
        let text = text.map_or(std::ptr::null_mut(), |text| text.as_ptr().cast_mut());
        // SAFETY: the function is the input function of a type, and reads the text only.
        unsafe { pg_sys::OidInputFunctionCall(self.function, text, self.parameter, -1) }
    }
}

impl Codec {
    /// Looks a type up.
    pub(crate) fn new(type_oid: pg_sys::Oid) -> Self {
        // SAFETY: the type exists: a column of an open relation has it.
        let base = unsafe { pg_sys::getBaseType(type_oid) };
        let form = Form::of(base);
        let (input, base_input) = (Input::of(type_oid), Input::of(base));
        let (mut output, mut is_varlena) = (pg_sys::InvalidOid, false);
        // SAFETY: as above.
        unsafe { pg_sys::getTypeOutputInfo(type_oid, &raw mut output, &raw mut is_varlena) };
        let (mut length, mut by_value) = (0, false);
        // SAFETY: as above.
        unsafe { pg_sys::get_typlenbyval(type_oid, &raw mut length, &raw mut by_value) };
        let name = if form == Form::Other { type_name(base) } else { String::new() };
        let is_domain = base != type_oid;
        Self { type_oid, form, is_domain, input, base_input, output, length, by_value, name }
    }

    /// The type.
    pub(crate) fn type_oid(&self) -> pg_sys::Oid {
        self.type_oid
    }

    /// Whether the stored text may differ from what was sent though the stored bytes are as asked.
    pub(crate) fn rewrites_text(&self) -> bool {
        self.form == Form::Jsonb
    }

    /// Whether the text form of a value depends on what the session has set.
    pub(crate) fn prints_by_settings(&self) -> bool {
        self.form == Form::Other
    }

    /// Reads a datum of this type. The value borrows from it, or from the current memory context.
    pub(crate) fn value<'a>(&'a self, datum: Option<Datum>) -> ValueRef<'a> {
        let Some(datum) = datum else { return ValueRef::Null };
        match self.form {
            Form::Int2 => ValueRef::Integer(i64::from(low_16(datum))),
            Form::Int4 => ValueRef::Integer(i64::from(low_32(datum))),
            Form::Int8 => ValueRef::Integer(all_64(datum)),
            Form::Float4 => ValueRef::Real(f64::from(f32::from_bits(low_32(datum).cast_unsigned()))),
            Form::Float8 => ValueRef::Real(f64::from_bits(all_64(datum).cast_unsigned())),
            Form::Bool => ValueRef::Boolean(datum.value() & 1 == 1),
            Form::Text => text_or_raw(bytes(datum), ValueRef::Text),
            Form::Json => text_or_raw(bytes(datum), ValueRef::Json),
            Form::Bytea => ValueRef::Blob(bytes(datum)),
            Form::Numeric => text_or_raw(self.print(datum), ValueRef::Numeric),
            Form::Jsonb => text_or_raw(self.print(datum), ValueRef::Jsonb),
            Form::TimestampTz => ValueRef::TimestampTz(all_64(datum)),
            Form::Timestamp => ValueRef::Timestamp(all_64(datum)),
            Form::Date => ValueRef::Date(low_32(datum)),
            Form::Time => ValueRef::Time(all_64(datum)),
            Form::Uuid => ValueRef::Uuid(uuid(datum)),
            Form::Other => {
                text_or_raw(self.print(datum), |text| ValueRef::Other { type_name: &self.name, text })
            }
        }
    }

    /// Bytes that a stored value takes up when it is unpacked, at no cost where it is not packed.
    pub(crate) fn unpacked_bytes(&self, datum: Datum) -> usize {
        if self.length != -1 {
            return 0;
        }
        let header: *const pg_sys::varlena = datum.cast_mut_ptr();
        // SAFETY: the type has a variable length, so the datum points at such a header.
        if unsafe { pgrx::varlena::varatt_is_4b_u(header) } {
            // SAFETY: as above, and the length is in the header.
            return unsafe { pgrx::varlena::varsize_4b(header) }.saturating_sub(pg_sys::VARHDRSZ);
        }
        // SAFETY: as above.
        let is_short = unsafe { pgrx::varlena::varatt_is_1b(header) };
        // SAFETY: as above.
        if is_short && !unsafe { pgrx::varlena::varatt_is_1b_e(header) } {
            return 0;
        }
        // SAFETY: as above; reads the header only.
        unsafe { pg_sys::toast_raw_datum_size(datum) }.saturating_sub(pg_sys::VARHDRSZ)
    }

    /// Makes a datum of this type, by the type's input function where nothing simpler is exact. Raises what
    /// the input function raises. A domain's checks are code of a user: never called as the owner.
    pub(crate) fn datum(&self, value: ValueRef<'_>) -> Option<Datum> {
        if !self.is_domain {
            return self.stored_datum(value);
        }
        let text = input_text(value);
        let datum = self.input.call(text.as_deref());
        text.map(|_| datum)
    }

    /// The value of a literal, for the simple types whose values SQLite stores alike.
    pub(crate) fn literal(&self, text: &str) -> Option<Value> {
        match self.form {
            Form::Int2 | Form::Int4 | Form::Int8 => text.parse().ok().map(Value::Integer),
            Form::Float4 | Form::Float8 => text.parse().ok().map(Value::Real),
            Form::Text => Some(Value::Text(text.to_owned())),
            Form::Bool
            | Form::Bytea
            | Form::Numeric
            | Form::TimestampTz
            | Form::Timestamp
            | Form::Date
            | Form::Time
            | Form::Uuid
            | Form::Json
            | Form::Jsonb
            | Form::Other => None,
        }
    }

    /// Makes a datum from a value that a column of this type holds already, without a domain's checks.
    pub(crate) fn stored_datum(&self, value: ValueRef<'_>) -> Option<Datum> {
        self.exact(value).or_else(|| Some(self.base_input.call(Some(&input_text(value)?))))
    }

    fn exact(&self, value: ValueRef<'_>) -> Option<Datum> {
        match (self.form, value) {
            (Form::Int2, ValueRef::Integer(v)) => i16::try_from(v).ok().map(Datum::from),
            (Form::Int4, ValueRef::Integer(v)) => i32::try_from(v).ok().map(Datum::from),
            (Form::Int8, ValueRef::Integer(v)) => Some(Datum::from(v)),
            (Form::Float8, ValueRef::Real(v)) => Some(Datum::from(v.to_bits())),
            (Form::Bool, ValueRef::Boolean(v)) => Some(Datum::from(v)),
            (Form::Text, ValueRef::Text(v)) if self.length == -1 && !v.contains('\0') => {
                Some(varlena(v.as_bytes()))
            }
            (Form::Bytea, ValueRef::Blob(v)) => Some(varlena(v)),
            (Form::TimestampTz, ValueRef::TimestampTz(v))
            | (Form::Timestamp, ValueRef::Timestamp(v))
            | (Form::Time, ValueRef::Time(v)) => Some(Datum::from(v)),
            (Form::Date, ValueRef::Date(v)) => Some(Datum::from(v)),
            (Form::Uuid, ValueRef::Uuid(v)) => Some(uuid_datum(v)),
            (Form::Uuid, ValueRef::Text(text)) => uuid_of(text).map(uuid_datum),
            _ => None,
        }
    }

    /// Whether two datums of this type have the same stored image.
    pub(crate) fn same_image(&self, one: Option<Datum>, two: Option<Datum>) -> bool {
        match (one, two) {
            (None, None) => true,
            (Some(one), Some(two)) if self.same_bytes(one, two) => true,
            (Some(one), Some(two)) => {
                let (by_value, length) = (self.by_value, i32::from(self.length));
                // SAFETY: both are of this type.
                let same = || unsafe { server::datum_image_eq(one, two, by_value, length) };
                // SAFETY: the closure holds nothing that needs a drop, and cannot panic.
                unsafe { server::guarded(same) }
            }
            (None, Some(_)) | (Some(_), None) => false,
        }
    }

    /// Whether two datums are alike as they are, also where they are compressed or stored elsewhere. Those that
    /// are not may still have the same image.
    fn same_bytes(&self, one: Datum, two: Datum) -> bool {
        if self.by_value || one.value() == two.value() {
            return one.value() == two.value();
        }
        if self.length != -1 {
            return false;
        }
        let raw = |datum: Datum| {
            let start: *const u8 = datum.cast_mut_ptr();
            // SAFETY: the datum is of variable length, and its header says how long it is here.
            let length = unsafe { pgrx::varlena::varsize_any(start.cast()) };
            // SAFETY: as above.
            unsafe { std::slice::from_raw_parts(start, length) }
        };
        raw(one) == raw(two)
    }

    /// Copies a datum into the current memory context.
    pub(crate) fn copy(&self, datum: Option<Datum>) -> Option<Datum> {
        let datum = datum?;
        let (by_value, length) = (self.by_value, i32::from(self.length));
        // SAFETY: it is of this type.
        let copy = || unsafe { server::datumCopy(datum, by_value, length) };
        // SAFETY: the closure holds nothing that needs a drop, and cannot panic.
        Some(unsafe { server::guarded(copy) })
    }

    /// The text form, by the type's output function.
    fn print<'a>(&self, datum: Datum) -> &'a [u8] {
        // SAFETY: the function is the type's own output function.
        let text = unsafe { pg_sys::OidOutputFunctionCall(self.output, datum) };
        // SAFETY: output functions return a C string in the current memory context.
        unsafe { CStr::from_ptr(text) }.to_bytes()
    }
}

/// A value as input functions read it; None for a null.
fn input_text(value: ValueRef<'_>) -> Option<CString> {
    let text = or_raise(to_postgres_text(value).map_err(SyncError::Text))?;
    let text = CString::new(text.as_ref()).map_err(|error| SyncError::ZeroByte(error.nul_position()));
    Some(or_raise(text))
}

fn text_or_raw<'a>(bytes: &'a [u8], wrap: impl FnOnce(&'a str) -> ValueRef<'a>) -> ValueRef<'a> {
    std::str::from_utf8(bytes).map_or(ValueRef::RawText(bytes), wrap)
}

fn type_name(oid: pg_sys::Oid) -> String {
    // SAFETY: the type exists; the answer is a C string in the current memory context.
    let name = unsafe { pg_sys::format_type_be(oid) };
    // SAFETY: as above.
    let name = unsafe { CStr::from_ptr(name) };
    name.to_string_lossy().into_owned()
}

#[expect(clippy::cast_possible_truncation, reason = "the datum of a short type is its low bytes")]
fn low_16(datum: Datum) -> i16 {
    (datum.value() as u16).cast_signed()
}

#[expect(clippy::cast_possible_truncation, reason = "the datum of a short type is its low bytes")]
fn low_32(datum: Datum) -> i32 {
    (datum.value() as u32).cast_signed()
}

fn all_64(datum: Datum) -> i64 {
    i64::try_from(datum.value().cast_signed()).expect("a datum has 8 bytes")
}

/// The bytes of a variable-length datum, expanded where it was compressed or stored elsewhere.
pub(super) fn bytes<'a>(datum: Datum) -> &'a [u8] {
    // SAFETY: only called for variable-length types.
    let plain = unsafe { pg_sys::pg_detoast_datum_packed(datum.cast_mut_ptr()) };
    // SAFETY: plain and valid; lives as long as the datum or the current memory context.
    unsafe { pgrx::varlena::varlena_to_byte_slice(plain) }
}

fn varlena(bytes: &[u8]) -> Datum {
    let length = i32::try_from(bytes.len()).expect("a value is below 1 GiB: see DESIGN section 15");
    // SAFETY: the server copies the bytes; text and bytea have the same layout.
    let text = unsafe { pg_sys::cstring_to_text_with_len(bytes.as_ptr().cast(), length) };
    Datum::from(text)
}

fn uuid(datum: Datum) -> [u8; 16] {
    let at: *const [u8; 16] = datum.cast_mut_ptr();
    // SAFETY: a uuid datum points at 16 bytes.
    unsafe { *at }
}

/// Makes a uuid datum in the current memory context.
fn uuid_datum(bytes: [u8; 16]) -> Datum {
    // SAFETY: allocates as many bytes as are written below.
    let at = unsafe { pg_sys::palloc(bytes.len()) }.cast::<[u8; 16]>();
    // SAFETY: as above.
    unsafe { at.write(bytes) };
    Datum::from(at)
}

/// Reads the usual spelling of a uuid: 36 characters. The type's input function knows the others.
fn uuid_of(text: &str) -> Option<[u8; 16]> {
    const HYPHENS: [usize; 4] = [8, 13, 18, 23];
    let text: &[u8; 36] = text.as_bytes().try_into().ok()?;
    let (mut bytes, mut digits) = ([0_u8; 16], 0_usize);
    for (at, character) in text.iter().enumerate() {
        if HYPHENS.contains(&at) {
            if *character != b'-' {
                return None;
            }
            continue;
        }
        let digit = u8::try_from(char::from(*character).to_digit(16)?).ok()?;
        let byte = bytes.get_mut(digits / 2)?;
        *byte = (*byte << 4) | digit;
        digits = digits.saturating_add(1);
    }
    Some(bytes)
}

/// The text form of a datum of any type.
pub(crate) fn printed(type_oid: pg_sys::Oid, datum: Datum) -> String {
    let (mut output, mut is_varlena) = (pg_sys::InvalidOid, false);
    // SAFETY: the type exists: an argument of a running call has it. Both are valid for writing.
    unsafe { pg_sys::getTypeOutputInfo(type_oid, &raw mut output, &raw mut is_varlena) };
    // SAFETY: the function is the type's own output function.
    let text = unsafe { pg_sys::OidOutputFunctionCall(output, datum) };
    // SAFETY: output functions return a C string in the current memory context.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// Makes a bytea datum in the current memory context.
pub(crate) fn bytea(bytes: &[u8]) -> Datum {
    varlena(bytes)
}

/// Makes a text datum in the current memory context.
pub(crate) fn text(text: &str) -> Datum {
    varlena(text.as_bytes())
}

/// Copies the bytes of a text or bytea datum.
pub(crate) fn to_bytes(datum: Datum) -> Vec<u8> {
    bytes(datum).to_vec()
}

/// Copies a text datum.
pub(crate) fn to_text(datum: Datum) -> String {
    String::from_utf8_lossy(bytes(datum)).into_owned()
}

/// Reads a bigint datum.
pub(crate) fn to_i64(datum: Datum) -> i64 {
    all_64(datum)
}

/// Reads an integer datum.
pub(crate) fn to_i32(datum: Datum) -> i32 {
    low_32(datum)
}

/// Reads a smallint datum.
pub(crate) fn to_i16(datum: Datum) -> i16 {
    low_16(datum)
}

/// Reads a boolean datum.
pub(crate) fn to_bool(datum: Datum) -> bool {
    datum.value() & 1 == 1
}
