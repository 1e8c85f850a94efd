//! Runs SQL by SPI. Rows that go in are a named relation of one statement; rows that come out are copied into
//! the caller's memory context.

use std::ffi::CString;

use pgrx::PgTupleDesc;
use pgrx::pg_sys;
use pgrx::pg_sys::Datum;

use super::tuple::{self, Tuple};
use super::{codec, plans, session};

/// A parameter of a statement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Argument {
    type_oid: pg_sys::Oid,
    value: Option<Datum>,
}

impl Argument {
    /// A value of any type.
    pub(crate) fn of(type_oid: pg_sys::Oid, value: Option<Datum>) -> Self {
        Self { type_oid, value }
    }

    /// A bigint.
    pub(crate) fn bigint(value: i64) -> Self {
        Self::of(pg_sys::INT8OID, Some(Datum::from(value)))
    }

    /// An integer.
    pub(crate) fn integer(value: i32) -> Self {
        Self::of(pg_sys::INT4OID, Some(Datum::from(value)))
    }

    /// An oid.
    pub(crate) fn oid(value: pg_sys::Oid) -> Self {
        Self::of(pg_sys::OIDOID, Some(Datum::from(value)))
    }

    /// A text.
    pub(crate) fn text(value: &str) -> Self {
        Self::of(pg_sys::TEXTOID, Some(codec::text(value)))
    }

    /// A text, or null.
    pub(crate) fn optional_text(value: Option<&str>) -> Self {
        Self::of(pg_sys::TEXTOID, value.map(codec::text))
    }

    /// A boolean.
    pub(crate) fn boolean(value: bool) -> Self {
        Self::of(pg_sys::BOOLOID, Some(Datum::from(value)))
    }

    /// A bytea.
    pub(crate) fn bytea(value: &[u8]) -> Self {
        Self::of(pg_sys::BYTEAOID, Some(codec::bytea(value)))
    }
}

/// A column of a relation that is passed in.
#[derive(Clone, Debug)]
pub(crate) struct InputColumn {
    /// Its name in the statement.
    pub(crate) name: String,
    /// Its type.
    pub(crate) type_oid: pg_sys::Oid,
    /// Its collation; the invalid oid for the type's own.
    pub(crate) collation: pg_sys::Oid,
}

/// Rows that a statement reads under the name `cloudsync_rows`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Input {
    /// Its columns.
    pub(crate) columns: Vec<InputColumn>,
    /// Its rows, one datum per column.
    pub(crate) rows: Vec<Vec<Option<Datum>>>,
}

/// What a statement gave back.
#[derive(Clone, Debug, Default)]
pub(crate) struct Output {
    /// Its rows; empty for statements without a result.
    pub(crate) rows: Vec<Tuple>,
    /// Rows returned or written.
    pub(crate) count: u64,
}

impl Output {
    /// First column of the first row.
    pub(crate) fn first(&self) -> Option<Datum> {
        self.rows.first()?.attribute(1)
    }
}

/// Runs a statement with parameters.
pub(crate) fn run(sql: &str, arguments: &[Argument]) -> Output {
    execute(sql, arguments, None, false)
}

/// Runs a statement that reads rows of ours.
pub(crate) fn run_with_rows(sql: &str, arguments: &[Argument], input: &Input) -> Output {
    execute(sql, arguments, Some(input), false)
}

/// Runs a statement that only reads: what is committed now, and what this transaction has done. A transaction that is
/// repeatable or serializable would else see what was there at its beginning.
pub(crate) fn look(sql: &str, arguments: &[Argument]) -> Output {
    session::with_newest_snapshot(|| execute(sql, arguments, None, true))
}

/// Runs a statement that only reads, in the snapshot of the calling statement.
pub(crate) fn read(sql: &str, arguments: &[Argument]) -> Output {
    execute(sql, arguments, None, true)
}

/// The same, for a statement that also reads rows of ours.
pub(crate) fn read_with_rows(sql: &str, arguments: &[Argument], input: &Input) -> Output {
    execute(sql, arguments, Some(input), true)
}

/// A connection to SPI; an error leaves the closing to the transaction's abort.
struct Spi;

impl Spi {
    fn connect() -> Self {
        // SAFETY: closed below, or by the abort.
        let code = unsafe { pg_sys::SPI_connect() };
        assert!(code >= 0, "SPI accepts connections: {code}");
        Self
    }
}

impl Drop for Spi {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: closes what `connect` opened.
            unsafe { pg_sys::SPI_finish() };
        }
    }
}

/// A relation registered with the open SPI connection. The boxed parts have to outlive the statement.
struct Registered {
    _relation: Box<pg_sys::EphemeralNamedRelationData>,
    _name: CString,
    store: *mut pg_sys::Tuplestorestate,
}

impl Drop for Registered {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: made by `register`, and the statement is over.
            unsafe { pg_sys::tuplestore_end(self.store) };
        }
    }
}

