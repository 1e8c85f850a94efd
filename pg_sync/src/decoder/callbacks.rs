//! What the server calls. Each callback does one thing with the frame that hangs on the decoding context.

use std::ffi::{CStr, c_char};

use pgrx::pg_sys::{self, LogicalDecodingContext, ReorderBufferTXN};
use pgrx::{PgMemoryContexts, pg_guard, warning};
use shared_format::{MESSAGE_PREFIX, Message};

use super::frame::{Frame, Skipped, Transaction};
use super::options;
use crate::error::or_raise;

/// Tells the server our callbacks.
///
/// # Safety
/// Only the server calls it, with a table to fill in.
#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn _PG_output_plugin_init(callbacks: *mut pg_sys::OutputPluginCallbacks) {
    let ours = pg_sys::OutputPluginCallbacks {
        startup_cb: Some(startup),
        begin_cb: Some(begin),
        change_cb: Some(change),
        commit_cb: Some(commit),
        message_cb: Some(message),
        filter_by_origin_cb: Some(filter_record),
        ..pg_sys::OutputPluginCallbacks::default()
    };
    // SAFETY: the server passes a table of its own to fill in.
    unsafe { *callbacks = ours };
}

/// The frame of this decoding session.
fn frame<'a>(context: *mut LogicalDecodingContext) -> &'a mut Frame {
    // SAFETY: the server passes the context that `startup` was given.
    let state: *mut Frame = unsafe { (*context).output_plugin_private }.cast();
    // SAFETY: made by `startup`, dropped with the context; one callback runs at a time.
    unsafe { &mut *state }
}

#[pg_guard]
unsafe extern "C-unwind" fn startup(
    context: *mut LogicalDecodingContext,
    options: *mut pg_sys::OutputPluginOptions,
    _is_init: bool,
) {
    // SAFETY: the server passes a valid context.
    let given = unsafe { (*context).output_plugin_options };
    // SAFETY: the list that the server parsed.
    or_raise(unsafe { options::check(given) });
    // SAFETY: the server passes its options to fill in.
    unsafe { (*options).output_type = pg_sys::OutputPluginOutputType::OUTPUT_PLUGIN_BINARY_OUTPUT };
    // SAFETY: as above.
    unsafe { (*options).receive_rewrites = false };
    // Transactions in progress are spilled by the server: they come when they have committed.
    // SAFETY: the context is the server's, and ours to set up.
    unsafe { (*context).streaming = false };
    // Prepared transactions too, also for a slot that was made to send them when they are prepared.
    // SAFETY: as above.
    unsafe { (*context).twophase = false };
    // SAFETY: as above.
    let memory = unsafe { (*context).context };
    // Dropped with the context also after an error, when no shutdown callback runs.
    let state = PgMemoryContexts::For(memory).leak_and_drop_on_delete(or_raise(Frame::new()));
    // SAFETY: as above.
    unsafe { (*context).output_plugin_private = state.cast() };
}

/// Says of a record that was read from the log whether to keep nothing of it.
///
/// The server asks by origin. Every origin is ours: what a subscription wrote is captured as any other write.
/// But rows of the heap are read from our messages only, so whatever they hold need not be kept until their
/// transaction commits, nor spilled.
#[pg_guard]
unsafe extern "C-unwind" fn filter_record(
    context: *mut LogicalDecodingContext,
    _origin: pg_sys::RepOriginId,
) -> bool {
    // SAFETY: the server passes a valid context.
    let reader = unsafe { (*context).reader };
    #[cfg(feature = "pg14")]
    // SAFETY: the server asks while it decodes a record that the reader holds.
    let record = unsafe { (*reader).decoded_record };
    #[cfg(not(feature = "pg14"))]
    // SAFETY: as above.
    let record = unsafe { (*reader).record };
    if record.is_null() {
        return false;
    }
    #[cfg(feature = "pg14")]
    // SAFETY: not null, so the record that is being decoded.
    let manager = unsafe { (*record).xl_rmid };
    #[cfg(not(feature = "pg14"))]
    // SAFETY: as above.
    let manager = unsafe { (*record).header.xl_rmid };
    matches!(u32::from(manager), pg_sys::RmgrIds::RM_HEAP_ID | pg_sys::RmgrIds::RM_HEAP2_ID)
}

