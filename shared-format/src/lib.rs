//! Payload format and CRDT core, shared by every engine of the sync stack.
//!
//! Pure: no file, socket, clock or thread. Time and random bytes come in as arguments.

#![no_std]
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
#![cfg_attr(test, allow(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod clock;
mod error;
mod merge;
mod message;
pub mod payload;
mod reader;
mod register;
mod row_key;
mod row_state;
pub mod succession;
mod value;

pub use clock::{Hlc, SiteId, Stamp};
pub use error::FormatError;
pub use merge::{
    CellOutcome, Incoming, KeptRegister, Local, LogPlace, MergedRegister, Plan, RowKind, RowRegisters,
    RowValues, RowWrite, Rules, RulesPlan, merge, merge_unseen, merge_with, merges_into_nothing,
    names_others, restamp,
};
pub use message::{MESSAGE_PREFIX, Message, encode_message, signed_parts};
pub use register::{ColumnRule, LostEntry, OwnEntries, Register, Written};
pub use row_key::{decode_key, encode_key};
pub use row_state::{
    CellStamp, ColumnId, Life, LocalWrite, RowState, pack_cells, pack_row, unpack_cells, unpack_registers,
};
pub use value::{Value, ValueRef};
