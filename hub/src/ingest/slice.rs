//! Slices of work, so that a database with much to decode gives way to others.
//!
//! The runtime takes its tasks in turn, but cannot take the processor from one: whoever works on gives it back by
//! itself, after as much as DESIGN section 10 allows.

/// Bytes of messages after which others have their turn.
const SLICE_BYTES: usize = 256 * 1024;

/// What was done since others had their turn.
#[derive(Debug, Default)]
pub(super) struct Slice(usize);

impl Slice {
    /// Notes what was worked on; says whether it is the turn of others.
    pub(super) fn is_over(&mut self, bytes: usize) -> bool {
        self.0 = self.0.saturating_add(bytes);
        let over = self.0 >= SLICE_BYTES;
        if over {
            self.0 = 0;
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_have_their_turn_after_each_slice_however_large_the_messages_are() {
        for (bytes, turns) in [(1_024, 4), (SLICE_BYTES / 2, 512), (SLICE_BYTES, 1_024), (usize::MAX, 1_024)]
        {
            let mut slice = Slice::default();
            assert_eq!((0..1_024).filter(|_| slice.is_over(bytes)).count(), turns, "{bytes}");
        }
    }
}
