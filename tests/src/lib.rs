//! The harness: starts every real part on private places and free ports, drives it, and takes it down again.
//!
//! Nothing here stands in for a part. Postgres is a server of its own with the extension from `dist/`, the hub
//! is the binary from `dist/`, clients are SQLite files with the library from `dist/`, S3 is a real S3 API. A
//! part that is missing fails the test that needs it. Errors are panics: what is wrong here is a failed test.

pub mod client;
pub mod hub;
pub mod object_store;
pub mod places;
pub mod postgres;
pub mod process;
pub mod prometheus;
pub mod proxy;
pub mod sql;
pub mod stage;
pub mod tokens;
pub mod wait;
