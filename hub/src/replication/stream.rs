//! What comes and goes while a slot is streamed: WAL bytes, keepalives, and the status that moves the slot.
//!
//! Invariant: a status never reports as flushed what the caller did not say was stored.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
#![cfg_attr(test, allow(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{BufMut, Bytes, BytesMut};
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;

use super::connection::{Incoming, ReplicationConnection, refusal};
use crate::error::{Error, Result};
use crate::position::Lsn;

/// The instant that Postgres counts from: 2000-01-01, in seconds since 1970.
const POSTGRES_EPOCH_S: u64 = 946_684_800;

/// Something that the server sent.
#[derive(Debug, PartialEq, Eq)]
pub enum StreamMessage {
    /// Output of the plugin.
    Output {
        /// The newest WAL that the server knew of when it sent this.
        wal_end: Lsn,
        /// The plugin's bytes.
        bytes: Bytes,
    },
    /// A sign of life.
    Keepalive {
        /// All transactions that committed before here were sent.
        sent: Lsn,
        /// The server wants a status at once.
        reply_wanted: bool,
    },
}

/// A connection that streams from a slot.
pub struct ReplicationStream {
    connection: ReplicationConnection,
}

impl ReplicationStream {
    pub(super) fn new(connection: ReplicationConnection) -> ReplicationStream {
        ReplicationStream { connection }
    }

    /// Waits for the next message. It can be dropped at any point of waiting without losing one.
    pub async fn next(&mut self) -> Result<StreamMessage> {
        loop {
            let incoming = self.connection.next().await?;
            if let Some(message) = take_message(incoming)? {
                return Ok(message);
            }
        }
    }

    /// Takes the next message if it is here already.
    pub fn buffered(&mut self) -> Result<Option<StreamMessage>> {
        while let Some(incoming) = self.connection.buffered()? {
            if let Some(message) = take_message(incoming)? {
                return Ok(Some(message));
            }
        }
        Ok(None)
    }

    /// Tells the server what arrived and what is stored, and may ask it for a sign of life.
    ///
    /// `flushed` of zero leaves the slot where it is. A server that shuts down waits until all it sent is
    /// flushed, or, when flushed is zero, until it arrived.
    pub async fn send_status(&mut self, received: Lsn, flushed: Lsn, reply_wanted: bool) -> Result<()> {
        let body = encode_status(received, flushed, reply_wanted, SystemTime::now());
        self.connection
            .send(|output| {
                frontend::CopyData::new(body.freeze())?.write(output);
                Ok(())
            })
            .await
    }
}

fn take_message(incoming: Incoming) -> Result<Option<StreamMessage>> {
    let Incoming::Message(message) = incoming else {
        return Err(Error::ReplicationProtocol { what: "streaming that begins twice" });
    };
    match message {
        Message::CopyData(body) => decode(body.into_bytes()).map(Some),
        Message::NoticeResponse(_) | Message::ParameterStatus(_) => Ok(None),
        Message::ErrorResponse(body) => Err(refusal("stream", &body)),
        Message::CopyDone | Message::CommandComplete(_) | Message::ReadyForQuery(_) => {
            let ended = io::Error::new(io::ErrorKind::ConnectionReset, "server ended the stream");
            Err(Error::ReplicationClosed(ended))
        }
        _ => Err(Error::ReplicationProtocol { what: "unexpected message in the stream" }),
    }
}

/// Reads the bytes of one copy-data message.
fn decode(mut bytes: Bytes) -> Result<StreamMessage> {
    const SHORT: Error = Error::ReplicationProtocol { what: "stream message ends early" };
    let [tag] = take(&mut bytes).ok_or(SHORT)?;
    match tag {
        b'w' => {
            let _start: [u8; 8] = take(&mut bytes).ok_or(SHORT)?;
            let wal_end = Lsn::new(u64::from_be_bytes(take(&mut bytes).ok_or(SHORT)?));
            let _sent_at: [u8; 8] = take(&mut bytes).ok_or(SHORT)?;
            Ok(StreamMessage::Output { wal_end, bytes })
        }
        b'k' => {
            let sent = Lsn::new(u64::from_be_bytes(take(&mut bytes).ok_or(SHORT)?));
            let _sent_at: [u8; 8] = take(&mut bytes).ok_or(SHORT)?;
            let [reply] = take(&mut bytes).ok_or(SHORT)?;
            Ok(StreamMessage::Keepalive { sent, reply_wanted: reply != 0 })
        }
        _ => Err(Error::ReplicationProtocol { what: "unknown stream message" }),
    }
}

fn take<const N: usize>(bytes: &mut Bytes) -> Option<[u8; N]> {
    let found = *bytes.first_chunk::<N>()?;
    drop(bytes.split_to(N));
    Some(found)
}

/// Writes a standby status: what arrived, what is flushed, what is applied, and the time.
fn encode_status(received: Lsn, flushed: Lsn, reply_wanted: bool, now: SystemTime) -> BytesMut {
    let mut body = BytesMut::with_capacity(34);
    body.put_u8(b'r');
    body.put_u64(received.raw());
    body.put_u64(flushed.raw());
    body.put_u64(flushed.raw());
    let since_2000 = now
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .saturating_sub(Duration::from_secs(POSTGRES_EPOCH_S));
    body.put_i64(i64::try_from(since_2000.as_micros()).unwrap_or(i64::MAX));
    body.put_u8(u8::from(reply_wanted));
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_has_the_layout_that_postgres_reads() {
        let now = UNIX_EPOCH + Duration::from_secs(POSTGRES_EPOCH_S) + Duration::from_micros(5);
        let body = encode_status(Lsn::new(3), Lsn::new(2), true, now);
        let mut wanted = vec![b'r'];
        for number in [3_u64, 2, 2, 5] {
            wanted.extend_from_slice(&number.to_be_bytes());
        }
        wanted.push(1);
        assert_eq!(body.as_ref(), wanted);
    }

    #[test]
    fn stream_messages_are_read() {
        let mut output = vec![b'w'];
        for number in [1_u64, 9, 0] {
            output.extend_from_slice(&number.to_be_bytes());
        }
        output.extend_from_slice(b"rows");
        assert_eq!(
            decode(Bytes::from(output.clone())).unwrap(),
            StreamMessage::Output { wal_end: Lsn::new(9), bytes: Bytes::from_static(b"rows") }
        );
        let mut keepalive = vec![b'k'];
        keepalive.extend_from_slice(&7_u64.to_be_bytes());
        keepalive.extend_from_slice(&0_u64.to_be_bytes());
        keepalive.push(1);
        assert_eq!(
            decode(Bytes::from(keepalive.clone())).unwrap(),
            StreamMessage::Keepalive { sent: Lsn::new(7), reply_wanted: true }
        );
        for broken in [&output[..24], &keepalive[..17], b"", b"x"] {
            assert!(matches!(decode(Bytes::copy_from_slice(broken)), Err(Error::ReplicationProtocol { .. })));
        }
    }
}
