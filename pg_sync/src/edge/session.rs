//! Who is running: user ids, settings, transaction ids, clocks, and the log.

use std::cell::Cell;
use std::ffi::{CStr, CString, c_char};

use pgrx::pg_sys;
use shared_format::MESSAGE_PREFIX;

use super::server;
use crate::error::SyncError;

/// The path under which we run as the owner: an empty one would let a temporary type shadow a built-in one.
const SEARCH_PATH: &CStr = c"pg_catalog, pg_temp";

/// Writes a transactional logical message with our prefix.
pub(crate) fn log_message(body: &[u8]) {
    let prefix = CString::new(MESSAGE_PREFIX).expect("the prefix has no NUL");
    let (prefix, message, size) = (prefix.as_ptr(), body.as_ptr().cast(), body.len());
    let write = || {
        #[cfg(not(any(feature = "pg17", feature = "pg18")))]
        // SAFETY: both pointers are valid for the length given, and the server copies them.
        unsafe {
            server::LogLogicalMessage(prefix, message, size, true)
        }
        #[cfg(any(feature = "pg17", feature = "pg18"))]
        // SAFETY: both pointers are valid for the length given, and the server copies them.
        unsafe {
            server::LogLogicalMessage(prefix, message, size, true, false)
        }
    };
    // SAFETY: the closure holds nothing that needs a drop, and cannot panic.
    unsafe { server::guarded(write) };
}

/// Full id of the running transaction, given one if it had none.
pub(crate) fn top_xid() -> u64 {
    // SAFETY: we run inside a transaction.
    unsafe { pg_sys::GetTopFullTransactionId() }.value
}

/// Bytes that nobody can guess.
pub(crate) fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // SAFETY: the buffer is N bytes long.
    let filled = unsafe { server::pg_strong_random(bytes.as_mut_ptr().cast(), N) };
    assert!(filled, "the operating system gives random bytes");
    bytes
}

/// Milliseconds since 1970 on this server's clock.
pub(crate) fn wall_ms() -> i64 {
    // Postgres counts microseconds from 2000-01-01, 946,684,800 seconds after 1970.
    // SAFETY: reads the clock.
    let micros = unsafe { pg_sys::GetCurrentTimestamp() };
    micros.div_euclid(1_000).saturating_add(946_684_800_000)
}

/// Identifies the running database among copies of it: system identifier, timeline, database oid.
pub(crate) fn identity() -> (u64, u32, pg_sys::Oid) {
    // SAFETY: reads what the server read at its start.
    let system = unsafe { pg_sys::GetSystemIdentifier() };
    #[cfg(not(feature = "pg14"))]
    // SAFETY: callers run in a transaction that writes, so not in recovery.
    let timeline = unsafe { pg_sys::GetWALInsertionTimeLine() };
    #[cfg(feature = "pg14")]
    // SAFETY: set at the server's start.
    let timeline = unsafe { pg_sys::ThisTimeLineID };
    // SAFETY: set when the session chose its database.
    let database = unsafe { pg_sys::MyDatabaseId };
    (system, timeline, database)
}

/// Runs `body` in a snapshot of what is committed now, and of what this transaction has done.
pub(crate) fn with_newest_snapshot<T>(body: impl FnOnce() -> T) -> T {
    // SAFETY: we run inside a transaction; the snapshot is copied by the push.
    let newest = unsafe { pg_sys::GetLatestSnapshot() };
    // SAFETY: popped below, or by the abort.
    unsafe { pg_sys::PushActiveSnapshot(newest) };
    let result = body();
    // SAFETY: takes back what was pushed.
    unsafe { pg_sys::PopActiveSnapshot() };
    result
}

/// Whether the server is a standby.
pub(crate) fn in_recovery() -> bool {
    // SAFETY: reads shared state.
    unsafe { pg_sys::RecoveryInProgress() }
}

/// The user whose rights count now.
pub(crate) fn current_user() -> pg_sys::Oid {
    // SAFETY: reads session state.
    unsafe { pg_sys::GetUserId() }
}

