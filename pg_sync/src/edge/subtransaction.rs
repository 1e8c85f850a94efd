//! Internal savepoints: what fails inside is rolled back alone, and told with its SQLSTATE.

use std::cell::Cell;
use std::ffi::c_void;
use std::panic::AssertUnwindSafe;
use std::ptr;

use pgrx::pg_sys;
use pgrx::pg_sys::panic::CaughtError;

/// An error that a savepoint caught.
#[derive(Debug)]
pub(crate) struct Caught {
    /// Five characters.
    pub(crate) sqlstate: String,
    /// The server's primary message.
    pub(crate) message: String,
    error: Box<CaughtError>,
}

impl Caught {
    /// Whether trying again later may succeed: conflicts, locks, shutdown, resources, I/O.
    pub(crate) fn is_transient(&self) -> bool {
        matches!(self.sqlstate.as_str(), "40001" | "40P01" | "55P03" | "25P03" | "25006")
            || matches!(self.sqlstate.get(..2), Some("57" | "53" | "58" | "08"))
    }

    /// Raises it again.
    pub(crate) fn rethrow(self) -> ! {
        self.error.rethrow()
    }
}

thread_local! {
    /// SQLSTATE of the newest error report. pgrx turns a code that it does not know, such as a user's own,
    /// into XX000; the server's context callbacks see the real one.
    static REPORTED: Cell<i32> = const { Cell::new(0) };
}

unsafe extern "C-unwind" fn note_sqlstate(_argument: *mut c_void) {
    // SAFETY: called by the server while it builds an error report.
    let code = unsafe { pg_sys::geterrcode() };
    REPORTED.set(code);
}

/// Spells a packed SQLSTATE.
fn spell(code: i32) -> String {
    (0..5)
        .map(|place| {
            let six_bits = u8::try_from((code >> (6 * place)) & 0x3f).expect("six bits fit a byte");
            char::from(six_bits + b'0')
        })
        .collect()
}

fn caught(error: CaughtError) -> Caught {
    let (known, message) = match &error {
        CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => {
            (report.sql_error_code(), report.message().to_owned())
        }
        CaughtError::RustPanic { ereport, .. } => (ereport.sql_error_code(), ereport.message().to_owned()),
    };
    // The reports of pgrx hold the code of a known error; only for others is the noted one the truth.
    let noted = REPORTED.get();
    let internal = known == pgrx::PgSqlErrorCode::ERRCODE_INTERNAL_ERROR;
    let sqlstate = if internal && noted != 0 { spell(noted) } else { spell(known_code(known)) };
    Caught { sqlstate, message, error: Box::new(error) }
}

fn known_code(code: pgrx::PgSqlErrorCode) -> i32 {
    code as i32
}

/// Why a savepoint was rolled back.
#[derive(Debug)]
pub(crate) enum RolledBack<E> {
    /// The server, or the library, raised an error.
    Raised(Caught),
    /// The body gave up.
    GaveUp(E),
}

/// Runs `body` in a savepoint of its own. An error that it raises or returns rolls back to it.
pub(crate) fn subtransaction<T, E>(body: impl FnOnce() -> Result<T, E>) -> Result<T, RolledBack<E>> {
    // SAFETY: reads a global of this session.
    let context = unsafe { pg_sys::CurrentMemoryContext };
    // SAFETY: as above.
    let owner = unsafe { pg_sys::CurrentResourceOwner };
    // SAFETY: every path below releases it or rolls it back.
    unsafe { pg_sys::BeginInternalSubTransaction(ptr::null()) };
    // SAFETY: the context outlives the savepoint, so that results do too.
    unsafe { pg_sys::MemoryContextSwitchTo(context) };
    let result = noting_sqlstates(|| {
        pgrx::PgTryBuilder::new(AssertUnwindSafe(|| body().map_err(RolledBack::GaveUp)))
            .catch_others(|error| Err(RolledBack::Raised(caught(error))))
            .catch_rust_panic(|error| Err(RolledBack::Raised(caught(error))))
            .execute()
    });
    match &result {
        // SAFETY: ends the savepoint that was begun above; nested ones are closed by now.
        Ok(_) => unsafe { pg_sys::ReleaseCurrentSubTransaction() },
        // SAFETY: as above.
        Err(_) => unsafe { pg_sys::RollbackAndReleaseCurrentSubTransaction() },
    }
    // SAFETY: puts back what was found.
    unsafe { pg_sys::MemoryContextSwitchTo(context) };
    // SAFETY: as above.
    unsafe { pg_sys::CurrentResourceOwner = owner };
    result
}

/// Runs `body`, which lets no error out, with the SQLSTATE of every error report noted.
fn noting_sqlstates<T>(body: impl FnOnce() -> T) -> T {
    REPORTED.set(0);
    // SAFETY: reads a global of this session.
    let previous = unsafe { pg_sys::error_context_stack };
    let mut note =
        pg_sys::ErrorContextCallback { previous, callback: Some(note_sqlstate), arg: ptr::null_mut() };
    // SAFETY: the callback lives until it is taken off below.
    unsafe { pg_sys::error_context_stack = &raw mut note };
    let result = body();
    // SAFETY: takes off what was put on above.
    unsafe { pg_sys::error_context_stack = previous };
    result
}
