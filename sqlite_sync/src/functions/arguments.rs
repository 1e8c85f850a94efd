//! Reads arguments; a wrong one is an error that names the function, the place, what was found and wanted.

use rusqlite::functions::Context;
use rusqlite::types::ValueRef as Argument;

use crate::entrypoint::connection;
use crate::error::{Error, Result};

/// The connection that the function runs on.
pub(super) fn reach<'c>(context: &'c Context<'_>) -> Result<rusqlite::functions::ConnectionRef<'c>> {
    connection(context)
}

/// The error for an argument that is not what was wanted.
pub(super) fn wrong(context: &Context<'_>, function: &'static str, at: usize, wanted: &'static str) -> Error {
    let found = if at < context.len() { described(context.get_raw(at)) } else { String::from("missing") };
    Error::Argument { function, index: at + 1, found, wanted }
}

/// What a value is, for an error: a number as it is, never the content of text or bytes.
pub(super) fn described(value: Argument<'_>) -> String {
    match value {
        Argument::Null => String::from("NULL"),
        Argument::Integer(number) => number.to_string(),
        Argument::Real(number) => format!("{number:?}"),
        Argument::Text(text) => format!("text of {} bytes", text.len()),
        Argument::Blob(bytes) => format!("a blob of {} bytes", bytes.len()),
    }
}

/// A text argument; NULL and other types are errors.
pub(super) fn text(context: &Context<'_>, function: &'static str, at: usize) -> Result<String> {
    let found = match context.get_raw(at) {
        Argument::Text(text) => std::str::from_utf8(text).map(String::from).ok(),
        _other => None,
    };
    found.ok_or_else(|| wrong(context, function, at, "text"))
}

/// An optional number that is not negative; NULL and a missing argument are None.
pub(super) fn number(context: &Context<'_>, function: &'static str, at: usize) -> Result<Option<i64>> {
    if at >= context.len() {
        return Ok(None);
    }
    match context.get_raw(at) {
        Argument::Null => Ok(None),
        Argument::Integer(number) if number >= 0 => Ok(Some(number)),
        _other => Err(wrong(context, function, at, "a number from 0 on")),
    }
}
