//! Functions of users do not run with the rights of our owner: where an index, a domain, a check or anything else of a
//! user's table brings one into what the owner reads, at its planning or at its execution, it runs with the rights of
//! its author, as if it were SECURITY DEFINER.
//!
//! The server asks for each function, when it looks it up, whether it wants to be told of its calls.

use std::cell::{Cell, RefCell};

use pgrx::{pg_guard, pg_sys};

use super::session;

/// What was in force before a function of a user began.
#[derive(Clone, Copy)]
struct Before {
    user: pg_sys::Oid,
    context: i32,
    guc_level: i32,
}

thread_local! {
    /// One entry for each running function that the server told of, innermost last; None where nothing was changed.
    static RUNNING: RefCell<Vec<Option<Before>>> = const { RefCell::new(Vec::new()) };
    /// Hooks that were there before ours.
    static NEEDED_BEFORE: Cell<pg_sys::needs_fmgr_hook_type> = const { Cell::new(None) };
    static CALLED_BEFORE: Cell<pg_sys::fmgr_hook_type> = const { Cell::new(None) };
}

/// Puts the hooks up, once for each session, when it loads the library.
pub(crate) fn start() {
    // SAFETY: a session has one thread.
    NEEDED_BEFORE.set(unsafe { pg_sys::needs_fmgr_hook });
    // SAFETY: as above.
    CALLED_BEFORE.set(unsafe { pg_sys::fmgr_hook });
    // SAFETY: a function of this library, which is never unloaded.
    unsafe { pg_sys::needs_fmgr_hook = Some(is_needed) };
    // SAFETY: as above.
    unsafe { pg_sys::fmgr_hook = Some(called) };
}

#[pg_guard]
unsafe extern "C-unwind" fn is_needed(function: pg_sys::Oid) -> bool {
    if let Some(before) = NEEDED_BEFORE.get() {
        // SAFETY: called as the server calls us.
        if unsafe { before(function) } {
            return true;
        }
    }
    author_to_be(function).is_some()
}

#[pg_guard]
unsafe extern "C-unwind" fn called(
    event: pg_sys::FmgrHookEventType::Type,
    function: *mut pg_sys::FmgrInfo,
    argument: *mut pg_sys::Datum,
) {
    if let Some(before) = CALLED_BEFORE.get() {
        // SAFETY: called as the server calls us.
        unsafe { before(event, function, argument) };
    }
    if event == pg_sys::FmgrHookEventType::FHET_START {
        // SAFETY: the server passes the function that it is about to call.
        let oid = unsafe { (*function).fn_oid };
        let before = author_to_be(oid).map(begin);
        RUNNING.with_borrow_mut(|running| running.push(before));
        return;
    }
    // A function that loaded the library has no entry, nor have those around it.
    let Some(before) = RUNNING.with_borrow_mut(Vec::pop).flatten() else { return };
    if event == pg_sys::FmgrHookEventType::FHET_END {
        // SAFETY: closes the level that `begin` opened; after an error the abort does.
        unsafe { pg_sys::AtEOXact_GUC(false, before.guc_level) };
    }
    // SAFETY: puts back what `begin` found.
    unsafe { pg_sys::SetUserIdAndSecContext(before.user, before.context) };
}

/// Lets the author's rights count, as the server does for what an index computes.
fn begin(author: pg_sys::Oid) -> Before {
    let (mut user, mut context) = (pg_sys::InvalidOid, 0);
    // SAFETY: both are valid for writing.
    unsafe { pg_sys::GetUserIdAndSecContext(&raw mut user, &raw mut context) };
    // SAFETY: opens a level that the end of the function, or the abort, closes.
    let guc_level = unsafe { pg_sys::NewGUCNestLevel() };
    let bits = pg_sys::SECURITY_LOCAL_USERID_CHANGE | pg_sys::SECURITY_RESTRICTED_OPERATION;
    // SAFETY: the oid is that of a role.
    unsafe { pg_sys::SetUserIdAndSecContext(author, (context.cast_unsigned() | bits).cast_signed()) };
    Before { user, context, guc_level }
}

/// The author of a function, when our owner's rights count now and he may not have them anyway.
fn author_to_be(function: pg_sys::Oid) -> Option<pg_sys::Oid> {
    let owner = session::known_owner();
    if owner == pg_sys::InvalidOid || session::current_user() != owner {
        return None;
    }
    let author = author_of(function)?;
    // SAFETY: reads the catalog.
    let is_trusted = author == owner || unsafe { pg_sys::superuser_arg(author) };
    (!is_trusted).then_some(author)
}

fn author_of(function: pg_sys::Oid) -> Option<pg_sys::Oid> {
    let cache = i32::try_from(pg_sys::SysCacheIdentifier::PROCOID).ok()?;
    // SAFETY: looks the row up by its key; released below.
    let row = unsafe { pg_sys::SearchSysCache1(cache, function.into()) };
    if row.is_null() {
        return None;
    }
    // SAFETY: a row of pg_proc begins with this struct.
    let found = unsafe { pg_sys::GETSTRUCT(row) }.cast::<pg_sys::FormData_pg_proc>();
    // SAFETY: as above.
    let author = unsafe { (*found).proowner };
    // SAFETY: found above.
    unsafe { pg_sys::ReleaseSysCache(row) };
    Some(author)
}
