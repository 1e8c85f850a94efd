//! Frames: the messages of one transaction, up to 1 MiB or one message at a time.
//!
//! Layout, big endian: format 1, flags (1 = last frame of the transaction), commit end LSN (8), commit time
//! in microseconds since 2000 (8), top transaction id (4), number of messages (4); per message its LSN (8),
//! its length (4) and its bytes.

/// The only layout so far.
const FORMAT: u8 = 1;

/// Set on the last frame of a transaction.
const FLAG_LAST: u8 = 1;

/// Where the flags are.
const FLAGS_AT: usize = 1;

/// Where the number of messages is.
const COUNT_AT: usize = 22;

/// Bytes of a frame before its messages.
const HEADER_BYTES: usize = 26;

/// A frame is written before it grows beyond this: see DESIGN section 15.
const FRAME_BYTES_MAX: usize = 1024 * 1024;

/// What is known of a transaction at its begin.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Transaction {
    pub(super) end_lsn: u64,
    pub(super) commit_time: i64,
    pub(super) xid: u32,
}

/// The frame that is being filled.
#[derive(Debug, Default)]
pub(super) struct Frame {
    bytes: Vec<u8>,
    count: u32,
    transaction: Transaction,
}

impl Frame {
    /// Starts a transaction.
    pub(super) fn begin(&mut self, transaction: Transaction) {
        self.bytes.clear();
        self.count = 0;
        self.transaction = transaction;
    }

    /// Adds a message. Returns the frame before it, if this one would not fit, or nothing when the message
    /// is too long to be told its length: then it is left out.
    pub(super) fn add(&mut self, lsn: u64, message: &[u8]) -> Result<Option<Vec<u8>>, usize> {
        let Ok(length) = u32::try_from(message.len()) else { return Err(message.len()) };
        let full = self.count > 0 && self.bytes.len().saturating_add(message.len()) > FRAME_BYTES_MAX;
        let before = full.then(|| self.take(false));
        if self.bytes.is_empty() {
            self.bytes.push(FORMAT);
            self.bytes.push(0);
            self.bytes.extend_from_slice(&self.transaction.end_lsn.to_be_bytes());
            self.bytes.extend_from_slice(&self.transaction.commit_time.to_be_bytes());
            self.bytes.extend_from_slice(&self.transaction.xid.to_be_bytes());
            self.bytes.extend_from_slice(&0_u32.to_be_bytes());
            debug_assert_eq!(self.bytes.len(), HEADER_BYTES);
        }
        self.bytes.extend_from_slice(&lsn.to_be_bytes());
        self.bytes.extend_from_slice(&length.to_be_bytes());
        self.bytes.extend_from_slice(message);
        self.count = self.count.saturating_add(1);
        Ok(before)
    }

    /// Ends the transaction: its last frame, or nothing if it had no messages.
    pub(super) fn end(&mut self) -> Option<Vec<u8>> {
        (self.count > 0).then(|| self.take(true))
    }

    fn take(&mut self, is_last: bool) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.bytes);
        if let Some(flags) = bytes.get_mut(FLAGS_AT) {
            *flags = if is_last { FLAG_LAST } else { 0 };
        }
        if let Some(count) = bytes.get_mut(COUNT_AT..HEADER_BYTES) {
            count.copy_from_slice(&self.count.to_be_bytes());
        }
        self.count = 0;
        bytes
    }
}
