//! The edge to SQLite's C interface, and the only unsafe code here: the entry point that SQLite calls, the
//! connection behind a running function, and one status counter that rusqlite does not wrap.

#![allow(unsafe_code)]

use std::ffi::{c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};

use rusqlite::functions::{ConnectionRef, Context};
use rusqlite::{Connection, ffi};

use crate::error::{Doing, Error, Result};

/// Oldest SQLite that has RETURNING and the API of this build; an older one would abort inside the loader.
#[cfg(feature = "loadable")]
const HOST_VERSION_MIN: c_int = 3_035_000;

/// What SQLite calls when it loads the library, and what a program that links it calls for a connection.
///
/// # Safety
/// As of any SQLite extension: `db` is an open connection, `error` is NULL or may be written, `api` holds
/// the routines of the host. A program that links the library statically passes NULL for `api`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sqlite3_cloudsync_init(
    db: *mut ffi::sqlite3,
    error: *mut *mut c_char,
    api: *mut ffi::sqlite3_api_routines,
) -> c_int {
    // SAFETY: the three pointers are passed on as SQLite gave them.
    let entered = catch_unwind(AssertUnwindSafe(|| unsafe { enter(db, error, api) }));
    entered.unwrap_or(ffi::SQLITE_INTERNAL)
}

#[cfg(feature = "loadable")]
unsafe fn enter(
    db: *mut ffi::sqlite3,
    error: *mut *mut c_char,
    api: *mut ffi::sqlite3_api_routines,
) -> c_int {
    // SAFETY: SQLite passes its routines, which live as long as the process.
    let Some(routines) = (unsafe { api.as_ref() }) else { return ffi::SQLITE_ERROR };
    // SAFETY: the routine takes nothing and only returns a number.
    let found = routines.libversion_number.map_or(0, |version| unsafe { version() });
    if found < HOST_VERSION_MIN {
        let text = c"cloudsync: SQLite of the host is %d, wanted 3035000 (3.35.0) or newer";
        if let Some(print) = routines.mprintf.filter(|_| !error.is_null()) {
            // SAFETY: the format has one place for an int, and one int is passed.
            let message = unsafe { print(text.as_ptr(), found) };
            // SAFETY: `error` is not NULL; SQLite frees what its own mprintf made.
            unsafe { *error = message };
        }
        return ffi::SQLITE_ERROR;
    }
    // SAFETY: pointers as SQLite gave them; `init` registers functions and nothing else that outlives it.
    unsafe { Connection::extension_init2(db, error, api, |connection| init(&connection)) }
}

#[cfg(not(feature = "loadable"))]
unsafe fn enter(
    db: *mut ffi::sqlite3,
    _error: *mut *mut c_char,
    _api: *mut ffi::sqlite3_api_routines,
) -> c_int {
    // SAFETY: the caller promises an open connection; the wrapper does not close it.
    let connection = unsafe { Connection::from_handle(db) };
    match connection.and_then(|connection| init(&connection)) {
        Ok(_stays) => ffi::SQLITE_OK,
        Err(error) => Error::from(error).result_code(),
    }
}

/// Registers the functions. The library stays loaded: a request that was given up runs on in it.
fn init(connection: &Connection) -> rusqlite::Result<bool> {
    crate::register(connection)?;
    Ok(true)
}

/// The connection that a function runs on. Its statements end with it, so `sqlite3_close` never finds any.
pub(crate) fn connection<'c>(context: &'c Context<'_>) -> Result<ConnectionRef<'c>> {
    // SAFETY: the wrapper is used on this thread and dropped before the function returns.
    let connection = unsafe { context.get_connection() }.doing("reach the connection")?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(connection)
}

/// Statements kept ready during one call: a few per table.
const STATEMENTS: usize = 128;

/// Whether deferred foreign keys of the open transaction are not satisfied.
pub(crate) fn foreign_keys_open(connection: &Connection) -> Result<bool> {
    let mut current: c_int = 0;
    let mut highest: c_int = 0;
    // SAFETY: the handle is used for one call while the connection is borrowed.
    let handle = unsafe { connection.handle() };
    // SAFETY: an open connection, and two numbers that may be written.
    let code = unsafe {
        ffi::sqlite3_db_status(handle, ffi::SQLITE_DBSTATUS_DEFERRED_FKS, &mut current, &mut highest, 0)
    };
    if code != ffi::SQLITE_OK {
        let source = rusqlite::Error::SqliteFailure(ffi::Error::new(code), None);
        return Err(Error::Sqlite { action: "read the state of foreign keys", source });
    }
    Ok(current != 0)
}
