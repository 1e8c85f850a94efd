//! The version of the library beside that of the installed SQL: the library is replaced first, and until ALTER
//! EXTENSION UPDATE its tables may lack what it reads. Writes of users are captured then too, by the functions in
//! SQL, which know their own tables.

use std::cell::Cell;

use pgrx::pg_sys;

use crate::edge::codec;
use crate::edge::query;
use crate::edge::session;
use crate::error::SyncError;

/// The version of the library.
pub(crate) const LIBRARY: &str = env!("CARGO_PKG_VERSION");

thread_local! {
    /// The installation whose SQL was seen to be the library's.
    static CURRENT: Cell<Option<pg_sys::Oid>> = const { Cell::new(None) };
}

/// Whether the SQL is that of the library.
pub(crate) fn is_current() -> bool {
    check().is_ok()
}

/// Refuses work on tables of another version.
pub(crate) fn check() -> Result<(), SyncError> {
    let installation = Some(session::installation());
    if CURRENT.get() == installation {
        return Ok(());
    }
    let sql = "select e.extversion from pg_catalog.pg_extension as e \
               where e.extname operator(pg_catalog.=) 'pg_sync'";
    let installed = query::look(sql, &[]).first().map(codec::to_text).unwrap_or_default();
    if installed != LIBRARY {
        return Err(SyncError::Outdated { installed, library: LIBRARY });
    }
    CURRENT.set(installation);
    Ok(())
}
