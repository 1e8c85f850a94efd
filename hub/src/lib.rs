//! The hub: a stateless service between SQLite clients, Postgres and an object store.
//!
//! This file only lists the parts. The invariant of the whole: a node may die at any instant, because
//! Postgres and the object store hold everything that an answer ever promised.

mod api;
pub mod arguments;
pub mod audience;
pub mod auth;
mod backend;
pub mod cli;
pub mod config;
mod control;
pub mod cursor;
pub mod definitions;
pub mod epoch;
pub mod error;
pub mod feed;
pub mod files;
pub mod ground;
mod hex;
mod horizon;
pub mod http;
mod inbox;
mod ingest;
mod jobs;
pub mod keys;
pub mod limits;
mod lineage;
mod memory;
pub mod metrics;
pub mod position;
pub mod postgres;
pub mod replication;
pub mod segment;
pub mod serve;
pub mod shutdown;
pub mod snapshot;
pub mod store;
pub mod upload;
pub mod weigh;