/// Whether the user whose rights count now may take those of our owner.
pub(crate) fn is_of_owner() -> bool {
    // SAFETY: both are oids of roles.
    unsafe { pg_sys::is_member_of_role(current_user(), owner()) }
}

thread_local! {
    static OWNER: Cell<Option<pg_sys::Oid>> = const { Cell::new(None) };
    /// Counts what the server said of roles: what was read before is not kept.
    static ROLE_CHANGES: Cell<u64> = const { Cell::new(0) };
}

/// Forgets who our owner is. The server calls it at any time, so it asks the server for nothing.
pub(crate) fn role_changed() {
    ROLE_CHANGES.set(ROLE_CHANGES.get().wrapping_add(1));
    OWNER.set(None);
}

/// Our owner; the invalid oid where there is no such role.
pub(super) fn known_owner() -> pg_sys::Oid {
    if let Some(owner) = OWNER.get() {
        return owner;
    }
    let before = ROLE_CHANGES.get();
    // SAFETY: the name is a C string; a missing role gives the invalid oid.
    let owner = unsafe { pg_sys::get_role_oid(c"cloudsync_owner".as_ptr(), true) };
    if ROLE_CHANGES.get() == before {
        OWNER.set(Some(owner));
    }
    owner
}

fn owner() -> pg_sys::Oid {
    let owner = known_owner();
    if owner == pg_sys::InvalidOid {
        SyncError::NoOwner.raise();
    }
    owner
}

/// Ends the owner's part when dropped; after an error the (sub)transaction's abort undoes the settings.
struct OwnerPart {
    user: pg_sys::Oid,
    context: i32,
    guc_level: i32,
}

impl OwnerPart {
    fn begin() -> Self {
        let owner = owner();
        let (mut user, mut context) = (pg_sys::InvalidOid, 0);
        // SAFETY: both are valid for writing.
        unsafe { pg_sys::GetUserIdAndSecContext(&raw mut user, &raw mut context) };
        // SAFETY: opens a level that the drop, or the abort, closes.
        let guc_level = unsafe { pg_sys::NewGUCNestLevel() };
        let local = context.cast_unsigned() | pg_sys::SECURITY_LOCAL_USERID_CHANGE;
        // SAFETY: the oid is that of a role; the old one comes back in the drop, or by the abort.
        unsafe { pg_sys::SetUserIdAndSecContext(owner, local.cast_signed()) };
        let part = Self { user, context, guc_level };
        set_config(c"search_path", SEARCH_PATH, pg_sys::GucAction::GUC_ACTION_SAVE);
        part
    }
}

impl Drop for OwnerPart {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: closes the level that `begin` opened.
            unsafe { pg_sys::AtEOXact_GUC(false, self.guc_level) };
        }
        // SAFETY: puts back what `begin` found.
        unsafe { pg_sys::SetUserIdAndSecContext(self.user, self.context) };
    }
}

/// Runs `body` as the owner, with the settings under which values of all types are printed alike everywhere.
pub(crate) fn as_printer<T>(body: impl FnOnce() -> T) -> T {
    const SETTINGS: [(&CStr, &CStr); 4] = [
        (c"datestyle", c"ISO, YMD"),
        (c"intervalstyle", c"postgres"),
        (c"timezone", c"UTC"),
        (c"extra_float_digits", c"1"),
    ];
    let _part = OwnerPart::begin();
    for (name, value) in SETTINGS {
        set_config(name, value, pg_sys::GucAction::GUC_ACTION_SAVE);
    }
    body()
}

/// Runs `body`, which asks for a few rows by their key or in its order, with plans that use the key's index: of a
/// table without statistics the server thinks that it had better read and sort all of it, each time.
pub(crate) fn by_index<T>(body: impl FnOnce() -> T) -> T {
    const OTHER_PLANS: [&CStr; 5] =
        [c"enable_seqscan", c"enable_bitmapscan", c"enable_sort", c"enable_hashjoin", c"enable_mergejoin"];
    let _part = RolePart::begin();
    for name in OTHER_PLANS {
        set_config(name, c"off", pg_sys::GucAction::GUC_ACTION_SAVE);
    }
    body()
}

