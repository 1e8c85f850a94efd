//! A temporary file of the server: what a transaction keeps that is too much for its memory. It lies where the server's
//! other temporary files do, counts for `temp_file_limit`, and goes when the transaction ends.

use std::ffi::c_void;
use std::ptr::NonNull;

use pgrx::pg_sys;

use super::session;
use crate::error::SyncError;

/// Pieces of bytes, written one after the other, of one transaction.
pub(crate) struct Spool {
    file: NonNull<pg_sys::BufFile>,
    /// The transaction: in another one the file is gone.
    xid: u64,
    lengths: Vec<usize>,
}

impl Spool {
    /// Makes one for this transaction.
    pub(crate) fn new() -> Result<Self, SyncError> {
        // SAFETY: reads a global of this session.
        let owner = unsafe { pg_sys::CurrentResourceOwner };
        // SAFETY: reads a global of this session, which is set in a transaction.
        let top_owner = unsafe { pg_sys::TopTransactionResourceOwner };
        // SAFETY: reads a global of this session, which is set in a transaction.
        let top_memory = unsafe { pg_sys::TopTransactionContext };
        // SAFETY: put back below; whoever raises meanwhile aborts, which sets it.
        unsafe { pg_sys::CurrentResourceOwner = top_owner };
        // SAFETY: the same.
        let memory = unsafe { pg_sys::MemoryContextSwitchTo(top_memory) };
        // SAFETY: the file belongs to the transaction now, not to the statement.
        let file = unsafe { pg_sys::BufFileCreateTemp(false) };
        // SAFETY: puts back what was current.
        unsafe { pg_sys::MemoryContextSwitchTo(memory) };
        // SAFETY: puts back what was current.
        unsafe { pg_sys::CurrentResourceOwner = owner };
        let file = NonNull::new(file).ok_or(SyncError::Spool)?;
        Ok(Self { file, xid: session::top_xid(), lengths: Vec::new() })
    }

    /// Whether it is of this transaction.
    pub(crate) fn is_current(&self) -> bool {
        self.xid == session::top_xid()
    }

    /// Writes a piece behind the others.
    pub(crate) fn push(&mut self, piece: &[u8]) {
        assert!(self.is_current(), "a spool is used in its own transaction");
        let from = piece.as_ptr().cast_mut().cast::<c_void>();
        // SAFETY: the file is open until its transaction ends, and the server only reads the piece.
        unsafe { pg_sys::BufFileWrite(self.file.as_ptr(), from, piece.len()) };
        self.lengths.push(piece.len());
    }

    /// Hands over the pieces in their order, one at a time.
    pub(crate) fn for_each(
        &self,
        mut each: impl FnMut(&[u8]) -> Result<(), SyncError>,
    ) -> Result<(), SyncError> {
        assert!(self.is_current(), "a spool is used in its own transaction");
        // SAFETY: the file is open; 0 is SEEK_SET.
        if unsafe { pg_sys::BufFileSeek(self.file.as_ptr(), 0, 0, 0) } != 0 {
            return Err(SyncError::Spool);
        }
        let mut piece = Vec::new();
        for length in &self.lengths {
            piece.resize(*length, 0);
            let (file, to) = (self.file.as_ptr(), piece.as_mut_ptr());
            // SAFETY: the file is open, and the piece has room for as many bytes.
            let read = unsafe { pg_sys::BufFileRead(file, to.cast::<c_void>(), piece.len()) };
            if read != *length {
                return Err(SyncError::Spool);
            }
            each(&piece)?;
        }
        Ok(())
    }

    /// Closes it before its transaction ends, which it has to be when that is committed. The abort closes it itself.
    pub(crate) fn close(self) {
        if self.is_current() {
            // SAFETY: the file is open until its transaction ends.
            unsafe { pg_sys::BufFileClose(self.file.as_ptr()) };
        }
    }
}
