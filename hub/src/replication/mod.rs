//! A logical replication client: what `tokio-postgres` has no mode for, framed by hand on `postgres-protocol`.
//!
//! Owns the wire: connecting, the replication commands, the stream, and the frames of the output plugin. What
//! the frames mean is left to ingest.

mod connection;
mod frame;
mod stream;

pub use connection::{CreatedSlot, ReplicationConnection, SlotKind, SystemIdentity};
pub use frame::{FRAME_BYTES_MAX, FrameMessage, TransactionFrame};
pub use stream::{ReplicationStream, StreamMessage};
