//! What cannot be carried from one engine to the other.

use thiserror::Error;

/// Why a value has no form in the other engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MappingError {
    /// SQLite stores any bytes as text, Postgres only UTF-8.
    #[error("text of {length} bytes is not UTF-8, Postgres stores no other")]
    NotUtf8 {
        /// Length in bytes.
        length: usize,
    },
}