#[pg_guard]
unsafe extern "C-unwind" fn begin(context: *mut LogicalDecodingContext, txn: *mut ReorderBufferTXN) {
    // SAFETY: the server passes a valid transaction.
    let end_lsn = unsafe { (*txn).end_lsn };
    // SAFETY: as above.
    let xid = unsafe { (*txn).xid };
    #[cfg(feature = "pg14")]
    // SAFETY: as above.
    let commit_time = unsafe { (*txn).commit_time };
    #[cfg(not(feature = "pg14"))]
    // SAFETY: as above.
    let time = unsafe { (*txn).xact_time };
    #[cfg(not(feature = "pg14"))]
    // SAFETY: without two-phase decoding the time is that of the commit.
    let commit_time = unsafe { time.commit_time };
    frame(context).begin(Transaction { end_lsn, commit_time, xid: xid.into_inner() });
}

#[pg_guard]
unsafe extern "C-unwind" fn change(
    _context: *mut LogicalDecodingContext,
    _txn: *mut ReorderBufferTXN,
    _relation: pg_sys::Relation,
    _change: *mut pg_sys::ReorderBufferChange,
) {
    // The server wants this callback. Rows travel in our messages, and `filter_record` keeps them from here.
}

#[pg_guard]
unsafe extern "C-unwind" fn message(
    context: *mut LogicalDecodingContext,
    _txn: *mut ReorderBufferTXN,
    lsn: pg_sys::XLogRecPtr,
    transactional: bool,
    prefix: *const c_char,
    size: pg_sys::Size,
    body: *const c_char,
) {
    // SAFETY: the server passes a C string.
    let prefix = unsafe { CStr::from_ptr(prefix) };
    if !transactional || prefix.to_bytes() != MESSAGE_PREFIX.as_bytes() {
        return;
    }
    // SAFETY: the server passes `size` bytes.
    let body = unsafe { std::slice::from_raw_parts(body.cast::<u8>(), size) };
    let reason = match (Message::parse(body), u32::try_from(size)) {
        (Ok(_message), Ok(length)) => return add(context, lsn, length, body),
        (Err(error), _) => error.to_string(),
        (_, Err(error)) => error.to_string(),
    };
    frame(context).skip(lsn, reason);
    add(context, lsn, 0, &[]);
}

/// Adds a message, and writes what gathered if it does not fit.
fn add(context: *mut LogicalDecodingContext, lsn: u64, length: u32, body: &[u8]) {
    let frame = frame(context);
    if !frame.fits(body.len()) && !frame.is_empty() {
        frame.hand_over(false, |bytes| write(context, &[bytes], false));
    }
    if frame.fits(body.len()) {
        frame.add(lsn, length, body);
    } else {
        frame.head(lsn, length);
        frame.hand_over(false, |bytes| write(context, &[bytes, body], false));
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn commit(
    context: *mut LogicalDecodingContext,
    _txn: *mut ReorderBufferTXN,
    _commit_lsn: pg_sys::XLogRecPtr,
) {
    let frame = frame(context);
    if let Some(Skipped { count, first_lsn, first_reason }) = frame.take_skipped() {
        let (high, low) = (first_lsn >> 32, first_lsn & 0xffff_ffff);
        warning!(
            "skipped broken messages of a transaction: {count}, the first at {high:X}/{low:08X}: {first_reason}"
        );
    }
    if frame.has_end() {
        frame.hand_over(true, |bytes| write(context, &[bytes], true));
    } else {
        progress(context);
    }
}

fn write(context: *mut LogicalDecodingContext, parts: &[&[u8]], is_last: bool) {
    // SAFETY: the server's context, in a callback that may write.
    unsafe { pg_sys::OutputPluginPrepareWrite(context, is_last) };
    // SAFETY: prepared above.
    let out = unsafe { (*context).out };
    for part in parts {
        let length = i32::try_from(part.len()).expect("a logical message is below 1 GiB: it was in the log");
        // SAFETY: the bytes are valid for the length and are copied.
        unsafe { pg_sys::appendBinaryStringInfo(out, part.as_ptr().cast(), length) };
    }
    // SAFETY: prepared above.
    unsafe { pg_sys::OutputPluginWrite(context, is_last) };
}

/// Lets the slot move on past a transaction that had nothing for us.
fn progress(context: *mut LogicalDecodingContext) {
    #[cfg(feature = "pg14")]
    // SAFETY: the server's context, in a callback.
    unsafe {
        pg_sys::OutputPluginUpdateProgress(context)
    };
    #[cfg(not(feature = "pg14"))]
    // SAFETY: the server's context, in a callback.
    unsafe {
        pg_sys::OutputPluginUpdateProgress(context, true)
    };
}