fn shape_of(columns: &[InputColumn]) -> pg_sys::TupleDesc {
    let count = i32::try_from(columns.len()).expect("a table has at most 1,600 columns");
    // SAFETY: the count is that of the columns filled in below.
    let shape = unsafe { pg_sys::CreateTemplateTupleDesc(count) };
    for (number, column) in (1_i16..).zip(columns) {
        let name = CString::new(column.name.as_str()).expect("our column names have no NUL");
        // SAFETY: the number is within the shape; the name is copied.
        unsafe { pg_sys::TupleDescInitEntry(shape, number, name.as_ptr(), column.type_oid, -1, 0) };
        if column.collation != pg_sys::InvalidOid {
            // SAFETY: the entry was filled in above.
            unsafe { pg_sys::TupleDescInitEntryCollation(shape, number, column.collation) };
        }
    }
    shape
}

fn register(input: &Input) -> Registered {
    // The rows are in memory already: what a payload may expand to, see DESIGN section 15.
    const WORK_KIB: i32 = 65_536;
    let shape = shape_of(&input.columns);
    // SAFETY: ended by the drop, or with its memory context.
    let store = unsafe { pg_sys::tuplestore_begin_heap(false, false, WORK_KIB) };
    let (mut datums, mut nulls) = (Vec::new(), Vec::new());
    for row in &input.rows {
        assert_eq!(row.len(), input.columns.len(), "a row has a value for each column");
        datums.clear();
        datums.extend(row.iter().map(|value| value.unwrap_or(Datum::null())));
        nulls.clear();
        nulls.extend(row.iter().map(Option::is_none));
        // SAFETY: a row has one datum of the right type per column; the store copies them.
        unsafe { pg_sys::tuplestore_putvalues(store, shape, datums.as_mut_ptr(), nulls.as_mut_ptr()) };
    }
    let name = CString::new("cloudsync_rows").expect("the name has no NUL");
    let rows = u32::try_from(input.rows.len()).unwrap_or(u32::MAX);
    let mut relation = Box::new(pg_sys::EphemeralNamedRelationData {
        md: pg_sys::EphemeralNamedRelationMetadataData {
            name: name.as_ptr().cast_mut(),
            reliddesc: pg_sys::InvalidOid,
            tupdesc: shape,
            enrtype: pg_sys::EphemeralNameRelationType::ENR_NAMED_TUPLESTORE,
            enrtuples: f64::from(rows),
        },
        reldata: store.cast(),
    });
    // SAFETY: the boxed relation outlives the connection's statement.
    let code = unsafe { pg_sys::SPI_register_relation(&raw mut *relation) };
    assert!(code >= 0, "SPI accepts the relation: {code}");
    Registered { _relation: relation, _name: name, store }
}

fn execute(sql: &str, arguments: &[Argument], input: Option<&Input>, read_only: bool) -> Output {
    let spi = Spi::connect();
    let registered = input.map(register);
    let plan = plans::prepared(sql, arguments.iter().map(|argument| argument.type_oid), input);
    let mut values: Vec<Datum> =
        arguments.iter().map(|argument| argument.value.unwrap_or(Datum::null())).collect();
    let nulls: Vec<i8> = arguments
        .iter()
        .map(|argument| if argument.value.is_none() { b'n' } else { b' ' }.cast_signed())
        .collect();
    // SAFETY: the plan lives as long as `plan`; the arrays have an entry per parameter each, and outlive the call.
    let code = unsafe {
        pg_sys::SPI_execute_plan(plan.pointer(), values.as_mut_ptr(), nulls.as_ptr(), read_only, 0)
    };
    assert!(code >= 0, "SPI runs the statement: {code}");
    let output = collect();
    drop(plan);
    drop(registered);
    drop(spi);
    output
}

/// Copies the result of the statement that ran last into the context that was current at the connect.
fn collect() -> Output {
    // SAFETY: reads a global of this session.
    let count = unsafe { pg_sys::SPI_processed };
    // SAFETY: as above.
    let table = unsafe { pg_sys::SPI_tuptable };
    if table.is_null() {
        return Output { rows: Vec::new(), count };
    }
    // SAFETY: not null, set by the statement.
    let shape = unsafe { (*table).tupdesc };
    // SAFETY: the shape lives until the connection ends.
    let shape = unsafe { PgTupleDesc::from_pg_unchecked(shape) };
    // SAFETY: as above.
    let tuples = unsafe { (*table).vals };
    let total = usize::try_from(count).expect("a result fits memory");
    let mut rows = Vec::with_capacity(total);
    for at in 0..total {
        // SAFETY: the table has `count` tuples.
        let place = unsafe { tuples.add(at) };
        // SAFETY: as above.
        let tuple = unsafe { *place };
        // SAFETY: copies a valid tuple into the caller's context.
        let copy = unsafe { pg_sys::SPI_copytuple(tuple) };
        rows.push(tuple::deform(copy, &shape));
    }
    Output { rows, count }
}
