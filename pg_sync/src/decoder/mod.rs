//! The output plugin: frames our logical messages by transaction and skips everything else.
//!
//! It reads no table and holds at most one frame. Nothing it meets may end it: a dying plugin holds its slot
//! for ever, so a message that cannot be framed is skipped with a warning.

mod callbacks;
mod frame;
mod options;
