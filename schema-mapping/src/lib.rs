//! Values between Postgres and SQLite: what each engine stores for what travels.
//!
//! Pure: no file, socket, clock or thread.

#![no_std]

extern crate alloc;

mod datetime;
mod error;
mod postgres;
mod sqlite;

pub use error::MappingError;
pub use postgres::to_postgres_text;
pub use sqlite::{SqliteValue, to_sqlite};