/// Runs `body`, which joins rows of ours with tables, with memory for so many as a payload may have: else the server
/// writes its hash tables to files.
pub(crate) fn with_room<T>(body: impl FnOnce() -> T) -> T {
    let _part = RolePart::begin();
    set_config(c"work_mem", c"64MB", pg_sys::GucAction::GUC_ACTION_SAVE);
    body()
}

/// Runs `body` with the rights of cloudsync_owner, names looked up in pg_catalog only.
pub(crate) fn as_owner<T>(body: impl FnOnce() -> T) -> T {
    let _part = OwnerPart::begin();
    body()
}

/// Runs `body` with the rights of the owner of a table, whom its policies do not bind, as a cascade does.
pub(crate) fn as_user<T>(user: pg_sys::Oid, body: impl FnOnce() -> T) -> T {
    let (mut former, mut context) = (pg_sys::InvalidOid, 0);
    // SAFETY: both are valid for writing.
    unsafe { pg_sys::GetUserIdAndSecContext(&raw mut former, &raw mut context) };
    let bits = pg_sys::SECURITY_LOCAL_USERID_CHANGE | pg_sys::SECURITY_NOFORCE_RLS;
    // SAFETY: the oid is that of a role; the old one comes back in the drop, or by the abort.
    unsafe { pg_sys::SetUserIdAndSecContext(user, (context.cast_unsigned() | bits).cast_signed()) };
    let _part = UserPart { user: former, context };
    body()
}

/// Puts the user back when dropped.
struct UserPart {
    user: pg_sys::Oid,
    context: i32,
}

impl Drop for UserPart {
    fn drop(&mut self) {
        // SAFETY: puts back what was found.
        unsafe { pg_sys::SetUserIdAndSecContext(self.user, self.context) };
    }
}

/// A part that runs under other settings, the role among them: the drop puts back what its begin found, and
/// takes away what anybody set since.
pub(crate) struct RolePart {
    context: i32,
    guc_level: i32,
}

impl RolePart {
    /// Starts it, nothing changed yet.
    pub(crate) fn begin() -> Self {
        let (mut user, mut context) = (pg_sys::InvalidOid, 0);
        // SAFETY: both are valid for writing.
        unsafe { pg_sys::GetUserIdAndSecContext(&raw mut user, &raw mut context) };
        // SAFETY: opens a level that the drop, or the abort, closes.
        let guc_level = unsafe { pg_sys::NewGUCNestLevel() };
        Self { context, guc_level }
    }

    /// From now on nobody changes the role, as inside a SECURITY DEFINER function.
    pub(crate) fn confine(&self) {
        let local = self.context.cast_unsigned() | pg_sys::SECURITY_LOCAL_USERID_CHANGE;
        // SAFETY: the user stays; the context comes back in the drop, or by the abort.
        unsafe { pg_sys::SetUserIdAndSecContext(current_user(), local.cast_signed()) };
    }
}

impl Drop for RolePart {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        // SAFETY: puts back the context that `begin` found, so that the role may change again.
        unsafe { pg_sys::SetUserIdAndSecContext(current_user(), self.context) };
        // SAFETY: closes the level that `begin` opened.
        unsafe { pg_sys::AtEOXact_GUC(false, self.guc_level) };
    }
}

fn set_config(name: &CStr, value: &CStr, action: pg_sys::GucAction::Type) {
    // SAFETY: both strings are valid, and the server copies them.
    unsafe {
        pg_sys::set_config_option(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
            action,
            true,
            0,
            false,
        )
    };
}

/// Sets a setting for the rest of the transaction, with the rights of the session.
pub(crate) fn set_local(name: &CStr, value: &str) -> Result<(), SyncError> {
    let value = CString::new(value).map_err(|error| SyncError::Parameter {
        parameter: "setting",
        found: format!("a NUL at byte {}", error.nul_position()),
        wanted: "text without NUL",
    })?;
    set_config(name, &value, pg_sys::GucAction::GUC_ACTION_LOCAL);
    Ok(())
}

