//! A changeset as bytes: definitions of tables, rows of changes with their stamps, in a checked frame.
//!
//! The bytes are FlatBuffers of `schema/payload.fbs`. Rows lie column by column, so a bulk insert costs one
//! stamp a row and no names. Everything read here may come from anyone: the verifier, the structure checks of
//! [`Payload::parse`] and the bounds of the cursors come before any use.

mod decode;
mod definition;
mod encode;
mod eviction;
mod frame;
mod scopes;
#[cfg(test)]
mod tests;
mod values;

#[expect(
    unsafe_code,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    reason = "written by flatc from schema/payload.fbs"
)]
mod generated;

pub use decode::{Cell, Changes, Collection, Payload, Reload, Row, RowCursor};
pub use definition::{ColumnAlgorithm, ColumnDefinition, TableAlgorithm, TableDefinition};
pub use encode::{ChangesBuilder, PayloadBuilder};
pub use eviction::{Eviction, EvictionBuilder, KeyCursor};
pub use frame::{Limits, decode_frame, encode_frame};
pub use scopes::{SCOPE_EVERYBODY, Scopes};

/// Columns of a tracked table, at most: see DESIGN section 15.
pub const COLUMNS_MAX: usize = 1_000;
