//! Rows as arrays of datums, and the arrays that capture hands over.

use pgrx::PgTupleDesc;
use pgrx::pg_sys;
use pgrx::pg_sys::Datum;

/// A row taken apart. Its datums live as long as the tuple.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tuple {
    /// One entry per attribute, dropped ones too.
    pub(crate) values: Vec<Option<Datum>>,
    /// Type of each attribute.
    pub(crate) types: Vec<pg_sys::Oid>,
}

impl Tuple {
    /// Value of the attribute with this number, counted from 1.
    pub(crate) fn attribute(&self, number: i16) -> Option<Datum> {
        self.values.get(index(number)?).copied().flatten()
    }

    /// Type of the attribute with this number.
    pub(crate) fn attribute_type(&self, number: i16) -> Option<pg_sys::Oid> {
        self.types.get(index(number)?).copied()
    }
}

fn index(number: i16) -> Option<usize> {
    usize::try_from(number).ok()?.checked_sub(1)
}

/// Takes a composite datum apart.
pub(crate) fn from_record(record: Datum) -> Tuple {
    // SAFETY: callers pass datums of composite types only.
    let header =
        unsafe { pg_sys::pg_detoast_datum(record.cast_mut_ptr()) }.cast::<pg_sys::HeapTupleHeaderData>();
    // SAFETY: a composite datum begins with this header.
    let fields = unsafe { (*header).t_choice };
    // SAFETY: in a datum, unlike in a stored tuple, the choice is this one.
    let fields = unsafe { fields.t_datum };
    // SAFETY: the type and modifier come from the datum itself.
    let shape = unsafe { pg_sys::lookup_rowtype_tupdesc(fields.datum_typeid, fields.datum_typmod) };
    // SAFETY: counted by the lookup; given back when dropped.
    let shape = unsafe { PgTupleDesc::from_pg(shape) };
    // SAFETY: the header holds the length of the whole datum.
    let length = unsafe { pgrx::varlena::varsize(header.cast()) };
    let mut tuple = pg_sys::HeapTupleData {
        t_len: u32::try_from(length).expect("a row is below 1 GiB"),
        t_self: pg_sys::ItemPointerData::default(),
        t_tableOid: pg_sys::InvalidOid,
        t_data: header,
    };
    deform(&raw mut tuple, &shape)
}

/// Takes a heap tuple apart.
pub(super) fn deform(tuple: pg_sys::HeapTuple, shape: &PgTupleDesc<'_>) -> Tuple {
    let count = shape.len();
    let mut datums = vec![Datum::null(); count];
    let mut nulls = vec![true; count];
    // SAFETY: both arrays have an entry per attribute of the shape that the tuple was made with.
    unsafe { pg_sys::heap_deform_tuple(tuple, shape.as_ptr(), datums.as_mut_ptr(), nulls.as_mut_ptr()) };
    let values = datums.into_iter().zip(nulls).map(|(datum, null)| (!null).then_some(datum)).collect();
    let types = shape.iter().map(|attribute| attribute.atttypid).collect();
    Tuple { values, types }
}

/// Value of an attribute, counted from 0, of a slot that `slot_getsomeattrs_int` has filled in as far as that.
pub(super) fn in_slot(slot: *mut pg_sys::TupleTableSlot, at: usize) -> Option<Datum> {
    // SAFETY: callers pass a slot of theirs that holds a row.
    let slot = unsafe { &*slot };
    // SAFETY: both arrays have an entry per attribute of the row.
    let is_null = unsafe { slot.tts_isnull.add(at) };
    // SAFETY: callers have had this entry filled in.
    if unsafe { *is_null } {
        return None;
    }
    // SAFETY: as above.
    let value = unsafe { slot.tts_values.add(at) };
    // SAFETY: as above.
    Some(unsafe { *value })
}

/// Type, length and alignment of the element types of our arrays.
struct Element {
    oid: pg_sys::Oid,
    length: i32,
    alignment: u8,
}

impl Element {
    fn is_by_value(&self) -> bool {
        self.length > 0
    }
}

