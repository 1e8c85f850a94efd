//! SQLite side of the sync stack: capture log, fold, merge on apply, networking in SQL.
//!
//! Loaded into any SQLite from 3.35 on, or linked into a program that calls [`register`].

mod algorithms;
mod apply;
mod capture;
mod catalog;
mod central;
mod changes;
mod checks;
mod conflicts;
mod connection;
mod emit;
mod entrypoint;
mod error;
mod explain;
mod fold;
mod functions;
mod gap;
mod guards;
mod kept;
mod log;
mod logout;
mod looks;
mod metadata;
pub mod network;
mod outbox;
mod parked;
mod register_cells;
mod rejected;
mod resend;
mod restamp;
mod schema;
mod settings;
mod sql;
mod status;
mod table_settings;
mod tracked_table;
mod trigger_text;
mod virtual_tables;

pub use entrypoint::sqlite3_cloudsync_init;
pub use error::{Error, Result, Untrackable};
pub use functions::{register, register_with};
pub use log::DbVersion;
