//! Where Rust meets the server: every call into Postgres that the rest of the crate needs, behind functions
//! that are safe to call as long as datums go only where their type says.

pub(crate) mod codec;
pub(crate) mod command;
pub(crate) mod confine;
pub(crate) mod expression;
pub(crate) mod heap;
pub(crate) mod memory;
mod plans;
pub(crate) mod query;
mod server;
pub(crate) mod session;
pub(crate) mod spool;
pub(crate) mod subtransaction;
pub(crate) mod trigger;
pub(crate) mod tuple;
