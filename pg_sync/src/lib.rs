//! Postgres side of the sync stack: capture by triggers from `sql/postgres`, merge on apply, and the output
//! plugin that the hub reads.

mod apply;
mod audience;
#[allow(unsafe_code, reason = "the calling convention of the capture functions")]
mod capture;
mod catalog;
mod changes;
mod collect;
#[allow(unsafe_code, reason = "the output plugin's callbacks")]
mod decoder;
mod direct;
#[allow(unsafe_code, reason = "the edge to SPI and the server's types")]
mod edge;
mod emit;
mod error;
mod explain;
mod expressions;
#[allow(unsafe_code, missing_docs, reason = "the macros of pgrx write unsafe code and undocumented items")]
mod functions;
mod metadata;
#[allow(unsafe_code, missing_docs, reason = "the macros of pgrx write unsafe code")]
mod module;
mod plan;
#[allow(unsafe_code, missing_docs, reason = "the macros of pgrx write unsafe code and undocumented items")]
mod reading;
mod restore;
mod ruled;
mod ruled_capture;
mod settings;
mod sites;
mod snapshot;
mod sorted;
mod stage;
mod too_large;
mod tracking;
mod upload;
mod version;
