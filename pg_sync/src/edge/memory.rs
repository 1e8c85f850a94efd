//! A memory context of our own, for datums that outlive the statement that showed them.

use std::ffi::CStr;

use pgrx::pg_sys;

/// A memory context, deleted when dropped, or with the one that was current when it was made.
pub(crate) struct Context(pg_sys::MemoryContext);

impl Context {
    /// Makes one below the current context.
    pub(crate) fn new(name: &'static CStr) -> Self {
        // SAFETY: reads a global of this session.
        let parent = unsafe { pg_sys::CurrentMemoryContext };
        let (min, initial, max) = (0, 8 * 1024, 8 * 1024 * 1024);
        // SAFETY: the name is static, as the server wants it.
        let context =
            unsafe { pg_sys::AllocSetContextCreateExtended(parent, name.as_ptr(), min, initial, max) };
        Self(context)
    }

    /// Makes one that outlives the transaction.
    pub(crate) fn lasting(name: &'static CStr) -> Self {
        // SAFETY: reads a global of this session.
        let parent = unsafe { pg_sys::TopMemoryContext };
        // SAFETY: put back below.
        let before = unsafe { pg_sys::MemoryContextSwitchTo(parent) };
        let context = Self::new(name);
        // SAFETY: puts back what was current.
        unsafe { pg_sys::MemoryContextSwitchTo(before) };
        context
    }

    /// Frees all that was made in it.
    pub(crate) fn reset(&self) {
        // SAFETY: nothing that was made in it is used again: it holds what callers need for one row.
        unsafe { pg_sys::MemoryContextReset(self.0) };
    }

    /// Runs `body` with this context current; whoever catches an error goes back to a context of its own.
    pub(crate) fn run<T>(&self, body: impl FnOnce() -> T) -> T {
        // SAFETY: the context lives as long as `self`.
        let before = unsafe { pg_sys::MemoryContextSwitchTo(self.0) };
        let result = body();
        // SAFETY: puts back what was current.
        unsafe { pg_sys::MemoryContextSwitchTo(before) };
        result
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // After an error the abort deletes it with its parent.
        if !std::thread::panicking() {
            // SAFETY: made by `new`, deleted once.
            unsafe { pg_sys::MemoryContextDelete(self.0) };
        }
    }
}