const SMALLINT: Element = Element { oid: pg_sys::INT2OID, length: 2, alignment: b's' };
const TEXT: Element = Element { oid: pg_sys::TEXTOID, length: -1, alignment: b'i' };
const BOOLEAN: Element = Element { oid: pg_sys::BOOLOID, length: 1, alignment: b'c' };

fn elements(array: Datum, element: &Element) -> Vec<Option<Datum>> {
    // SAFETY: callers pass datums of array types only.
    let array = unsafe { pg_sys::pg_detoast_datum(array.cast_mut_ptr()) }.cast::<pg_sys::ArrayType>();
    let (mut values, mut nulls, mut count) = (std::ptr::null_mut(), std::ptr::null_mut(), 0);
    // SAFETY: the element type is that of the array; the results are written.
    unsafe {
        pg_sys::deconstruct_array(
            array,
            element.oid,
            element.length,
            element.is_by_value(),
            element.alignment.cast_signed(),
            &raw mut values,
            &raw mut nulls,
            &raw mut count,
        )
    };
    let count = usize::try_from(count).unwrap_or(0);
    if count == 0 {
        return Vec::new();
    }
    // SAFETY: the server allocated `count` entries.
    let values: &[Datum] = unsafe { std::slice::from_raw_parts(values, count) };
    // SAFETY: as above.
    let nulls: &[bool] = unsafe { std::slice::from_raw_parts(nulls, count) };
    values.iter().zip(nulls).map(|(value, null)| (!null).then_some(*value)).collect()
}

/// Bytes of an array of one dimension before its entries, or before the bits that say which of them are null: length,
/// dimensions, where the entries begin, their type, their count, the number of the first.
const ARRAY_HEAD: usize = 24;

/// Reads a `bigint[]` of at most one dimension.
pub(crate) fn to_i64s(array: Datum) -> Vec<Option<i64>> {
    // Without the length, which is shorter in a short array.
    let bytes = super::codec::bytes(array);
    let number = |at: usize| {
        let word = bytes.get(at..).and_then(<[u8]>::first_chunk).copied();
        word.and_then(|word| usize::try_from(i32::from_ne_bytes(word)).ok()).unwrap_or(0)
    };
    let (dimensions, begin, count) = (number(0), number(4), number(12));
    if dimensions == 0 {
        return Vec::new();
    }
    let head = ARRAY_HEAD - pg_sys::VARHDRSZ;
    let (nulls, begin) = match begin.checked_sub(pg_sys::VARHDRSZ) {
        Some(begin) => (bytes.get(head..begin).unwrap_or_default(), begin),
        None => (&[][..], head),
    };
    let mut entries = bytes.get(begin..).unwrap_or_default().chunks_exact(8);
    let is_null = |at: usize| nulls.get(at / 8).is_some_and(|bits| bits & (1 << (at % 8)) == 0);
    let mut entry = |at: usize| if is_null(at) { None } else { entries.next()?.first_chunk().copied() };
    (0..count).map(|at| entry(at).map(i64::from_ne_bytes)).collect()
}

/// Reads a `smallint[]` without nulls.
pub(crate) fn to_i16s(array: Datum) -> Vec<i16> {
    elements(array, &SMALLINT).into_iter().flatten().map(super::codec::to_i16).collect()
}

/// Reads a `boolean[]`; null is false.
pub(crate) fn to_bools(array: Datum) -> Vec<bool> {
    elements(array, &BOOLEAN).into_iter().map(|value| value.is_some_and(super::codec::to_bool)).collect()
}

fn make_array(values: &[Option<Datum>], element: &Element) -> Datum {
    let mut datums: Vec<Datum> = values.iter().map(|value| value.unwrap_or(Datum::null())).collect();
    let mut nulls: Vec<bool> = values.iter().map(Option::is_none).collect();
    let mut size = i32::try_from(values.len()).expect("a table has at most 1,600 columns");
    let mut lower = 1;
    // SAFETY: one dimension with an entry in both arrays each; the element type is that of the datums.
    let array = unsafe {
        pg_sys::construct_md_array(
            datums.as_mut_ptr(),
            nulls.as_mut_ptr(),
            1,
            &raw mut size,
            &raw mut lower,
            element.oid,
            element.length,
            element.is_by_value(),
            element.alignment.cast_signed(),
        )
    };
    Datum::from(array)
}

