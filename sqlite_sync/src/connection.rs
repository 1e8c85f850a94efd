//! What one connection remembers between calls: whether apply is writing, and where the server is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub(crate) use crate::entrypoint::foreign_keys_open;

/// Whether apply is writing on a connection; read by `cloudsync_is_sync` in users' triggers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Applying(Arc<AtomicBool>);

impl Applying {
    /// Says that apply writes until the result is dropped.
    pub(crate) fn begin(&self) -> Writing {
        self.0.store(true, Ordering::Relaxed);
        Writing(self.clone())
    }

    pub(crate) fn is_writing(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Apply is writing while this lives.
pub(crate) struct Writing(Applying);

impl Drop for Writing {
    fn drop(&mut self) {
        self.0.0.store(false, Ordering::Relaxed);
    }
}
