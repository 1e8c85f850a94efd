//! Reads arguments; a wrong one is an error that names the function and the place.

use rusqlite::functions::Context;
use rusqlite::types::ValueRef as Argument;

use crate::entrypoint::connection;
use crate::error::{Error, Result};

/// The connection that the function runs on.
pub(super) fn reach<'c>(context: &'c Context<'_>) -> Result<rusqlite::functions::ConnectionRef<'c>> {
    connection(context)
}

/// A text argument; NULL and other types are errors.
pub(super) fn text(context: &Context<'_>, function: &'static str, at: usize) -> Result<String> {
    match context.get_raw(at) {
        Argument::Text(text) => std::str::from_utf8(text).map(String::from).ok(),
        _other => None,
    }
    .ok_or(Error::Argument { function, index: at + 1, wanted: "text" })
}

/// An optional number that is not negative; NULL and a missing argument are None.
pub(super) fn number(context: &Context<'_>, function: &'static str, at: usize) -> Result<Option<i64>> {
    if at >= context.len() {
        return Ok(None);
    }
    match context.get_raw(at) {
        Argument::Null => Ok(None),
        Argument::Integer(number) if number >= 0 => Ok(Some(number)),
        _other => Err(Error::Argument { function, index: at + 1, wanted: "a number from 0 on" }),
    }
}
