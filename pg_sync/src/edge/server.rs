//! Functions of the server without a guard of their own, and those that the bindings lack: every other call of it returns through a place where its
//! errors become panics, which costs as much as some of these functions do and is a copy of the same code each time.
//! Whoever calls several of them one after another puts one guard around all.

use std::ffi::{c_char, c_void};

use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::pg_sys::{self, Datum};

/// Runs `body`, which calls functions of the server; an error of theirs becomes a panic here.
///
/// # Safety
/// When a function raises an error, nothing in `body` needs a drop; and nothing in it panics.
pub(super) unsafe fn guarded<T>(body: impl FnOnce() -> T) -> T {
    let (mut body, mut result) = (Some(body), None);
    run(&mut || result = body.take().map(|body| body()));
    result.expect("the body ran, or an error passed")
}

#[inline(never)]
fn run(body: &mut dyn FnMut()) {
    // SAFETY: as the callers of `guarded` promise; here are references only.
    unsafe { pg_guard_ffi_boundary(body) }
}

unsafe extern "C-unwind" {
    pub(super) fn index_rescan(
        scan: pg_sys::IndexScanDesc,
        keys: pg_sys::ScanKey,
        key_count: i32,
        orders: pg_sys::ScanKey,
        order_count: i32,
    );
    pub(super) fn index_getnext_tid(
        scan: pg_sys::IndexScanDesc,
        direction: pg_sys::ScanDirection::Type,
    ) -> pg_sys::ItemPointer;
    pub(super) fn ReadBuffer(relation: pg_sys::Relation, block: pg_sys::BlockNumber) -> pg_sys::Buffer;
    pub(super) fn ReleaseBuffer(buffer: pg_sys::Buffer);
    pub(super) fn LockBuffer(buffer: pg_sys::Buffer, mode: i32);
    pub(super) fn PageGetHeapFreeSpace(page: pg_sys::Page) -> pg_sys::Size;
    pub(super) fn heap_page_prune_opt(relation: pg_sys::Relation, buffer: pg_sys::Buffer);
    pub(super) fn heap_hot_search_buffer(
        place: pg_sys::ItemPointer,
        relation: pg_sys::Relation,
        buffer: pg_sys::Buffer,
        snapshot: pg_sys::Snapshot,
        tuple: pg_sys::HeapTuple,
        all_dead: *mut bool,
        first_call: bool,
    ) -> bool;
    pub(super) fn ExecStorePinnedBufferHeapTuple(
        tuple: pg_sys::HeapTuple,
        slot: *mut pg_sys::TupleTableSlot,
        buffer: pg_sys::Buffer,
    ) -> *mut pg_sys::TupleTableSlot;
    pub(super) fn slot_getsomeattrs_int(slot: *mut pg_sys::TupleTableSlot, attributes: i32);
    pub(super) fn TransactionIdIsCurrentTransactionId(id: pg_sys::TransactionId) -> bool;
    pub(super) fn MakeSingleTupleTableSlot(
        shape: pg_sys::TupleDesc,
        kind: *const pg_sys::TupleTableSlotOps,
    ) -> *mut pg_sys::TupleTableSlot;
    pub(super) fn tuplestore_alloc_read_pointer(store: *mut pg_sys::Tuplestorestate, flags: i32) -> i32;
    pub(super) fn tuplestore_select_read_pointer(store: *mut pg_sys::Tuplestorestate, pointer: i32);
    pub(super) fn tuplestore_rescan(store: *mut pg_sys::Tuplestorestate);
    pub(super) fn tuplestore_gettupleslot(
        store: *mut pg_sys::Tuplestorestate,
        forward: bool,
        copy: bool,
        slot: *mut pg_sys::TupleTableSlot,
    ) -> bool;

    // Not among the bindings of pgrx.
    pub(super) fn datum_image_eq(one: Datum, two: Datum, by_value: bool, length: i32) -> bool;
    pub(super) fn datumCopy(value: Datum, by_value: bool, length: i32) -> Datum;
    #[cfg(not(any(feature = "pg17", feature = "pg18")))]
    pub(super) fn LogLogicalMessage(
        prefix: *const c_char,
        message: *const c_char,
        size: usize,
        transactional: bool,
    ) -> pg_sys::XLogRecPtr;
    #[cfg(any(feature = "pg17", feature = "pg18"))]
    pub(super) fn LogLogicalMessage(
        prefix: *const c_char,
        message: *const c_char,
        size: usize,
        transactional: bool,
        flush: bool,
    ) -> pg_sys::XLogRecPtr;
    pub(super) fn pg_strong_random(buffer: *mut c_void, length: usize) -> bool;
}