/// Reads a `text[]`, without its nulls.
pub(crate) fn to_texts(array: Datum) -> Vec<String> {
    elements(array, &TEXT).into_iter().flatten().map(super::codec::to_text).collect()
}

/// Makes a `text[]` in the current memory context.
pub(crate) fn texts(values: &[String]) -> Datum {
    make_array(&values.iter().map(|value| Some(super::codec::text(value))).collect::<Vec<_>>(), &TEXT)
}

/// Makes a `bigint[]` in the current memory context.
pub(crate) fn bigints(values: &[Option<i64>]) -> Datum {
    let count = i32::try_from(values.len()).expect("a table has at most 1,600 columns");
    let null_bytes = if values.contains(&None) { values.len().div_ceil(8) } else { 0 };
    let begin = (ARRAY_HEAD + null_bytes).next_multiple_of(8);
    let size = begin + 8 * values.iter().flatten().count();
    // SAFETY: allocates so many bytes.
    let array = unsafe { pg_sys::palloc0(size) }.cast::<u8>();
    // SAFETY: as above.
    let bytes = unsafe { std::slice::from_raw_parts_mut(array, size) };
    let (head, entries) = bytes.split_at_mut(begin);
    let offset = if null_bytes == 0 { 0 } else { i32::try_from(begin).unwrap_or(0) };
    let oid = i32::from_ne_bytes(pg_sys::INT8OID.to_u32().to_ne_bytes());
    for (word, number) in head.chunks_exact_mut(4).skip(1).zip([1, offset, oid, count, 1]) {
        word.copy_from_slice(&number.to_ne_bytes());
    }
    if let Some(bits) = head.get_mut(ARRAY_HEAD..ARRAY_HEAD + null_bytes) {
        for at in (0..).zip(values).filter(|(_, value)| value.is_some()).map(|(at, _): (usize, _)| at) {
            bits.get_mut(at / 8).into_iter().for_each(|bits| *bits |= 1 << (at % 8));
        }
    }
    for (entry, value) in entries.chunks_exact_mut(8).zip(values.iter().flatten()) {
        entry.copy_from_slice(&value.to_ne_bytes());
    }
    let length = i32::try_from(size).expect("an array of so few columns is small");
    // SAFETY: the array begins with its length.
    unsafe { pgrx::varlena::set_varsize_4b(array.cast(), length) };
    Datum::from(array)
}

/// Makes a `smallint[]` in the current memory context.
pub(crate) fn smallints(values: &[i16]) -> Datum {
    make_array(&values.iter().map(|value| Some(Datum::from(*value))).collect::<Vec<_>>(), &SMALLINT)
}

/// Makes a `boolean[]` in the current memory context.
pub(crate) fn booleans(values: &[bool]) -> Datum {
    make_array(&values.iter().map(|value| Some(Datum::from(*value))).collect::<Vec<_>>(), &BOOLEAN)
}

/// Makes the composite datum that the called function is declared to return.
pub(crate) fn to_result(call: pg_sys::FunctionCallInfo, values: &[Option<Datum>]) -> Datum {
    let mut shape = std::ptr::null_mut();
    // SAFETY: the call is the running one; the shape is written.
    unsafe { pg_sys::get_call_result_type(call, std::ptr::null_mut(), &raw mut shape) };
    // SAFETY: the function returns a composite type, so there is a shape.
    let shape = unsafe { pg_sys::BlessTupleDesc(shape) };
    let mut datums: Vec<Datum> = values.iter().map(|value| value.unwrap_or(Datum::null())).collect();
    let mut nulls: Vec<bool> = values.iter().map(Option::is_none).collect();
    // SAFETY: the callers pass a datum of the right type per attribute.
    let tuple = unsafe { pg_sys::heap_form_tuple(shape, datums.as_mut_ptr(), nulls.as_mut_ptr()) };
    // SAFETY: a formed tuple begins with a composite header.
    let header = unsafe { (*tuple).t_data };
    // SAFETY: as above.
    unsafe { pg_sys::HeapTupleHeaderGetDatum(header) }
}
