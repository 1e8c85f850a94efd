//! What operators type: each command asks Postgres, the store and the control database itself, so that it works
//! whether or not a hub runs.

mod keys;

use crate::arguments::KeyAction;
use crate::config::Config;
use crate::error::Result;

/// The description of every request.
#[must_use]
pub fn openapi() -> String {
    crate::api::document_text()
}

/// Makes, lists or revokes keys; gives what to print.
pub async fn key(config: &Config, database: &str, action: KeyAction) -> Result<String> {
    keys::run(config, database, action).await
}