/// Whether a user holds a right on a table as a whole, or on some column of it.
pub(crate) fn has_right(relation: pg_sys::Oid, user: pg_sys::Oid, right: u32) -> bool {
    let mode = pg_sys::AclMode::from(right);
    // SAFETY: the relation was looked up in this transaction.
    let table = unsafe { pg_sys::pg_class_aclcheck(relation, user, mode) };
    if table == pg_sys::AclResult::ACLCHECK_OK {
        return true;
    }
    let any = pg_sys::AclMaskHow::ACLMASK_ANY;
    // SAFETY: as above.
    let column = unsafe { pg_sys::pg_attribute_aclcheck_all(relation, user, mode, any) };
    column == pg_sys::AclResult::ACLCHECK_OK
}

/// Locks a relation against being changed or renamed, and tells whether it has the name. A name that is
/// looked up later in this transaction is then this very relation, and no view put in its place.
pub(crate) fn hold(relation: pg_sys::Oid, schema: &str, name: &str) -> bool {
    let mode = i32::try_from(pg_sys::AccessShareLock).expect("lock modes are small");
    // SAFETY: takes a lock that lasts until the transaction ends; the relation need not exist.
    unsafe { pg_sys::LockRelationOid(relation, mode) };
    is_named(relation, schema, name)
}

/// Whether a relation has the name.
pub(crate) fn is_named(relation: pg_sys::Oid, schema: &str, name: &str) -> bool {
    // SAFETY: a missing relation gives the invalid oid.
    let namespace = unsafe { pg_sys::get_rel_namespace(relation) };
    // SAFETY: as above, null.
    let found_name = unsafe { pg_sys::get_rel_name(relation) };
    // SAFETY: as above, null.
    let found_schema = unsafe { pg_sys::get_namespace_name(namespace) };
    let is = |found: *const c_char, wanted: &str| {
        // SAFETY: not null, so a C string.
        !found.is_null() && unsafe { CStr::from_ptr(found) }.to_bytes() == wanted.as_bytes()
    };
    is(found_name, name) && is(found_schema, schema)
}

/// The name of a relation, without its schema; its number when there is none.
pub(crate) fn relation_name(relation: pg_sys::Oid) -> String {
    // SAFETY: a missing relation gives null.
    let name = unsafe { pg_sys::get_rel_name(relation) };
    if name.is_null() {
        return relation.to_u32().to_string();
    }
    // SAFETY: not null, so a C string.
    unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
}

/// The name of a column of a relation; None when there is no such column.
pub(crate) fn column_name(relation: pg_sys::Oid, number: i16) -> Option<String> {
    // SAFETY: a missing column gives null.
    let name = unsafe { pg_sys::get_attname(relation, number, true) };
    if name.is_null() {
        return None;
    }
    // SAFETY: not null, so a C string.
    Some(unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned())
}

/// Names this installation of the extension: what a session remembers of another one is void.
pub(crate) fn installation() -> pg_sys::Oid {
    cloudsync_relation(c"secret")
}

/// A relation of schema cloudsync; the invalid oid, if there is none.
pub(crate) fn cloudsync_relation(name: &CStr) -> pg_sys::Oid {
    // SAFETY: the name is a C string; a missing schema gives the invalid oid.
    let schema = unsafe { pg_sys::get_namespace_oid(c"cloudsync".as_ptr(), true) };
    // SAFETY: as above.
    unsafe { pg_sys::get_relname_relid(name.as_ptr(), schema) }
}

/// Makes every session forget what it knows of the registry, once this transaction is committed.
pub(crate) fn announce_registry() {
    // SAFETY: the registry exists: a trigger on it runs.
    unsafe { pg_sys::CacheInvalidateRelcacheByRelid(cloudsync_relation(c"tables")) };
}

/// Number of the running subtransaction; later ones have greater numbers.
pub(crate) fn subtransaction_id() -> u32 {
    // SAFETY: reads session state.
    unsafe { pg_sys::GetCurrentSubTransactionId() }
}
