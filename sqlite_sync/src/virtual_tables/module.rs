//! The edge to SQLite's virtual tables: what a table lists is safe code behind [`Listing`]; here its rows pass
//! to SQLite, and neither a panic nor a statement of ours stays behind.

#![allow(unsafe_code)]

use std::borrow::Cow;
use std::ffi::{CStr, c_int};
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};

use rusqlite::vtab::{Context, Filters, IndexInfo, Module, VTab, VTabConfig, VTabConnection, VTabCursor};
use rusqlite::{Connection, ffi, vtab};
use shared_format::Value;

use crate::error::{Doing, Error, Result};
use crate::sql::Bind;

/// Rows of a virtual table that can only be read.
pub(super) trait Listing: Sized + 'static {
    /// The name in SQL.
    const NAME: &'static CStr;
    /// `create table x (...)`: columns and, hidden, arguments.
    const DECLARATION: &'static CStr;

    /// Chooses the constraints that [`Listing::begin`] is given; `Ok(false)` is a plan that cannot be carried out.
    fn plan(info: &mut IndexInfo) -> rusqlite::Result<bool>;

    /// Begins with the plan's number and the values of its constraints.
    fn begin(connection: &Connection, plan: c_int, constraints: &[Value]) -> Result<Self>;

    /// The next row, one value a column.
    fn next_row(&mut self, connection: &Connection) -> Result<Option<Vec<Value>>>;
}

/// Registers a listing as an eponymous table of a connection.
pub(super) fn register<L: Listing>(connection: &Connection) -> rusqlite::Result<()> {
    connection.create_module(L::NAME, const { &Module::<'static, Table<L>>::eponymous_only_module() }, None)
}

/// One use of a listing in a connection.
#[repr(C)]
struct Table<L> {
    base: vtab::sqlite3_vtab,
    handle: *mut ffi::sqlite3,
    listing: PhantomData<L>,
}

/// One walk through a listing.
#[repr(C)]
struct Cursor<L> {
    base: vtab::sqlite3_vtab_cursor,
    handle: *mut ffi::sqlite3,
    listing: Option<L>,
    row: Option<Vec<Value>>,
    rowid: i64,
}

// SAFETY: the first field is SQLite's own part, and the layout is C's.
unsafe impl<L: Listing> VTab<'_> for Table<L> {
    type Aux = ();
    type Cursor = Cursor<L>;

    fn connect(
        db: &mut VTabConnection,
        _aux: Option<&()>,
        _module: &[u8],
        _database: &[u8],
        _table: &[u8],
        _arguments: &[&[u8]],
    ) -> rusqlite::Result<(Cow<'static, CStr>, Self)> {
        db.config(VTabConfig::DirectOnly)?;
        // SAFETY: the handle outlives the table, which SQLite disconnects before it closes the connection.
        let handle = unsafe { db.handle() };
        let table = Self { base: vtab::sqlite3_vtab::default(), handle, listing: PhantomData };
        Ok((Cow::Borrowed(L::DECLARATION), table))
    }

    fn best_index(&self, info: &mut IndexInfo) -> rusqlite::Result<bool> {
        guarded(|| Ok(L::plan(info)?)).map_err(rusqlite::Error::from)
    }

    fn open(&mut self) -> rusqlite::Result<Cursor<L>> {
        Ok(Cursor {
            base: vtab::sqlite3_vtab_cursor::default(),
            handle: self.handle,
            listing: None,
            row: None,
            rowid: 0,
        })
    }
}

impl<L: Listing> Cursor<L> {
    /// The connection for the time of one call; what it prepared ends with it.
    fn connection(&self) -> Result<Connection> {
        // SAFETY: SQLite calls cursors while the connection is open, on its own thread.
        unsafe { Connection::from_handle(self.handle) }.doing("reach the connection")
    }

    fn advance(&mut self) -> Result<()> {
        let connection = self.connection()?;
        let listing = self.listing.as_mut();
        self.row = guarded(|| listing.map_or(Ok(None), |listing| listing.next_row(&connection)))?;
        self.rowid += 1;
        Ok(())
    }
}

// SAFETY: the first field is SQLite's own part, and the layout is C's.
unsafe impl<L: Listing> VTabCursor for Cursor<L> {
    fn filter(&mut self, plan: c_int, _name: Option<&str>, arguments: &Filters<'_>) -> rusqlite::Result<()> {
        let constraints: Vec<Value> = arguments.iter().map(crate::sql::owned).collect();
        let connection = self.connection()?;
        self.rowid = 0;
        self.row = None;
        self.listing = Some(guarded(|| L::begin(&connection, plan, &constraints))?);
        Ok(self.advance()?)
    }

    fn next(&mut self) -> rusqlite::Result<()> {
        Ok(self.advance()?)
    }

    fn eof(&self) -> bool {
        self.row.is_none()
    }

    fn column(&self, context: &mut Context, at: c_int) -> rusqlite::Result<()> {
        let value = usize::try_from(at).ok().and_then(|at| self.row.as_ref()?.get(at));
        context.set_result(&Bind(value.map_or(shared_format::ValueRef::Null, Value::as_ref)))
    }

    fn rowid(&self) -> rusqlite::Result<i64> {
        Ok(self.rowid)
    }
}

/// Runs `body` so that no panic crosses into C, where rusqlite has no guard of its own.
fn guarded<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(Err(Error::Panicked))
}
