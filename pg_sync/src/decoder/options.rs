//! What a client may ask of the plugin: the format of its frames, so that one that reads another is told at once.

use std::ffi::CStr;

use pgrx::pg_sys;

use super::frame::FORMAT;
use crate::error::SyncError;

/// The only option.
const FORMAT_OPTION: &str = "format";

/// Refuses options that the plugin does not have, and values that it does not know.
///
/// # Safety
/// The list is null or one of `DefElem` nodes, as the server parses options.
pub(super) unsafe fn check(options: *mut pg_sys::List) -> Result<(), SyncError> {
    if options.is_null() {
        return Ok(());
    }
    // SAFETY: not null, so a list.
    let cells = unsafe { (*options).elements };
    // SAFETY: as above.
    let length = unsafe { (*options).length };
    let length = usize::try_from(length).expect("a list has a length");
    // SAFETY: a list has as many cells as it says.
    let cells = unsafe { std::slice::from_raw_parts(cells, length) };
    let mut is_given = false;
    for cell in cells {
        // SAFETY: a list of nodes holds pointers.
        let option: *mut pg_sys::DefElem = unsafe { cell.ptr_value }.cast();
        // SAFETY: an element of the list.
        let name = unsafe { (*option).defname };
        // SAFETY: names of options are C strings.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
        if name != FORMAT_OPTION {
            return Err(SyncError::PluginOption(name.into_owned()));
        }
        // SAFETY: as above.
        let value = unsafe { (*option).arg };
        let wrong = |found| SyncError::PluginOptionValue { option: FORMAT_OPTION, found, wanted: FORMAT };
        if is_given {
            return Err(wrong("given twice".to_owned()));
        }
        if value.is_null() {
            return Err(wrong("without a value".to_owned()));
        }
        // SAFETY: an option with a value, which the server turns into text.
        let text = unsafe { pg_sys::defGetString(option) };
        // SAFETY: the server returns a C string.
        let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
        if text != FORMAT.to_string() {
            return Err(wrong(format!("{text:?}")));
        }
        is_given = true;
    }
    Ok(())
}
