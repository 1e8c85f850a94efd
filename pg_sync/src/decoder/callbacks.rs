//! What the server calls. Each callback does one thing with the frame that hangs on the decoding context.

use std::ffi::{CStr, c_char};

use pgrx::pg_sys::{self, LogicalDecodingContext, ReorderBufferTXN};
use pgrx::{PgMemoryContexts, pg_guard, warning};
use shared_format::{MESSAGE_PREFIX, Message};

use super::frame::{Frame, Transaction};
use crate::error::SyncError;

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
    refuse_options(context);
    // SAFETY: the server passes its options to fill in.
    unsafe { (*options).output_type = pg_sys::OutputPluginOutputType::OUTPUT_PLUGIN_BINARY_OUTPUT };
    // SAFETY: as above.
    unsafe { (*options).receive_rewrites = false };
    // Transactions in progress are spilled by the server: they come when they have committed.
    // SAFETY: the context is the server's, and ours to set up.
    unsafe { (*context).streaming = false };
    // SAFETY: as above.
    unsafe { (*context).twophase = false };
    // SAFETY: as above.
    let memory = unsafe { (*context).context };
    // Dropped with the context also after an error, when no shutdown callback runs.
    let state = PgMemoryContexts::For(memory).leak_and_drop_on_delete(Frame::default());
    // SAFETY: as above.
    unsafe { (*context).output_plugin_private = state.cast() };
}

/// The plugin has no options: one that is given is a mistake of the caller.
fn refuse_options(context: *mut LogicalDecodingContext) {
    // SAFETY: the server passes a valid context.
    let options = unsafe { (*context).output_plugin_options };
    if options.is_null() {
        return;
    }
    // SAFETY: not null, so a list with at least one element.
    let elements = unsafe { (*options).elements };
    // SAFETY: as above.
    let element = unsafe { *elements };
    // SAFETY: a list of nodes holds pointers.
    let element = unsafe { element.ptr_value }.cast::<pg_sys::DefElem>();
    // SAFETY: output plugin options are DefElem nodes.
    let name = unsafe { (*element).defname };
    // SAFETY: their names are C strings.
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
    SyncError::PluginOption(name.into_owned()).raise();
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
    // Rows travel in our messages: what the heap says is not read.
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
    if let Err(error) = Message::parse(body) {
        warning!("skipped a message at {:X}/{:08X}: {error}", lsn >> 32, lsn & 0xffff_ffff);
        return;
    }
    match frame(context).add(lsn, body) {
        Ok(None) => {}
        Ok(Some(full)) => write(context, &full, false),
        Err(length) => warning!("skipped a message of {length} bytes, limit is 4 GiB"),
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn commit(
    context: *mut LogicalDecodingContext,
    _txn: *mut ReorderBufferTXN,
    _commit_lsn: pg_sys::XLogRecPtr,
) {
    match frame(context).end() {
        Some(last) => write(context, &last, true),
        None => progress(context),
    }
}

fn write(context: *mut LogicalDecodingContext, bytes: &[u8], is_last: bool) {
    // SAFETY: the server's context, in a callback that may write.
    unsafe { pg_sys::OutputPluginPrepareWrite(context, is_last) };
    // SAFETY: prepared above.
    let out = unsafe { (*context).out };
    let length = i32::try_from(bytes.len()).expect("a logical message is below 1 GiB: it was in the log");
    // SAFETY: the bytes are valid for the length and are copied.
    unsafe { pg_sys::appendBinaryStringInfo(out, bytes.as_ptr().cast(), length) };
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
