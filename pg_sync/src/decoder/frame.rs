//! Frames: the messages of one transaction, up to 1 MiB or one message at a time.
//!
//! Layout, big endian: format 1, flags (1 = last frame of the transaction), commit end LSN (8), commit time
//! in microseconds since 2000 (8), top transaction id (4), number of messages (4); per message its LSN (8),
//! its length (4) and its bytes. A message that cannot be read has no bytes, so that whoever reads the frame can
//! count it. A last frame may hold no message.
//!
//! The buffer is made once and never grows: a message that does not fit into it is not held at all.

use crate::error::SyncError;

/// The only layout so far, also the value of the option that asks for it.
pub(super) const FORMAT: u8 = 1;

/// Set on the last frame of a transaction.
const FLAG_LAST: u8 = 1;

/// Where the flags are.
const FLAGS_AT: usize = 1;

/// Where the number of messages is.
const COUNT_AT: usize = 22;

/// Bytes of a frame before its messages.
const HEADER_BYTES: usize = 26;

/// Bytes before each message.
const MESSAGE_HEADER_BYTES: usize = 12;

/// A frame is written before it grows beyond this: see DESIGN section 15.
const FRAME_BYTES_MAX: usize = 1024 * 1024;

/// What is known of a transaction at its begin.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Transaction {
    pub(super) end_lsn: u64,
    pub(super) commit_time: i64,
    pub(super) xid: u32,
}

/// The messages of a transaction that cannot be read.
#[derive(Clone, Debug)]
pub(super) struct Skipped {
    /// How many there were.
    pub(super) count: u32,
    /// Where the first one lies, and what is wrong with it.
    pub(super) first_lsn: u64,
    pub(super) first_reason: String,
}

/// The frame that is being filled.
#[derive(Debug)]
pub(super) struct Frame {
    bytes: Vec<u8>,
    count: u32,
    /// A frame of this transaction was written, so that its last one must be.
    is_begun: bool,
    skipped: Option<Skipped>,
    transaction: Transaction,
}

impl Frame {
    /// Makes the buffer. Without memory for it this is an error; later none can happen.
    pub(super) fn new() -> Result<Self, SyncError> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(FRAME_BYTES_MAX).map_err(|_none| SyncError::FrameMemory(FRAME_BYTES_MAX))?;
        Ok(Self { bytes, count: 0, is_begun: false, skipped: None, transaction: Transaction::default() })
    }

    /// Starts a transaction, whatever became of the one before.
    pub(super) fn begin(&mut self, transaction: Transaction) {
        self.is_begun = false;
        self.skipped = None;
        self.transaction = transaction;
        self.clear();
    }

    fn clear(&mut self) {
        self.count = 0;
        self.bytes.clear();
        self.bytes.extend_from_slice(&[FORMAT, 0]);
        self.bytes.extend_from_slice(&self.transaction.end_lsn.to_be_bytes());
        self.bytes.extend_from_slice(&self.transaction.commit_time.to_be_bytes());
        self.bytes.extend_from_slice(&self.transaction.xid.to_be_bytes());
        self.bytes.extend_from_slice(&0_u32.to_be_bytes());
        debug_assert_eq!(self.bytes.len(), HEADER_BYTES);
    }

    /// Whether a message of this length has room beside those that are held.
    pub(super) fn fits(&self, length: usize) -> bool {
        let used = self.bytes.len().saturating_add(MESSAGE_HEADER_BYTES);
        FRAME_BYTES_MAX.checked_sub(used).is_some_and(|free| length <= free)
    }

    /// Whether messages are held.
    pub(super) const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds a message; the caller has asked whether it fits.
    pub(super) fn add(&mut self, lsn: u64, length: u32, message: &[u8]) {
        self.head(lsn, length);
        self.bytes.extend_from_slice(message);
    }

    /// Adds what stands before a message that follows the frame by itself.
    pub(super) fn head(&mut self, lsn: u64, length: u32) {
        self.bytes.extend_from_slice(&lsn.to_be_bytes());
        self.bytes.extend_from_slice(&length.to_be_bytes());
        self.count = self.count.saturating_add(1);
    }

    /// Counts a message that cannot be read; the caller adds it without its bytes.
    pub(super) fn skip(&mut self, lsn: u64, reason: String) {
        let first = || Skipped { count: 0, first_lsn: lsn, first_reason: reason };
        let skipped = self.skipped.get_or_insert_with(first);
        skipped.count = skipped.count.saturating_add(1);
    }

    /// Whether the transaction needs a last frame.
    pub(super) const fn has_end(&self) -> bool {
        self.is_begun || self.count > 0
    }

    /// What could not be read of the transaction.
    pub(super) const fn take_skipped(&mut self) -> Option<Skipped> {
        self.skipped.take()
    }

    /// Lends the finished frame to `write` and starts the next one.
    pub(super) fn hand_over(&mut self, is_last: bool, write: impl FnOnce(&[u8])) {
        if let Some(flags) = self.bytes.get_mut(FLAGS_AT) {
            *flags = if is_last { FLAG_LAST } else { 0 };
        }
        if let Some(count) = self.bytes.get_mut(COUNT_AT..HEADER_BYTES) {
            count.copy_from_slice(&self.count.to_be_bytes());
        }
        write(&self.bytes);
        self.is_begun = true;
        self.clear();
    }
}
