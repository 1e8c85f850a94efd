//! The end of the process: who asks for it, and how everybody hears of it.
//!
//! The first SIGTERM or SIGINT lets requests finish; a second one ends the process at once, as the signal
//! itself would.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::error::{Error, Result};

/// Asks everybody to end; dropping the last of its clones asks too.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Sender<bool>);

impl Shutdown {
    /// Makes a signal, and the ear that hears it.
    #[must_use]
    pub fn new() -> (Shutdown, watch::Receiver<bool>) {
        let (sender, receiver) = watch::channel(false);
        (Shutdown(sender), receiver)
    }

    /// Asks everybody to end.
    pub fn ask(&self) {
        self.0.send_replace(true);
    }
}

/// Waits until the end is asked for.
pub async fn asked(shutdown: &mut watch::Receiver<bool>) {
    // An error means that nobody is left to ask: the same as being asked.
    let _sender_is_gone = shutdown.wait_for(|asked| *asked).await.is_err();
}

/// Waits for the first SIGTERM or SIGINT; from then on the next one ends the process.
pub async fn signalled() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::Signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Signal)?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        // 128 and the number of SIGINT, as shells report it.
        std::process::exit(130);
    });
    Ok(())
}
