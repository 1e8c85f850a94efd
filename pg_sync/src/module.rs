//! What happens when the server loads the library.

use std::ffi::c_void;
use std::ptr;

use pgrx::{pg_guard, pg_sys};

use crate::stage;

pgrx::pg_module_magic!(name, version);

/// Called once in each session that uses the library.
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    // SAFETY: the callback is a function of this library, which is never unloaded.
    unsafe { pg_sys::RegisterSubXactCallback(Some(subtransaction_ended), ptr::null_mut()) };
}

#[pg_guard]
unsafe extern "C-unwind" fn subtransaction_ended(
    event: pg_sys::SubXactEvent::Type,
    id: pg_sys::SubTransactionId,
    _parent: pg_sys::SubTransactionId,
    _argument: *mut c_void,
) {
    if event == pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB {
        stage::subtransaction_aborted(id);
    }
}
