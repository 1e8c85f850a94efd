//! On a node that does not lead: reads new segments once for all who wait, and wakes those whom they concern.

use std::sync::Arc;

use tokio::sync::watch;

use super::log::{Log, News};
use super::reader::Reader;
use crate::error::Result;
use crate::shutdown;

/// Looks at what is new before those who wait do.
pub(super) struct Scout {
    pub(super) log: Arc<Log>,
    pub(super) reader: Arc<Reader>,
}

impl Scout {
    /// Looks whenever there is news, until the hub ends.
    pub(super) async fn run(self, mut shutdown: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                () = self.log.news_came() => {}
                () = shutdown::asked(&mut shutdown) => return,
            }
            if self.look().await.is_err() {
                // They look for themselves, and are told what is wrong.
                self.log.wake();
            }
        }
    }

    async fn look(&self) -> Result<()> {
        loop {
            match self.log.next_news() {
                News::Nothing => return Ok(()),
                News::Lost => self.log.wake(),
                News::Segment(epoch, name) => match self.reader.segment(epoch, name).await? {
                    Some(segment) => self.log.pass_segment(epoch, name, &segment),
                    // It was joined with others.
                    None => self.log.wake(),
                },
            }
        }
    }
}
