//! What happens when the server loads the library.

use std::ffi::c_void;
use std::ptr;

use pgrx::{pg_guard, pg_sys};

use crate::edge::{confine, session};
use crate::{plan, stage};

pgrx::pg_module_magic!(name, version);

/// Called once in each session that uses the library.
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    confine::start();
    // SAFETY: the callback is a function of this library, which is never unloaded.
    unsafe { pg_sys::RegisterSubXactCallback(Some(subtransaction_ended), ptr::null_mut()) };
    // SAFETY: as above.
    unsafe { pg_sys::CacheRegisterRelcacheCallback(Some(relation_changed), pg_sys::Datum::null()) };
    let roles = i32::try_from(pg_sys::SysCacheIdentifier::AUTHOID).expect("numbers of caches are small");
    // SAFETY: as above.
    unsafe { pg_sys::CacheRegisterSyscacheCallback(roles, Some(role_changed), pg_sys::Datum::null()) };
}

#[pg_guard]
unsafe extern "C-unwind" fn relation_changed(_argument: pg_sys::Datum, relation: pg_sys::Oid) {
    plan::relation_changed(relation);
}

#[pg_guard]
unsafe extern "C-unwind" fn role_changed(_argument: pg_sys::Datum, _cache: i32, _hash: u32) {
    session::role_changed();
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
