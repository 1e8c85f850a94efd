//! A node that does not lead: it hears of new segments by LISTEN, and asks now and then whether it may lead.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::control::Control;
use super::news::News;
use super::{Ingest, jittered};
use crate::error::Result;

impl Ingest {
    /// Begins to listen. Whatever was told before is looked for in the store.
    pub(super) async fn listen(&self, control: &Control) -> Result<Vec<u8>> {
        let key = control.message_key().await?;
        control.listen().await?;
        self.log.set_told(true);
        Ok(key)
    }

    /// Takes news for about this time.
    pub(super) async fn hear(&self, control: &Control, key: &[u8], time: Duration) {
        let end = Instant::now() + jittered(time);
        while let Ok(heard) = timeout_at(end, control.heard()).await {
            let Some(text) = heard else {
                // The connection is lost, which its next use tells.
                tokio::time::sleep_until(end).await;
                return;
            };
            if let Some(news) = News::verify(key, &text) {
                self.log.hear(news.epoch, &news.segments);
            }
        }
        if control.has_missed_some() {
            self.log.doubt();
        }
    }
}
